# SPDX-License-Identifier: LGPL-2.1-or-later
"""What quarantine is, and what becomes of a tap that root changes with other tools."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from lab import OTHER, USER, Daemon, Lab, until
from support import tampering
from support.frames import BROADCAST, PLAIN, Tap, ethernet
from support.guarded import (
    CHANGES,
    change,
    device,
    gets_through,
    is_home,
    listed,
    logged,
    shut,
    stopped,
    to,
)
from support.host import (
    Watcher,
    ask,
    attach,
    broker,
    elements,
    link,
    links,
    nics,
    until_nothing_is_left,
)
from support.serving import serving
from support.tampering import as_user, set_carrier, set_mac
from tapster import errors
from tapster.client import attach as client

LOW = "00:00:00:00:00:01"


@pytest.fixture(scope="module", autouse=True)
def prepared(lab: Lab) -> None:
    lab.bridge_conf("allow br7\n")
    lab.config(
        "[broker]\nnetwork_grace_seconds = 0.2\n"
        f'[[rules]]\nusers = [{USER}]\nbridges = ["br7"]\nmax_nics = 5\n'
    )
    lab.host.run(
        "sh", "-ec",
        "ip link add br7 type bridge; ip link set br7 up;"
        "ip link add br8 type bridge; ip link set br8 up",
    )  # fmt: skip


@pytest.fixture(scope="module")
def daemon(lab: Lab, prepared: None) -> Iterator[Daemon]:
    with serving(lab) as running:
        yield running
        until_nothing_is_left(lab)


@pytest.fixture
def watcher(lab: Lab, daemon: Daemon) -> Iterator[Watcher]:
    with Watcher(lab, USER) as watching:
        yield watching
    until_nothing_is_left(lab)


@pytest.fixture
def bad(lab: Lab, watcher: Watcher) -> Iterator[client.Nic]:
    """A NIC in quarantine. `close` is its holder's end."""
    with attach(lab, USER, bridge="br7", name="bad", vnet_hdr=False) as nic:
        as_user(USER, lambda: set_mac(nic.fd, LOW))
        event = watcher.wait("quarantined", ifname=nic.ifname)
        assert LOW in event["reason"] and event["uid"] == USER
        yield nic


class TestQuarantine:
    def test_a_quarantine_is_shown_with_its_reason(
        self, lab: Lab, bad: client.Nic
    ) -> None:
        shut(lab, bad)
        done = lab.host.run(*lab.tapster("ls"), user=USER)
        assert "quarantined" in done.stdout and LOW in done.stdout

    def test_a_quarantine_lets_no_frame_through(
        self, lab: Lab, bad: client.Nic
    ) -> None:
        with attach(lab, USER, bridge="br7", vnet_hdr=False) as other:
            with pytest.raises(OSError):
                Tap(bad.fd, str(bad.mac)).send(to(other, bad, BROADCAST))
            list(Tap(bad.fd, str(bad.mac)).frames(0.1))  # from before it was shut
            guest = Tap(other.fd, str(other.mac))
            guest.send(to(bad, other, BROADCAST))
            assert list(Tap(bad.fd, str(bad.mac)).frames(0.2)) == []

    def test_a_quarantine_gives_no_name_mac_or_address_back(
        self, lab: Lab, bad: client.Nic
    ) -> None:
        """Name, MAC and place in the quota stay taken."""
        with pytest.raises(errors.NameInUse):
            attach(lab, USER, bridge="br7", name="bad")
        with pytest.raises(errors.MacInUse):
            attach(lab, USER, bridge="br7", mac=bad.mac)
        held: list[client.Nic] = []
        try:
            with pytest.raises(errors.QuotaExceeded):
                while len(held) < 6:
                    held.append(attach(lab, USER, bridge="br7"))
            assert len(held) == 4
        finally:
            for each in held:
                each.close()

    def test_a_quarantine_is_not_left_by_its_holder(
        self, lab: Lab, bad: client.Nic
    ) -> None:
        def act() -> None:
            set_mac(bad.fd, "fe" + str(bad.mac)[2:])
            set_carrier(bad.fd, False)
            set_carrier(bad.fd, True)
            for flags in ("up", "down"):
                done = subprocess.run(
                    ["ip", "link", "set", bad.ifname, flags], capture_output=True
                )
                assert done.returncode

        as_user(USER, act)
        with pytest.raises(OSError):
            os.write(bad.fd, bytes(60))
        shut(lab, bad)

    def test_a_quarantine_is_not_left_by_another_tool(
        self, lab: Lab, bad: client.Nic, watcher: Watcher
    ) -> None:
        lab.host.run("ip", "link", "set", bad.ifname, "up", "master", "br7")
        event = watcher.wait("tampered", ifname=bad.ifname)
        assert "in quarantine" in event["reason"]
        shut(lab, bad)

    @pytest.mark.parametrize("uid", [USER, 0])
    def test_a_nic_in_quarantine_is_given_back_by_a_detach(
        self, lab: Lab, bad: client.Nic, watcher: Watcher, uid: int
    ) -> None:
        with pytest.raises(errors.NoSuchNic):
            ask(lab, OTHER, "Detach", {"ifname": bad.ifname})
        ask(lab, uid, "Detach", {"ifname": bad.ifname})
        assert listed(lab, bad) is None
        assert bad.ifname not in links(lab.host, "tapster")
        with attach(lab, USER, bridge="br7", name="bad", mac=bad.mac):
            pass

    @pytest.mark.parametrize("hidden", [False, True], ids=["", "persistent"])
    def test_a_quarantine_ends_with_its_holder(
        self, lab: Lab, bad: client.Nic, watcher: Watcher, hidden: bool
    ) -> None:
        """Also one that is made persistent only now, of which nothing is told."""
        if hidden:
            as_user(USER, lambda: tampering.persist(bad.fd))
        bad.close()
        watcher.wait("detached", ifname=bad.ifname)
        until_nothing_is_left(lab)


class TestOnANetwork:
    def test_a_forward_does_not_lead_into_quarantine(
        self, lab: Lab, watcher: Watcher
    ) -> None:
        with attach(lab, USER, name="web", vnet_hdr=False) as nic:
            what = {"port": "tcp/8080", "guest": "web", "guest_port": 80}
            ask(lab, USER, "AddForward", what)
            try:
                assert "forwards4" in elements(lab.host)
                as_user(USER, lambda: set_mac(nic.fd, LOW))
                watcher.wait("quarantined", ifname=nic.ifname)
                shut(lab, nic)
                assert "forwards4" not in elements(lab.host)
            finally:
                ask(lab, USER, "RemoveForward", {"port": "tcp/8080"})

    def test_a_port_that_waits_for_its_first_mac_does_not_wait_any_more(
        self, lab: Lab, watcher: Watcher
    ) -> None:
        with broker(lab, USER) as wire:
            wanted = {"bridge": "br7", "for_parent": True, "vnet_hdr": False}
            reply, (fd,) = wire.call("Attach", wanted, fds=True)
        try:
            ifname = reply["nic"]["ifname"]
            os.write(fd, ethernet("02:00:00:00:00:99", BROADCAST, PLAIN, b""))
            watcher.wait("active", ifname=ifname)
            os.write(fd, ethernet("02:00:00:00:00:99", BROADCAST, PLAIN, b""))
            assert not [e for e in watcher.seen if e["event"] == "tampered"]
        finally:
            os.close(fd)
        with broker(lab, USER) as wire:
            reply, (fd,) = wire.call("Attach", wanted, fds=True)
        try:
            ifname = reply["nic"]["ifname"]
            as_user(USER, lambda: set_mac(fd, LOW))
            watcher.wait("quarantined", ifname=ifname)
            with pytest.raises(OSError):
                os.write(fd, ethernet("02:00:00:00:00:99", BROADCAST, PLAIN, b""))
            (entry,) = (n for n in nics(lab) if n["ifname"] == ifname)
            assert (entry["state"], entry["mac"]) == ("quarantined", None)
            until("its elements' end", lambda: elements(lab.host) == {})
        finally:
            os.close(fd)


class TestOtherTools:
    @pytest.mark.parametrize("command", CHANGES)
    @pytest.mark.parametrize("where", [{}, {"bridge": "br7"}], ids=["nat", "bridge"])
    def test_what_another_tool_changes_is_told_and_undone(
        self, lab: Lab, daemon: Daemon, watcher: Watcher, where: dict[str, str],
        command: str,
    ) -> None:  # fmt: skip
        with (
            attach(lab, USER, vnet_hdr=False, **where) as nic,
            attach(lab, USER, vnet_hdr=False, **where) as other,
        ):
            before = device(lab, nic)
            change(lab, nic, command.replace("MAC", str(nic.mac)))
            event = watcher.wait("tampered", ifname=nic.ifname)
            assert CHANGES[command] in event["reason"]
            assert event["reason"].endswith("; put back")
            until("what it was", lambda: nic.ifname in links(lab.host, "tapster")
                  and device(lab, nic) == before)  # fmt: skip
            entry = listed(lab, nic)
            assert entry is not None and entry["state"] == "active"
            assert gets_through(other, nic) and gets_through(nic, other)

    def test_tools_that_do_not_give_up_have_a_nic_shut(
        self, lab: Lab, daemon: Daemon, watcher: Watcher
    ) -> None:
        with attach(lab, USER, bridge="br7", vnet_hdr=False) as nic:
            for number in range(6):
                lab.host.run("ip", "link", "set", nic.ifname, "mtu", str(1400 + number))
                watcher.wait("tampered", ifname=nic.ifname)
            event = watcher.wait("quarantined", ifname=nic.ifname)
            assert "5 times" in event["reason"]
            shut(lab, nic)

    def test_a_greater_mtu_that_is_the_bridges_is_followed(
        self, lab: Lab, daemon: Daemon, watcher: Watcher
    ) -> None:
        with attach(lab, USER, bridge="br7", vnet_hdr=False) as nic:
            lab.host.run("ip", "link", "set", "br7", "mtu", "4000")
            try:
                lab.host.run("ip", "link", "set", nic.ifname, "mtu", "4000")
                until("it", lambda: listed(lab, nic)["mtu"] == 4000)  # type: ignore[index]
                assert link(lab.host, nic.ifname)["mtu"] == 4000
                assert logged(daemon, "tampered", nic) == []
            finally:
                lab.host.run("ip", "link", "set", "br7", "mtu", "1500")

    def test_a_tap_that_is_called_something_else_can_be_detached(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        with attach(lab, USER, vnet_hdr=False) as nic:
            with stopped(daemon):
                lab.host.run("ip", "link", "set", nic.ifname, "name", "other0")
            ask(lab, USER, "Detach", {"ifname": nic.ifname})
            assert "other0" not in links(lab.host, "")
            assert listed(lab, nic) is None
        until_nothing_is_left(lab)

    def test_a_name_that_is_taken_meanwhile_ends_in_quarantine(
        self, lab: Lab, daemon: Daemon, watcher: Watcher
    ) -> None:
        with attach(lab, USER, vnet_hdr=False) as nic:
            with stopped(daemon):
                take = "ip link set TAP name other0; ip link add TAP type bridge"
                change(lab, nic, take)
            try:
                event = watcher.wait("tampered", ifname=nic.ifname)
                assert "could not be put back" in event["reason"]
                watcher.wait("quarantined", ifname=nic.ifname)
                assert "UP" not in link(lab.host, "other0")["flags"]
                assert "master" not in link(lab.host, "other0")
            finally:
                lab.host.run("ip", "link", "del", nic.ifname)


class TestUnheard:
    """Tampering that the kernel could tell nobody of."""

    def test_what_was_not_heard_is_found_by_looking(
        self, lab: Lab, daemon: Daemon, watcher: Watcher
    ) -> None:
        with (
            attach(lab, USER, vnet_hdr=False) as thief,
            attach(lab, USER, vnet_hdr=False) as victim,
            attach(lab, USER, vnet_hdr=False) as sender,
            attach(lab, USER, vnet_hdr=False) as gone,
        ):
            own = link(lab.host, thief.ifname)["address"]

            def act() -> None:
                for number in range(10000):
                    set_mac(thief.fd, f"02:00:00:{number >> 8:02x}:00:01")
                set_mac(thief.fd, str(victim.mac))
                set_mac(thief.fd, own)

            with stopped(daemon):
                as_user(USER, act)
                lab.host.run("ip", "link", "del", gone.ifname)
                lab.host.run("ip", "link", "set", sender.ifname, "promisc", "on")
            until("all of it", lambda: "messages were lost" in daemon.log)
            watcher.wait("quarantined", ifname=thief.ifname)
            shut(lab, thief)
            until("its entry", lambda: is_home(lab, victim))
            until("what is gone", lambda: listed(lab, gone) is None)
            until(
                "flags", lambda: "PROMISC" not in link(lab.host, sender.ifname)["flags"]
            )
            assert gets_through(sender, victim)


def test_an_administrators_bridge_keeps_its_mac(lab: Lab, daemon: Daemon) -> None:
    """A bridge whose MAC nobody set takes over the lowest of its ports'; one that
    a NIC was attached to does not, whoever has the lowest."""

    def add_low_port(bridge: str) -> str:
        lab.host.run("ip", "link", "add", "low0", "address", LOW,
                     "type", "veth", "peer", "name", "low1")  # fmt: skip
        try:
            lab.host.run("ip", "link", "set", "low0", "master", bridge)
            return str(link(lab.host, bridge)["address"])
        finally:
            lab.host.run("ip", "link", "del", "low0")

    lab.host.run("sh", "-ec", "ip link add br9 type bridge; ip link set br9 up")
    lab.bridge_conf("allow br7\nallow br9\n")
    try:
        assert add_low_port("br9") == LOW
        with attach(lab, OTHER, bridge="br9"):
            before = link(lab.host, "br9")["address"]
            assert add_low_port("br9") == before
        until_nothing_is_left(lab)
        assert add_low_port("br9") == before
    finally:
        lab.host.run("ip", "link", "del", "br9")
