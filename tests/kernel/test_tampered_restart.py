# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tampering while no broker runs, and what the next one makes of it."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from lab import USER, Daemon, Lab, until
from support import tampering
from support.guarded import (
    CHANGES,
    change,
    device,
    gets_through,
    is_home,
    is_quarantined,
    listed,
    logged,
    shut,
)
from support.host import attach, leftovers, link, links, nics, until_nothing_is_left
from support.tampering import as_user, set_carrier, set_mac
from tapster import errors

LOW = "00:00:00:00:00:01"
# What a broker that was killed may have left so itself: it is put right at the
# start, and laid on nobody.
UNFINISHED = (
    "bridge link set dev TAP learning on",
    "bridge link set dev TAP isolated on",
)


@pytest.fixture(scope="module", autouse=True)
def prepared(lab: Lab) -> None:
    lab.bridge_conf("allow br7\n")
    lab.config("[broker]\nnetwork_grace_seconds = 0.2\n")
    lab.host.run(
        "sh", "-ec",
        "ip link add br7 type bridge; ip link set br7 up;"
        "ip link add br8 type bridge; ip link set br8 up",
    )  # fmt: skip


@pytest.fixture
def daemons(lab: Lab, prepared: None) -> Iterator[list[Daemon]]:
    """The brokers of one test, of which the last runs."""
    running = [lab.daemon("--config", "/run/config")]
    try:
        yield running
        until_nothing_is_left(lab)
        assert running[-1].stop() == 0, running[-1].log
        assert leftovers(lab) == [], running[-1].log
        for each in running:
            assert "Traceback" not in each.log, each.log
    finally:
        for each in running:
            if each.process.poll() is None:
                each.stop(signal.SIGKILL)


def again(lab: Lab, daemons: list[Daemon]) -> Daemon:
    daemons.append(lab.daemon("--config", "/run/config"))
    return daemons[-1]


def test_quarantine_outlives_a_broker(lab: Lab, daemons: list[Daemon]) -> None:
    with attach(lab, USER, bridge="br7", name="bad", vnet_hdr=False) as bad:
        as_user(USER, lambda: set_mac(bad.fd, LOW))
        until("quarantine", lambda: is_quarantined(lab, bad))
        before = listed(lab, bad)
        daemons[-1].stop(signal.SIGKILL)
        lab.host.run("ip", "link", "set", bad.ifname, "up", "master", "br7")
        again(lab, daemons)
        assert listed(lab, bad) == before
        shut(lab, bad)
        with pytest.raises(errors.MacInUse):
            attach(lab, USER, bridge="br7", mac=bad.mac)
    until_nothing_is_left(lab)


@pytest.mark.parametrize(
    "act",
    ["mac", "persist", "victim", "carrier"],
)
@pytest.mark.parametrize("where", [{}, {"bridge": "br7"}], ids=["nat", "bridge"])
def test_tampering_while_no_broker_ran_ends_as_the_policy_says(
    lab: Lab, daemons: list[Daemon], where: dict[str, str], act: str
) -> None:
    with (
        attach(lab, USER, vnet_hdr=False, **where) as thief,
        attach(lab, USER, vnet_hdr=False, **where) as victim,
        attach(lab, USER, vnet_hdr=False, **where) as sender,
    ):
        daemons[-1].stop(signal.SIGKILL)
        own = link(lab.host, thief.ifname)["address"]

        def tamper() -> None:
            if act == "mac":
                set_mac(thief.fd, LOW)
            elif act == "persist":
                tampering.persist(thief.fd)
            elif act == "carrier":
                set_carrier(thief.fd, False)
            else:
                set_mac(thief.fd, str(victim.mac))
                set_mac(thief.fd, own)

        as_user(USER, tamper)
        daemon = again(lab, daemons)
        assert is_home(lab, victim)
        assert gets_through(sender, victim)
        if act in ("mac", "persist"):
            shut(lab, thief)
            assert len(logged(daemon, "quarantined", thief)) == 1
        elif act == "victim":  # by whom is not to be known any more
            assert len(logged(daemon, "tampered", victim)) == 1
        else:
            assert logged(daemon, "tampered", thief) == []
    until_nothing_is_left(lab)


@pytest.mark.parametrize("hidden", [False, True], ids=["", "without-carrier"])
def test_a_persistent_tap_left_while_no_broker_ran_is_removed(
    lab: Lab, daemons: list[Daemon], hidden: bool
) -> None:
    nic = attach(lab, USER, vnet_hdr=False)
    daemons[-1].stop(signal.SIGKILL)

    def act() -> None:
        if hidden:
            set_carrier(nic.fd, False)
        tampering.persist(nic.fd)

    as_user(USER, act)
    nic.close()
    assert nic.ifname in links(lab.host, "tapster")
    again(lab, daemons)
    until_nothing_is_left(lab)


@pytest.mark.parametrize("command", CHANGES)
def test_changes_by_other_tools_while_no_broker_ran(
    lab: Lab, daemons: list[Daemon], command: str
) -> None:
    with (
        attach(lab, USER, vnet_hdr=False) as nic,
        attach(lab, USER, vnet_hdr=False) as other,
    ):
        before = device(lab, nic)
        daemons[-1].stop(signal.SIGKILL)
        change(lab, nic, command.replace("MAC", str(nic.mac)))
        daemon = again(lab, daemons)
        until("what it was", lambda: nic.ifname in links(lab.host, "tapster")
              and device(lab, nic) == before)  # fmt: skip
        assert [n["ifname"] for n in nics(lab) if n["state"] == "active"] == [
            n.ifname for n in sorted((nic, other), key=lambda n: n.ifname)
        ]
        told = [event["reason"] for event in logged(daemon, "tampered", nic)]
        if command in UNFINISHED:
            assert told == []
        else:
            assert CHANGES[command] in told[0]
        assert len(told) <= 2  # a name is put back before all else is looked at
        assert gets_through(other, nic) and gets_through(nic, other)
    until_nothing_is_left(lab)
