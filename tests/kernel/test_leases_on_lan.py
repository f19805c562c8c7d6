# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests on a LAN, held to what its own DHCP server gave them: a real one, on
the far side of an uplink.

Shows daemon/watch/dhcp_snooping.
"""

from __future__ import annotations

import signal
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, ip_address

import pytest

from lab import OTHER, USER, Daemon, Lab, until
from support import frames
from support.frames import Station, arrives
from support.guest import Guest
from support.host import (
    Watcher,
    attach,
    elements,
    leftovers,
    nics,
    ruleset,
    until_nothing_is_left,
)

BRIDGE, UPLINK = "br-lan", "lan0"
SUBNET = "198.51.100."
SERVER = SUBNET + "1"
OFFER, ACK, NAK = b"\x02", b"\x05", b"\x06"
CONFIG = f"""
[networks.lan]
mode = "bridge"
bridge = "{BRIDGE}"
[networks.lan.reservations]
fixed = "{SUBNET}20"

[networks.strict]
mode = "bridge"
bridge = "{BRIDGE}"
address_check = "reserved"
[networks.strict.reservations]
fixed = {{ ipv4 = "{SUBNET}21", ipv6 = "2001:db8:5::21" }}

[networks.lax]
mode = "bridge"
bridge = "{BRIDGE}"
address_check = "off"

[networks.home]
mode = "bridge"
bridge = "{BRIDGE}"
isolation = true

[[rules]]
networks = ["*"]
"""


@pytest.fixture(scope="module")
def lan(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    """The host's bridge with its uplink, and a DHCP server there; a station of
    the LAN, to see what comes through."""
    host, world = lab.host, lab.world
    host.run("ip", "link", "add", BRIDGE, "type", "bridge")
    host.run("ip", "link", "add", UPLINK, "type", "veth", "peer", "name", UPLINK,
             "netns", str(world.pid))  # fmt: skip
    host.run("ip", "link", "set", UPLINK, "master", BRIDGE, "up")
    host.run("ip", "link", "set", BRIDGE, "up")
    world.run("ip", "link", "set", UPLINK, "up")
    world.run("ip", "address", "add", f"{SERVER}/24", "dev", UPLINK)
    directory = tmp_path_factory.mktemp("dhcp")
    log = directory / "log"
    with log.open("w") as output:
        server = world.popen(
            "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0",
            "--pid-file=", "--user=root", "--group=root", "--log-facility=-",
            "--bind-interfaces", f"--interface={UPLINK}", "--except-interface=lo",
            "--no-ping", "--dhcp-authoritative", f"--dhcp-leasefile={directory}/leases",
            f"--dhcp-range={SUBNET}50,{SUBNET}99,255.255.255.0,1h",
            stdout=output, stderr=output,
        )  # fmt: skip
    until("dnsmasq", lambda: "started" in log.read_text() or server.poll())
    assert server.poll() is None, log.read_text()
    with Station(world, UPLINK) as station:
        yield station
    server.send_signal(signal.SIGTERM)
    server.wait(5)
    host.run("ip", "link", "del", UPLINK)
    host.run("ip", "link", "del", BRIDGE)


@pytest.fixture
def daemon(lab: Lab, lan: Station) -> Iterator[list[Daemon]]:
    """The broker; a test that ends it puts the next one here."""
    lab.config(CONFIG)
    running = [lab.daemon("--config", "/run/config")]
    yield running
    until_nothing_is_left(lab)
    assert running[-1].stop() == 0, running[-1].log
    assert leftovers(lab) == [] and ruleset(lab.host) == []
    for each in running:
        assert "Traceback" not in each.log, each.log


@contextmanager
def guest(
    lab: Lab, uid: int = USER, network: str = "lan", **what: str
) -> Iterator[Guest]:
    with attach(lab, uid, network=network, vnet_hdr=False, **what) as nic:
        yield Guest(nic)


def told(lab: Lab, guest: Guest) -> str | None:
    """The address that `tapster ls` shows."""
    (found,) = (nic for nic in nics(lab) if nic["ifname"] == guest.nic.ifname)
    address: str | None = found["ipv4"]
    return address


def packet(guest: Guest, src: str) -> bytes:
    """A datagram of that guest's to the DHCP server's host, from an address."""
    datagram = frames.ipv4(src, SERVER, 17, frames.udp(7, 9, frames.HERE))
    return frames.ethernet(guest.tap.mac, frames.BROADCAST, frames.IPV4, datagram)


def claim(guest: Guest, address: str) -> bytes:
    """ARP: that address is mine."""
    return frames.arp(guest.tap.mac, guest.tap.mac, address, SERVER)


def good(guest: Guest) -> bytes:
    """What every guest of a LAN may send: a client's DHCP message."""
    body = frames.udp(68, 67, frames.dhcp(guest.tap.mac))
    whole = frames.ipv4("0.0.0.0", "255.255.255.255", 17, body)
    return frames.ethernet(guest.tap.mac, frames.BROADCAST, frames.IPV4, whole)


def may_be(guest: Guest, lan: Station, address: str) -> tuple[bool, bool]:
    """Whether IPv4 from that address gets to the LAN, and ARP that claims it."""
    return (
        arrives(packet(guest, address), guest.tap, lan, good(guest)),
        arrives(claim(guest, address), guest.tap, lan, good(guest)),
    )


def lease(lab: Lab, guest: Guest, watcher: Watcher) -> str:
    """Get an address of the LAN's server; until the broker knows it, too."""
    offer = guest.dhcp(1)
    assert offer[53] == OFFER
    address = str(IPv4Address(offer[0]))
    assert guest.dhcp(3, address)[53] == ACK
    event = watcher.wait("address", ifname=guest.nic.ifname)
    assert event["ipv4"] == address
    return address


BOTH, NEITHER = (True, True), (False, False)


class TestLease:
    def test_a_lease_holds_the_guest_to_its_address(
        self, lab: Lab, lan: Station, daemon: list[Daemon]
    ) -> None:
        with Watcher(lab, USER) as watcher, guest(lab, name="a") as one:
            assert one.nic.ipv4 is None and told(lab, one) is None
            assert may_be(one, lan, SUBNET + "7") == BOTH  # nobody knows better yet
            address = lease(lab, one, watcher)
            assert IPv4Address(address) in {IPv4Address(f"{SUBNET}{n}")
                                            for n in range(50, 100)}  # fmt: skip
            assert told(lab, one) == address
            ls = lab.host.run(*lab.tapster("ls"), user=USER).stdout
            assert address in ls
            assert may_be(one, lan, address) == BOTH
            for other in (SUBNET + "7", SERVER, "10.0.0.1", "0.0.0.0"):
                assert may_be(one, lan, other)[0] is False, other
                if other != "0.0.0.0":
                    assert may_be(one, lan, other)[1] is False, other
            # A probe before use has no sender's address (RFC 5227), and asks
            # for the guest's own address only.
            for target, passes in ((address, True), (SUBNET + "7", False)):
                probe = frames.arp(one.tap.mac, one.tap.mac, "0.0.0.0", target)
                assert arrives(probe, one.tap, lan, good(one)) is passes
            assert one.dhcp(1)[53] == OFFER  # DHCP goes on

    def test_a_lease_goes_with_its_guest(
        self, lab: Lab, lan: Station, daemon: list[Daemon]
    ) -> None:
        with Watcher(lab, USER) as watcher, guest(lab, name="a") as one:
            lease(lab, one, watcher)
            assert {"guests", "checked4", "macs"} <= elements(lab.host).keys()
        until_nothing_is_left(lab)
        until("no element", lambda: elements(lab.host) == {})
        with guest(lab, name="a") as again:
            assert told(lab, again) is None
            assert may_be(again, lan, SUBNET + "7") == BOTH

    def test_another_lease_frees_the_first_address(
        self, lab: Lab, lan: Station, daemon: list[Daemon]
    ) -> None:
        """The client asks for another free address, and the server agrees."""
        with Watcher(lab, USER) as watcher, guest(lab, name="a") as one:
            first = lease(lab, one, watcher)
            release(one, first)
            second = SUBNET + ("98" if first != SUBNET + "98" else "97")
            assert str(IPv4Address(one.dhcp(1, second)[0])) == second
            assert one.dhcp(3, second)[53] == ACK
            assert watcher.wait("address")["ipv4"] == second
            assert may_be(one, lan, second) == BOTH
            assert may_be(one, lan, first) == NEITHER

    def test_a_refused_lease_frees_the_guest(
        self, lab: Lab, lan: Station, daemon: list[Daemon]
    ) -> None:
        with Watcher(lab, USER) as watcher, guest(lab, name="a") as one:
            address = lease(lab, one, watcher)
            assert one.dhcp(3, "203.0.113.9")[53] == NAK
            assert watcher.wait("address")["ipv4"] is None
            assert told(lab, one) is None
            assert may_be(one, lan, SUBNET + "7") == BOTH
            assert lease(lab, one, watcher) == address

    def test_a_lease_of_one_guest_is_not_anothers(
        self, lab: Lab, lan: Station, daemon: list[Daemon]
    ) -> None:
        with (
            Watcher(lab, 0) as watcher,
            guest(lab, name="a") as one,
            guest(lab, OTHER, name="b") as two,
        ):
            first, second = lease(lab, one, watcher), lease(lab, two, watcher)
            assert first != second
            assert may_be(one, lan, second) == may_be(two, lan, first) == NEITHER
            assert may_be(one, lan, first) == may_be(two, lan, second) == BOTH

    def test_a_lease_is_learned_on_a_bridge_asked_for_by_its_own_name(
        self, lab: Lab, lan: Station, daemon: list[Daemon]
    ) -> None:
        """As the helper asks for it; the network that is defined there says how."""
        lab.bridge_conf(f"allow {BRIDGE}\n")
        with (
            Watcher(lab, USER) as watcher,
            attach(lab, USER, bridge=BRIDGE, vnet_hdr=False) as nic,
        ):
            one = Guest(nic)
            address = lease(lab, one, watcher)
            assert may_be(one, lan, address) == BOTH
            assert may_be(one, lan, SUBNET + "7") == NEITHER


def release(guest: Guest, address: str) -> None:
    """DHCPRELEASE, RFC 2131 section 4.4.6."""
    body = struct.pack("!4BIHH", 1, 1, 6, 0, 1, 0, 0) + IPv4Address(address).packed
    body += bytes(12) + frames.mac(guest.tap.mac).ljust(16, b"\0") + bytes(192)
    body += b"\x63\x82\x53\x63\x35\x01\x07\x36\x04" + ip_address(SERVER).packed
    datagram = frames.udp(68, 67, body + b"\xff")
    whole = frames.ipv4(address, SERVER, 17, datagram)
    guest.tap.send(frames.ethernet(guest.tap.mac, frames.BROADCAST, frames.IPV4, whole))


def acknowledgement(mac: str, src: str, address: str, to: str) -> bytes:
    """What a DHCP server sends, made by hand, from the station `src`."""
    body = struct.pack("!4BIHH", 2, 1, 6, 0, 1, 0, 0) + bytes(4)
    body += IPv4Address(address).packed + bytes(8) + frames.mac(mac).ljust(16, b"\0")
    body += bytes(192) + b"\x63\x82\x53\x63\x35\x01\x05\x33\x04\0\0\x0e\x10\xff"
    datagram = frames.udp(67, 68, body)
    whole = frames.ipv4(SERVER, "255.255.255.255", 17, datagram)
    return frames.ethernet(src, to, frames.IPV4, whole)


class TestForgery:
    def test_an_answer_forged_by_a_guest_teaches_nothing(
        self, lab: Lab, lan: Station, daemon: list[Daemon]
    ) -> None:
        """Neither about another guest nor about itself: the next that is heard
        is a station's of the LAN, which is what a server is."""
        forged, real = SUBNET + "66", SUBNET + "77"
        with (
            Watcher(lab, 0) as watcher,
            guest(lab, name="a") as victim,
            guest(lab, OTHER, name="b") as liar,
        ):
            for mac in (victim.tap.mac, liar.tap.mac):
                for to in (frames.BROADCAST, victim.tap.mac, liar.tap.mac, lan.mac):
                    liar.tap.send(acknowledgement(mac, liar.tap.mac, forged, to))
            for each in (victim, liar):
                lan.send(acknowledgement(each.tap.mac, lan.mac, real, frames.BROADCAST))
                event = watcher.wait("address")
                assert (event["ifname"], event["ipv4"]) == (each.nic.ifname, real)
            assert told(lab, victim) == told(lab, liar) == real

    def test_an_answer_for_a_mac_that_is_no_guests_teaches_nothing(
        self, lab: Lab, lan: Station, daemon: list[Daemon]
    ) -> None:
        with Watcher(lab, USER) as watcher, guest(lab, name="a") as one:
            for mac in (lan.mac, "02:00:00:00:00:99"):
                lan.send(acknowledgement(mac, lan.mac, SUBNET + "66", one.tap.mac))
            assert lease(lab, one, watcher) != SUBNET + "66"


class TestReserved:
    def test_a_reserved_address_is_held_to_from_the_first_frame(
        self, lab: Lab, lan: Station, daemon: list[Daemon]
    ) -> None:
        with guest(lab, name="fixed") as one:
            assert one.nic.ipv4 == told(lab, one) == SUBNET + "20"
            assert may_be(one, lan, SUBNET + "20") == BOTH
            assert may_be(one, lan, SUBNET + "7") == NEITHER

    def test_a_reserved_address_is_the_guests_whatever_the_server_says(
        self, lab: Lab, lan: Station, daemon: list[Daemon]
    ) -> None:
        with (
            Watcher(lab, 0) as watcher,
            guest(lab, name="fixed") as one,
            guest(lab, name="a") as two,
        ):
            offer = one.dhcp(1)  # the server is reached, and knows nothing of it
            assert offer[53] == OFFER and offer[0] != ip_address(SUBNET + "20").packed
            assert one.dhcp(3, str(IPv4Address(offer[0])))[53] == ACK
            lease(lab, two, watcher)
            assert [e["ifname"] for e in watcher.seen if e["event"] == "address"] == [
                two.nic.ifname
            ]
            assert told(lab, one) == SUBNET + "20"

    def test_with_address_check_reserved_there_is_no_other_address(
        self, lab: Lab, lan: Station, daemon: list[Daemon]
    ) -> None:
        with (
            guest(lab, network="strict", name="fixed") as one,
            guest(lab, network="strict", name="a") as two,
        ):
            assert (one.nic.ipv4, one.nic.ipv6) == (SUBNET + "21", "2001:db8:5::21")
            assert may_be(one, lan, SUBNET + "21") == BOTH
            assert may_be(one, lan, SUBNET + "7") == NEITHER
            offer = two.dhcp(1)
            assert offer[53] == OFFER
            address = str(IPv4Address(offer[0]))
            assert two.dhcp(3, address)[53] == ACK
            for claimed in (address, SUBNET + "7", SUBNET + "21"):
                assert may_be(two, lan, claimed) == NEITHER
            assert told(lab, two) is None


def test_with_address_check_off_no_address_is_checked(
    lab: Lab, lan: Station, daemon: list[Daemon]
) -> None:
    with guest(lab, network="lax", name="a") as one:
        offer = one.dhcp(1)
        assert one.dhcp(3, str(IPv4Address(offer[0])))[53] == ACK
        for claimed in (str(IPv4Address(offer[0])), SUBNET + "7", "10.0.0.1"):
            assert may_be(one, lan, claimed) == BOTH
        # What else is checked on a LAN still is.
        stolen = frames.arp(one.tap.mac, lan.mac, SERVER, SUBNET + "7")
        assert not arrives(stolen, one.tap, lan, good(one))
        assert told(lab, one) is None


class TestIsolation:
    def test_isolation_of_a_bridge_network_keeps_its_guests_apart(
        self, lab: Lab, lan: Station, daemon: list[Daemon]
    ) -> None:
        with ExitStack() as held:
            one, two = (
                held.enter_context(guest(lab, uid, "home", name="a"))
                for uid in (USER, OTHER)
            )
            plain = held.enter_context(guest(lab, name="c"))
            for sender, receiver, passes in (
                (one, two, False), (two, one, False), (one, plain, True),
            ):  # fmt: skip
                receiver.tap.drain()
                mark = frames.ethernet(
                    sender.tap.mac, receiver.tap.mac, frames.IPV4,
                    frames.ipv4(SUBNET + "7", SUBNET + "8", 17,
                                frames.udp(7, 9, frames.HERE)),
                )  # fmt: skip
                assert between(mark, sender, receiver, lan) is passes
            assert arrives(good(one), one.tap, lan, good(one))


def between(frame: bytes, sender: Guest, receiver: Guest, lan: Station) -> bool:
    """Whether a guest's frame gets to another. The LAN's own frame, sent after
    it, does."""
    token, last = b"a" * 16, b"b" * 16
    with frames.one_processor():
        sender.tap.send(frame.replace(frames.HERE, token))
        lan.send(frames.ethernet(lan.mac, receiver.tap.mac, frames.PLAIN, last))
        seen = False
        for arrived in receiver.tap.frames():
            seen = seen or token in arrived
            if last in arrived:
                return seen
    raise AssertionError("not even the LAN's frame arrived")


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "term"]
)
def test_lease_outlives_the_broker(
    lab: Lab, lan: Station, daemon: list[Daemon], number: signal.Signals
) -> None:
    with ExitStack() as held:
        one = held.enter_context(guest(lab, name="a"))
        two = held.enter_context(guest(lab, name="b"))
        with Watcher(lab, USER) as watcher:
            address = lease(lab, one, watcher)
        daemon[0].stop(number)
        assert may_be(one, lan, address) == BOTH
        assert may_be(one, lan, SUBNET + "7") == NEITHER
        daemon.append(lab.daemon("--config", "/run/config"))
        assert told(lab, one) == address and told(lab, two) is None
        assert may_be(one, lan, address) == BOTH
        assert may_be(one, lan, SUBNET + "7") == NEITHER
        with Watcher(lab, USER) as watcher:
            lease(lab, two, watcher)  # it goes on learning
            assert one.dhcp(3, "203.0.113.9")[53] == NAK
            assert watcher.wait("address")["ipv4"] is None
