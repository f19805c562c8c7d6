# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest whose MAC nobody told: the port opens for its first one, once.

Shows daemon/watch/first_mac.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from lab import OTHER, USER, Daemon, Lab, until
from support import frames
from support.frames import HERE, Station, Tap, arrives
from support.host import (
    RUNTIME,
    Watcher,
    attach,
    broker,
    chains,
    elements,
    fdb,
    files,
    inside,
    link,
    nics,
    port,
    until_nothing_is_left,
)
from support.serving import serving

FIRST, SECOND = "52:54:00:12:34:56", "52:54:00:12:34:57"
WITHOUT_MAB = """
from tapster.kernel import rtnetlink
_set_port = rtnetlink.set_port
def set_port(index, what, **settings):
    settings.pop("mab", None)
    return _set_port(index, what, **settings)
rtnetlink.set_port = set_port
"""


@pytest.fixture(scope="module", params=["mab", "without mab"])
def daemon(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Daemon]:
    lab.config("[broker]\nnetwork_grace_seconds = 0.2\n")
    lab.bridge_conf("allow br0\n")
    lab.host.run(
        "sh", "-ec",
        f"""
        ip link add br0 type bridge mcast_snooping 0; ip link set br0 up
        ip link add lan0 type veth peer name lan0 netns {lab.world.pid}
        ip link set lan0 master br0 up
        """,
    )  # fmt: skip
    lab.world.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/lan0/disable_ipv6")
    lab.world.run("ip", "link", "set", "lan0", "up")
    script = "" if request.param == "mab" else WITHOUT_MAB
    with serving(lab, script=script) as running:
        yield running
    for name in ("lan0", "br0"):
        lab.host.run("ip", "link", "del", name)


@pytest.fixture
def has_mab(request: pytest.FixtureRequest) -> bool:
    return bool(request.node.callspec.params["daemon"] == "mab")


@pytest.fixture(autouse=True)
def clean_after(lab: Lab, daemon: Daemon) -> Iterator[None]:
    yield
    until_nothing_is_left(lab)
    assert nics(lab) == []


class Waiting(NamedTuple):
    """A tap as QEMU's helper gets it."""

    nic: dict[str, Any]
    fd: int

    @property
    def tap(self) -> Tap:
        return Tap(self.fd, FIRST)

    @property
    def ifname(self) -> str:
        return str(self.nic["ifname"])


class Held:
    """All taps of one test."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._fds: list[int] = []

    def __call__(self, uid: int = USER, /, **what: Any) -> Waiting:
        with broker(self._lab, uid) as wire:
            reply, fds = wire.call(
                "Attach", {"for_parent": True, "vnet_hdr": False, **what}, fds=True
            )
        self._fds += fds
        return Waiting(reply["nic"], fds[0])

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)


@pytest.fixture
def waiting(lab: Lab, daemon: Daemon) -> Iterator[Held]:
    held = Held(lab)
    yield held
    held.close()


@pytest.fixture
def station(lab: Lab, daemon: Daemon) -> Iterator[Station]:
    with Station(lab.world, "lan0") as made:
        yield made


WHERE = pytest.mark.parametrize("bridge", ["br1234", "br0"], ids=["nat", "bridge"])


def on(bridge: str) -> dict[str, str]:
    """br0 is a Linux bridge here; the default network has another name."""
    return {"bridge": "br0"} if bridge == "br0" else {"network": "default"}


def hello(mac: str) -> bytes:
    """The first a guest says: DHCPDISCOVER."""
    packet = frames.ipv4(
        "0.0.0.0", "255.255.255.255", 17, frames.udp(68, 67, frames.dhcp(mac))
    )
    return frames.ethernet(mac, frames.BROADCAST, frames.IPV4, packet)


def state(lab: Lab, nic: Waiting) -> dict[str, Any]:
    (found,) = [n for n in nics(lab) if n["ifname"] == nic.ifname]
    return found


@WHERE
def test_port_waits_then_opens_for_the_first_mac(
    lab: Lab, waiting: Held, bridge: str, has_mab: bool
) -> None:
    with Watcher(lab, USER) as watcher:
        nic = waiting(**on(bridge))
        assert (nic.nic["state"], nic.nic["mac"]) == ("waiting", None)
        settings = port(lab.host, nic.ifname)
        assert settings["locked"] is True and settings["flood"] is False
        assert settings["learning"] is has_mab
        assert chains(lab.host)[nic.ifname] == "waiting"
        nic.tap.send(hello(FIRST))
        event = watcher.wait("active")
        assert (event["ifname"], event["mac"]) == (nic.ifname, FIRST)
    told = state(lab, nic)
    assert (told["state"], told["mac"], told["reason"]) == ("active", FIRST, None)
    settings = port(lab.host, nic.ifname)
    assert settings["locked"] is True and settings["learning"] is False
    (entry,) = [e for e in fdb(lab.host, nic.ifname) if e["mac"] == FIRST]
    assert entry["state"] == "static" and "sticky" in entry["flags"]
    found = elements(lab.host)
    assert "first" not in found
    assert chains(lab.host)[nic.ifname] == ("lan" if bridge == "br0" else "nat")
    if bridge != "br0":
        assert told["ipv4"] and told["ipv6"]
        (name,) = [n for n in files(lab, "networks") if "/dhcp/" in n]
        with open(inside(lab, f"{RUNTIME}/networks/{name}")) as file:
            assert file.read().startswith(f"{FIRST},{told['ipv4']}")
        assert found["guests"] == [{"concat": [nic.ifname, told["ipv4"]]}]
        assert nic.ifname in str(found["macs"])


def test_nothing_is_forwarded_before_and_all_is_after(
    lab: Lab, waiting: Held, station: Station
) -> None:
    nic = waiting(bridge="br0")
    with attach(lab, OTHER, bridge="br0", vnet_hdr=False) as other:
        known = hello(str(other.mac))
        sender = Tap(other.fd, str(other.mac))
        # Both taps are written to by one thread, and what comes out at the
        # station comes in that order.
        with frames.one_processor():
            nic.tap.send(hello(FIRST).replace(HERE, b"the very first.."))
            sender.send(known.replace(HERE, b"known to pass..."))
            for seen in station.frames():
                assert b"the very first.." not in seen
                if b"known to pass..." in seen:
                    break
        until("admission", lambda: state(lab, nic)["state"] == "active")
        assert arrives(hello(FIRST), nic.tap, station, hello(FIRST))
        assert not arrives(hello(SECOND), nic.tap, station, hello(FIRST))


@WHERE
def test_mac_of_another_guest_is_refused(lab: Lab, waiting: Held, bridge: str) -> None:
    with (
        attach(lab, USER, mac=FIRST, vnet_hdr=False, **on(bridge)) as other,
        Watcher(lab, USER) as watcher,
    ):
        nic = waiting(**on(bridge))
        nic.tap.send(hello(FIRST))
        event = watcher.wait("refused")
        assert FIRST in event["reason"] and "another guest" in event["reason"]
        told = state(lab, nic)
        assert told["state"] == "refused" and told["reason"] == event["reason"]
        # The one whose MAC it is goes on, and the other cannot try again.
        (entry,) = [e for e in fdb(lab.host, other.ifname) if e["mac"] == FIRST]
        assert "sticky" in entry["flags"]
        nic.tap.send(hello(SECOND))
        known = hello(FIRST)
        with Station(lab.host, other.bridge) as host:
            assert arrives(known, Tap(other.fd, FIRST), host, known)
        assert state(lab, nic)["state"] == "refused"
        assert "first" not in elements(lab.host)


def test_mac_of_the_bridge_is_refused(lab: Lab, waiting: Held) -> None:
    with Watcher(lab, USER) as watcher:
        nic = waiting(bridge="br0")
        nic.tap.send(hello(link(lab.host, "br0")["address"]))
        assert "another station" in watcher.wait("refused")["reason"]
    assert state(lab, nic)["state"] == "refused"


def test_mac_of_another_station_is_refused(
    lab: Lab, waiting: Held, station: Station
) -> None:
    """Which the bridge has learned; and the station keeps its traffic."""
    with attach(lab, OTHER, bridge="br0", vnet_hdr=False) as other:
        listener = Tap(other.fd, str(other.mac))
        assert arrives(hello(station.mac), station, listener, hello(station.mac))
        with Watcher(lab, USER) as watcher:
            nic = waiting(bridge="br0")
            nic.tap.send(hello(station.mac))
            assert "another station" in watcher.wait("refused")["reason"]
        answer = frames.arp(
            str(other.mac), str(other.mac), "192.0.2.9", "192.0.2.1", dst=station.mac
        )
        assert arrives(answer, listener, station, hello(str(other.mac)))
        (entry,) = [e for e in fdb(lab.host, "lan0") if e["mac"] == station.mac]
        assert entry["master"] == "br0"


def test_sprayed_macs_are_one(lab: Lab, waiting: Held, station: Station) -> None:
    nic = waiting(bridge="br0")
    for number in range(500):
        nic.tap.send(hello(f"52:54:00:00:{number >> 8:02x}:{number & 255:02x}"))
    until("a decision", lambda: state(lab, nic)["state"] != "waiting")
    told = state(lab, nic)
    assert told["state"] == "active"
    # Entries that MAB made before it was off vanish with the port's decision
    # or, locked, forward nothing.
    mine = str(told["mac"])
    others = [f"52:54:00:00:01:{n:02x}" for n in range(0, 240, 40)]
    for mac in others:
        if mac != mine:
            assert not arrives(hello(mac), nic.tap, station, hello(mine)), mac
    unlocked = [
        e["mac"] for e in fdb(lab.host, nic.ifname)
        if e["mac"].startswith("52:54") and e.get("state") == "static"
    ]  # fmt: skip
    assert unlocked == [mine]


def test_multicast_and_null_source_are_no_macs(lab: Lab, waiting: Held) -> None:
    nic = waiting(bridge="br0")
    for mac in ("01:00:5e:00:00:01", frames.BROADCAST, "00:00:00:00:00:00"):
        nic.tap.send(hello(mac))
    nic.tap.send(hello(FIRST))
    until("a decision", lambda: state(lab, nic)["state"] != "waiting")
    told = state(lab, nic)
    assert (told["state"], told["mac"]) in (("active", FIRST), ("refused", None))


@WHERE
def test_waiting_port_that_goes_leaves_nothing(
    lab: Lab, daemon: Daemon, bridge: str
) -> None:
    held = Held(lab)
    for shown in (False, True):
        nic = held(**on(bridge))
        if shown:
            nic.tap.send(hello(FIRST))
    held.close()
    until_nothing_is_left(lab)
