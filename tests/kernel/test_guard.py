# SPDX-License-Identifier: LGPL-2.1-or-later
"""What holders do to their taps, and others to anybody's, comes to nothing.

Each attack is done by a user without privilege who holds the tap's descriptor.
Where there is something to see on the wire, it is seen first that the attack
works while the broker is stopped (SIGSTOP), and then that it does not.

Shows daemon/watch.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from lab import OTHER, USER, Daemon, Lab, until
from support import frames, tampering
from support.frames import BROADCAST, PLAIN, Station, Tap, arrives, ethernet
from support.guarded import (
    gets_through,
    is_home,
    listed,
    logged,
    shut,
    stopped,
)
from support.host import (
    Watcher,
    attach,
    fdb,
    in_network,
    link,
    links,
    until_nothing_is_left,
)
from support.serving import serving, stop_well
from support.tampering import as_user, set_carrier, set_mac, set_number
from tapster.client import attach as client

POLICIES = ("quarantine", "restore", "detach")
WHERE = pytest.mark.parametrize("where", [{}, {"bridge": "br7"}], ids=["nat", "bridge"])


@pytest.fixture(scope="module", autouse=True)
def prepared(lab: Lab) -> None:
    lab.bridge_conf("allow br7\n")
    lab.host.run(
        "sh", "-ec",
        "ip link add br7 type bridge; ip link set br7 up;"
        "ip link add br8 type bridge; ip link set br8 up;"
        "ip link add sw0 type veth peer name st0;"
        "ip link set sw0 master br7 up; ip link set st0 up",
    )  # fmt: skip


def configure(lab: Lab, policy: str) -> None:
    lab.config(
        f'[guard]\non_tamper = "{policy}"\n[broker]\nnetwork_grace_seconds = 0.2\n'
    )


@pytest.fixture(scope="module", params=POLICIES)
def policy(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def daemon(lab: Lab, prepared: None, policy: str) -> Iterator[Daemon]:
    """One broker for each policy."""
    configure(lab, policy)
    with serving(lab) as running:
        yield running
        until_nothing_is_left(lab)


def finish(lab: Lab, running: Daemon) -> None:
    until_nothing_is_left(lab)
    stop_well(lab, running)


@pytest.fixture
def watcher(lab: Lab, daemon: Daemon) -> Iterator[Watcher]:
    with Watcher(lab, USER) as watching:
        yield watching
    until_nothing_is_left(lab)


def came_to(lab: Lab, policy: str, nic: client.Nic, event: dict[str, Any]) -> None:
    """See that what the policy says has become of a NIC, and that it was told."""
    assert (event["uid"], event["pid"]) == (USER, os.getpid())
    assert event["owner"] == USER and event["ifname"] == nic.ifname
    assert event["outcome"] == "denied"
    if policy == "restore":
        entry = listed(lab, nic)
        assert entry is not None and entry["state"] == "active"
        device = link(lab.host, nic.ifname)
        assert device["master"] == nic.bridge and "UP" in device["flags"]
    elif policy == "detach":
        until("its end", lambda: nic.ifname not in links(lab.host, "tapster"))
        assert listed(lab, nic) is None
    else:
        shut(lab, nic)


class TestStolenMac:
    @WHERE
    def test_the_mac_of_another_guest_is_given_back(
        self, lab: Lab, daemon: Daemon, policy: str, watcher: Watcher,
        where: dict[str, str],
    ) -> None:  # fmt: skip
        """It would have the victim hear nothing any more."""
        with (
            attach(lab, USER, vnet_hdr=False, **where) as thief,
            attach(lab, USER, vnet_hdr=False, **where) as victim,
            attach(lab, USER, vnet_hdr=False, **where) as sender,
        ):
            assert gets_through(sender, victim)
            with stopped(daemon):
                as_user(USER, lambda: set_mac(thief.fd, str(victim.mac)))
                assert not gets_through(sender, victim)
                assert not is_home(lab, victim)
            event = watcher.wait("tampered", ifname=thief.ifname)
            until("its entry", lambda: is_home(lab, victim))
            assert gets_through(sender, victim)
            assert f"-> {victim.mac}" in event["reason"]
            came_to(lab, policy, thief, event)
            assert logged(daemon, "tampered", thief)
            # Nobody else is thought to have done anything.
            assert logged(daemon, "tampered", victim) == []
            # And again, with the broker at work.
            with attach(lab, USER, vnet_hdr=False, **where) as second:
                as_user(USER, lambda: set_mac(second.fd, str(victim.mac)))
                came_to(lab, policy, second,
                        watcher.wait("tampered", ifname=second.ifname))  # fmt: skip
                until("its entry", lambda: is_home(lab, victim))
                assert gets_through(sender, victim)

    def test_the_mac_of_another_guest_taken_for_a_moment_is_told(
        self, lab: Lab, daemon: Daemon, policy: str, watcher: Watcher
    ) -> None:
        """Back at once, the thief's MAC looks as if nothing had been; but the
        victim's entry is gone."""
        with (
            attach(lab, USER, vnet_hdr=False) as thief,
            attach(lab, USER, vnet_hdr=False) as victim,
            attach(lab, USER, vnet_hdr=False) as sender,
        ):
            own = link(lab.host, thief.ifname)["address"]

            def act() -> None:
                set_mac(thief.fd, str(victim.mac))
                set_mac(thief.fd, own)

            with stopped(daemon):
                as_user(USER, act)
                assert not is_home(lab, victim)
            event = watcher.wait("tampered", ifname=thief.ifname)
            until("its entry", lambda: is_home(lab, victim))
            assert gets_through(sender, victim)
            came_to(lab, policy, thief, event)

    def test_the_mac_of_its_own_guest_is_given_back(
        self, lab: Lab, daemon: Daemon, policy: str, watcher: Watcher
    ) -> None:
        with (
            attach(lab, USER, vnet_hdr=False) as nic,
            attach(lab, USER, vnet_hdr=False) as sender,
        ):
            as_user(USER, lambda: set_mac(nic.fd, str(nic.mac)))
            came_to(lab, policy, nic, watcher.wait("tampered", ifname=nic.ifname))
            if policy == "restore":
                until("its entry", lambda: is_home(lab, nic))
                assert gets_through(sender, nic)

    def test_the_mac_of_the_lans_gateway_is_given_back(
        self, lab: Lab, daemon: Daemon, policy: str, watcher: Watcher
    ) -> None:
        """It would have what guests send outside end at the host."""
        with (
            attach(lab, USER, bridge="br7", vnet_hdr=False) as thief,
            attach(lab, USER, bridge="br7", vnet_hdr=False) as sender,
            Station(lab.host, "st0") as gateway,
        ):
            guest = Tap(sender.fd, str(sender.mac))
            gateway.send(ethernet(gateway.mac, BROADCAST, PLAIN, b""))

            def reached() -> bool:
                source = str(sender.mac)
                known_good = frames.arp(source, source, "10.9.9.9", "10.9.9.8")
                frame = frames.arp(source, source, "10.9.9.9", "10.9.9.8",
                                   dst=gateway.mac)  # fmt: skip
                return arrives(frame, guest, gateway, known_good)

            assert reached()
            with stopped(daemon):
                as_user(USER, lambda: set_mac(thief.fd, gateway.mac))
                assert not reached()
            came_to(lab, policy, thief, watcher.wait("tampered", ifname=thief.ifname))
            assert reached()

    def test_the_entry_of_a_station_that_the_administrator_made_comes_back(
        self, lab: Lab, daemon: Daemon, policy: str, watcher: Watcher
    ) -> None:
        mac = "02:00:00:00:77:77"
        lab.host.run("bridge", "fdb", "add", mac, "dev", "sw0", "master", "static")
        try:
            with attach(lab, USER, bridge="br7", vnet_hdr=False) as thief:
                as_user(USER, lambda: set_mac(thief.fd, mac))
                came_to(lab, policy, thief,
                        watcher.wait("tampered", ifname=thief.ifname))  # fmt: skip

                def entry() -> list[Any]:
                    return [e.get("state") for e in fdb(lab.host, "sw0")
                            if e["mac"] == mac]  # fmt: skip

                until("its entry", lambda: entry() == ["static"])
        finally:
            lab.host.run("bridge", "fdb", "del", mac, "dev", "sw0", "master")

    @WHERE
    def test_a_low_mac_does_not_become_the_bridges(
        self, lab: Lab, daemon: Daemon, policy: str, watcher: Watcher,
        where: dict[str, str],
    ) -> None:  # fmt: skip
        """It would be the bridge's own, and what is for the host, the thief's."""
        with attach(lab, USER, vnet_hdr=False, **where) as nic:
            before = link(lab.host, nic.bridge)["address"]
            with stopped(daemon):
                as_user(USER, lambda: set_mac(nic.fd, "00:00:00:00:00:01"))
                assert link(lab.host, nic.ifname)["address"] == "00:00:00:00:00:01"
                assert link(lab.host, nic.bridge)["address"] == before
            came_to(lab, policy, nic, watcher.wait("tampered", ifname=nic.ifname))
            assert link(lab.host, nic.bridge)["address"] == before

    def test_a_mac_stolen_again_and_again_ends_in_quarantine(
        self, lab: Lab, daemon: Daemon, policy: str, watcher: Watcher
    ) -> None:
        """Nobody is fought with for ever: a NIC that is put back time and again
        ends in quarantine."""
        with (
            attach(lab, USER, vnet_hdr=False) as thief,
            attach(lab, USER, vnet_hdr=False) as victim,
            attach(lab, USER, vnet_hdr=False) as sender,
        ):

            def act() -> None:
                for number in range(2000):
                    try:
                        set_mac(thief.fd, f"02:00:00:00:{number >> 8:02x}:01")
                        set_mac(thief.fd, str(victim.mac))
                    except OSError:
                        assert policy == "detach"  # there is no tap behind it
                        return

            as_user(USER, act)
            watcher.wait("tampered", ifname=thief.ifname)
            until("its entry", lambda: is_home(lab, victim))
            assert gets_through(sender, victim)
            if policy == "detach":
                until("its end", lambda: thief.ifname not in links(lab.host, "tapster"))
            else:
                shut(lab, thief)
            assert len(logged(daemon, "tampered", thief)) <= 6
            assert listed(lab, victim)["state"] == "active"  # type: ignore[index]


class TestStaying:
    """A tap that is to stay when its holder goes."""

    @pytest.mark.parametrize("hidden", [False, True], ids=["", "without-carrier"])
    @WHERE
    def test_a_persistent_tap_goes_with_its_holder(
        self, lab: Lab, daemon: Daemon, policy: str, watcher: Watcher,
        where: dict[str, str], hidden: bool,
    ) -> None:  # fmt: skip
        nic = attach(lab, USER, vnet_hdr=False, **where)

        def act() -> None:
            if hidden:
                set_carrier(nic.fd, False)
            tampering.persist(nic.fd)

        as_user(USER, act)
        event = watcher.wait("tampered", ifname=nic.ifname)
        assert "persistent no -> yes" in event["reason"]
        came_to(lab, policy, nic, event)
        nic.close()
        watcher.wait("detached", ifname=nic.ifname)
        until_nothing_is_left(lab)
        assert len(logged(daemon, "tampered", nic)) == 1

    @pytest.mark.parametrize("hidden", [False, True], ids=["", "without-carrier"])
    def test_a_tap_made_persistent_as_its_holder_goes_is_removed(
        self, lab: Lab, daemon: Daemon, policy: str, watcher: Watcher, hidden: bool
    ) -> None:
        """All in one go, before anybody can look."""
        nic = attach(lab, USER, vnet_hdr=False)
        with stopped(daemon):

            def act() -> None:
                if hidden:
                    set_carrier(nic.fd, False)
                tampering.persist(nic.fd)

            as_user(USER, act)
            nic.close()
            assert nic.ifname in links(lab.host, "tapster")
        watcher.wait("tampered", ifname=nic.ifname)
        watcher.wait("detached", ifname=nic.ifname)
        until_nothing_is_left(lab)

    @pytest.mark.parametrize("number", ["owner", "group"])
    def test_a_tap_given_to_another_is_told(
        self, lab: Lab, daemon: Daemon, policy: str, watcher: Watcher, number: str
    ) -> None:
        request = getattr(tampering, f"TUNSET{number.upper()}")
        with attach(lab, USER, vnet_hdr=False) as nic:
            as_user(USER, lambda: void(fcntl.ioctl(nic.fd, request, OTHER)))
            event = watcher.wait("tampered", ifname=nic.ifname)
            assert f"{number} none -> {OTHER}" in event["reason"]
            came_to(lab, policy, nic, event)

    def test_a_persistent_tap_taken_up_again_ends_in_the_end(
        self, lab: Lab, daemon: Daemon, policy: str, watcher: Watcher
    ) -> None:
        """Not even the next broker takes it for anything else than it is."""
        nic = attach(lab, USER, vnet_hdr=False)
        until("its last descriptor", lambda: not has_tap(daemon))
        with stopped(daemon):
            as_user(USER, lambda: tampering.persist(nic.fd))
            nic.close()
            again = in_network(lab.host, tampering.attach_again, nic.ifname)
        try:
            event = watcher.wait("tampered", ifname=nic.ifname)
            came_to(lab, policy, nic, event)
            if policy == "restore":
                assert "it ends when closed" in event["reason"]
        finally:
            os.close(again)
        watcher.wait("detached", ifname=nic.ifname)


def has_tap(daemon: Daemon) -> bool:
    """Whether a broker has a tap open; what it closes meanwhile is none."""
    directory = f"/proc/{daemon.process.pid}/fd"
    for name in os.listdir(directory):
        try:
            if os.readlink(f"{directory}/{name}") == "/dev/net/tun":
                return True
        except FileNotFoundError:
            pass
    return False


def void(_: object) -> None:
    """For what is called for its effect."""


class TestUse:
    """What holders do in all innocence."""

    def test_ordinary_use_is_not_taken_for_tampering(
        self, lab: Lab, daemon: Daemon, watcher: Watcher
    ) -> None:
        with (
            attach(lab, USER) as nic,
            attach(lab, USER, bridge="br7") as other,
        ):
            own = link(lab.host, nic.ifname)["address"]

            def act(fd: int) -> None:
                for offloads in (0, 1, 7, 15, 0):
                    fcntl.ioctl(fd, tampering.TUNSETOFFLOAD, offloads)
                set_number(fd, tampering.TUNSETVNETHDRSZ, 12)
                set_number(fd, tampering.TUNSETSNDBUF, 1 << 20)
                set_number(fd, tampering.TUNSETVNETLE, 1)
                with pytest.raises(OSError):
                    fcntl.ioctl(
                        fd, tampering.TUNSETQUEUE,
                        bytes(16) + tampering.IFF_DETACH_QUEUE.to_bytes(24, "little"),
                    )  # fmt: skip
                for carrier in (False, True):
                    set_carrier(fd, carrier)
                if fd == nic.fd:
                    set_mac(fd, own)

            for each in (nic, other):
                as_user(USER, partial(act, each.fd))
            # One whose carrier is off stays so, however often it is looked at.
            as_user(USER, lambda: set_carrier(other.fd, False))
            until(
                "the sign",
                lambda: "NO-CARRIER" in link(lab.host, other.ifname)["flags"],
            )
            with attach(lab, USER, name="last") as last:
                pass
            watcher.wait("detached", ifname=last.ifname)
            assert not [e for e in watcher.seen if e["event"] == "tampered"]
            for each in (nic, other):
                entry = listed(lab, each)
                assert entry is not None and entry["state"] == "active"
        for _ in range(2):
            watcher.wait("detached")
        assert not [e for e in watcher.seen if e["event"] == "tampered"]

    def test_an_unprivileged_user_does_not_bring_a_port_down(
        self, lab: Lab, daemon: Daemon, watcher: Watcher
    ) -> None:
        """Nor does anything else that takes a socket."""
        with attach(lab, USER) as nic:
            done = lab.host.run("ip", "link", "set", nic.ifname, "down", user=USER,
                                check=False)  # fmt: skip
            assert done.returncode != 0
            assert "UP" in link(lab.host, nic.ifname)["flags"]
