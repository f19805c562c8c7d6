# SPDX-License-Identifier: LGPL-2.1-or-later
"""A host whose taps are tampered with, as tests look at it."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lab import Daemon, Lab, until
from support import frames
from support.frames import BROADCAST, Tap, arrives
from support.host import elements, link, nics, port, tool
from tapster.client import attach as client


@contextmanager
def stopped(daemon: Daemon) -> Iterator[None]:
    """The broker does not run for a while; what it is told, it finds later."""
    daemon.process.send_signal(signal.SIGSTOP)
    state = Path(f"/proc/{daemon.process.pid}/stat")
    until("its stop", lambda: state.read_text().rpartition(")")[2].split()[0] == "T")
    try:
        yield
    finally:
        daemon.process.send_signal(signal.SIGCONT)


def known_to(lab: Lab, bridge: str) -> list[dict[str, Any]]:
    """A bridge's forwarding entries."""
    found: list[dict[str, Any]] = tool(
        lab.host, "bridge", "-j", "-d", "fdb", "show", "br", bridge
    )
    return found


def listed(lab: Lab, nic: client.Nic) -> dict[str, Any] | None:
    return next((n for n in nics(lab) if n["ifname"] == nic.ifname), None)


def is_quarantined(lab: Lab, nic: client.Nic) -> bool:
    entry = listed(lab, nic)
    return entry is not None and entry["state"] == "quarantined"


def shut(lab: Lab, nic: client.Nic) -> None:
    """See that a NIC is in quarantine, wholly."""
    until("quarantine", lambda: is_quarantined(lab, nic))
    entry = listed(lab, nic)
    assert entry is not None and entry["reason"]
    device = link(lab.host, nic.ifname)
    assert "master" not in device and "UP" not in device["flags"]
    assert not any(nic.ifname in json.dumps(inner) for inner in
                   elements(lab.host).values())  # fmt: skip
    assert nic.mac not in [e["mac"] for e in known_to(lab, nic.bridge)]


def logged(daemon: Daemon, kind: str, nic: client.Nic) -> list[dict[str, Any]]:
    """The records of one event about a NIC in the broker's log."""
    lines = [json.loads(t) for t in daemon.log.splitlines() if t.startswith("{")]
    return [e for e in lines if e["event"] == kind and e["ifname"] == nic.ifname]


def to(nic: client.Nic, sender: client.Nic, dst: str | None = None) -> bytes:
    """A frame that a guest may send to another, or to all."""
    return frames.arp(str(sender.mac), str(sender.mac), str(sender.ipv4 or "10.9.9.9"),
                      str(nic.ipv4 or "10.9.9.8"), dst=dst or str(nic.mac))  # fmt: skip


def gets_through(sender: client.Nic, nic: client.Nic) -> bool:
    """Whether what is sent to a guest comes to it."""
    return arrives(
        to(nic, sender),
        Tap(sender.fd, str(sender.mac)),
        Tap(nic.fd, str(nic.mac)),
        to(nic, sender, BROADCAST),
    )


def is_home(lab: Lab, nic: client.Nic) -> bool:
    """Whether a guest's MAC leads to its port, for good."""
    entries = [e for e in known_to(lab, nic.bridge) if e["mac"] == nic.mac]
    return [(e["ifname"], e["state"]) for e in entries] == [(nic.ifname, "static")]


def change(lab: Lab, nic: client.Nic, command: str) -> None:
    lab.host.run("sh", "-ec", command.replace("TAP", nic.ifname))


CHANGES = {
    "ip link set TAP mtu 1400": "MTU 1500 -> 1400",
    "ip link set TAP down": "up yes -> no",
    "ip link set TAP promisc on": "promisc no -> yes",
    "ip link set TAP allmulticast on": "allmulti no -> yes",
    "ip link set TAP arp off": "noarp no -> yes",
    "ip link set TAP alias nobody": "alias tapster nic",
    "ip link set TAP name other0": "-> other0",
    "ip link set TAP down; ip link set TAP name tapsterother": "-> tapsterother",
    "ip link set TAP nomaster": "-> none",
    "ip link set TAP master br8": "bridge ",
    "bridge link set dev TAP locked off": "locked 1 -> 0",
    "bridge link set dev TAP learning on": "learning 0 -> 1",
    "bridge link set dev TAP flood on": "flood 0 -> 1",
    "bridge link set dev TAP isolated on": "isolated 0 -> 1",
    "bridge link set dev TAP guard off": "guard 1 -> 0",
    "bridge link set dev TAP root_block off": "protect 1 -> 0",
    "echo 0 > /sys/class/net/TAP/brport/group_fwd_mask": "group_fwd_mask",
    "bridge fdb del MAC dev TAP master": "forwarding entry of",
    "ip link set TAP nomaster; ip link set TAP down mtu 1300": "MTU 1500 -> 1300",
}


def device(lab: Lab, nic: client.Nic) -> tuple[Any, ...]:
    """All of a tap that is ours to decide, as other tools tell it."""
    wanted = ("ifname", "flags", "mtu", "master", "address", "ifalias", "altnames")
    found = link(lab.host, nic.ifname)
    settings = port(lab.host, nic.ifname)
    settings = {k: v for k, v in settings.items() if k not in ("flags", "state")}
    entries = [e for e in known_to(lab, nic.bridge) if e["ifname"] == nic.ifname]
    return (
        [found.get(key) for key in wanted],
        found["linkinfo"]["info_slave_data"]["group_fwd_mask"],
        settings,
        sorted((e["mac"], e["state"]) for e in entries if e["mac"] == nic.mac),
    )
