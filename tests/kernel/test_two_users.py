# SPDX-License-Identifier: LGPL-2.1-or-later
"""Two users of one machine who try each other: what one sends never gets to the
other, and where a site wants it to, never in another's name."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest

from lab import OTHER, USER, Lab, until
from support import frames, host, spoofs6
from support.frames import BROADCAST, IPV4, PLAIN, Station, Tap, arrives
from support.host import in_network
from tapster.client import attach as client

GROUP, UNKNOWN = "01:00:5e:00:00:fb", "02:5a:00:00:00:98"
LLDP = 0x88CC

CONFIG = """
[networks.shared]
scope = "shared"

[networks.open]
scope = "shared"
isolation = false

[networks.routers]

[[rules]]
networks = ["routers"]
trusted = true

[[rules]]
networks = ["*"]
"""


@pytest.fixture(scope="module", autouse=True)
def configured(lab: Lab) -> None:
    """Before the broker starts."""
    lab.config(CONFIG)


pytestmark = pytest.mark.usefixtures("configured", "clean")


def tap(nic: client.Nic) -> Tap:
    return Tap(nic.fd, str(nic.mac))


def hello(nic: client.Nic, dst: str = BROADCAST) -> bytes:
    """An ARP request in the guest's own name."""
    return frames.arp(str(nic.mac), str(nic.mac), str(nic.ipv4), str(nic.ipv4),
                      dst=dst)  # fmt: skip


def packet(nic: client.Nic, dst: str) -> bytes:
    """An IPv4 packet, to whatever MAC."""
    inner = frames.ipv4(str(nic.ipv4), "198.51.100.7", 17,
                        frames.udp(5000, 5000, frames.HERE))  # fmt: skip
    return frames.ethernet(str(nic.mac), dst, IPV4, inner)


def echo(nic: client.Nic) -> bytes:
    """An IPv6 ping of everybody."""
    inner = frames.icmpv6(str(nic.ipv6), spoofs6.ALL_NODES, spoofs6.ECHO,
                          bytes(4) + frames.HERE)  # fmt: skip
    return frames.ethernet(str(nic.mac), frames.ALL_NODES, frames.IPV6, inner)


def local(nic: client.Nic) -> str:
    """The link-local address of its MAC (RFC 4291, appendix A)."""
    mac = bytearray(frames.mac(str(nic.mac)))
    mac[0] ^= 2
    end = (mac[:3] + b"\xff\xfe" + mac[3:]).hex()
    return "fe80::" + ":".join(end[n : n + 4] for n in range(0, 16, 4))


def everything(nic: client.Nic, other: client.Nic) -> Iterator[tuple[str, bytes]]:
    """What a guest may send, by whom it is for."""
    yield "broadcast", hello(nic)
    yield "broadcast, IPv4", packet(nic, BROADCAST)
    yield "multicast", packet(nic, GROUP)
    yield "multicast, IPv6", echo(nic)
    yield "unknown unicast", packet(nic, UNKNOWN)
    yield "unicast to the other", packet(nic, str(other.mac))
    yield "ARP to the other", hello(nic, str(other.mac))


def seen_by(receiver: client.Nic, station: Station, frame: bytes, nic: client.Nic,
            good: bytes) -> bool:  # fmt: skip
    """Whether a frame of `nic` gets to the other guest.

    `good` comes from the host after it, on the same processor, and does.
    """
    wire = Relay(tap(nic), station, good)
    return arrives(frame, wire, tap(receiver), good)


class Relay(frames.Wire):
    """What a guest sends, but the known-good frame, which comes from the host."""

    def __init__(self, tap: Tap, station: Station, good: bytes) -> None:
        self._tap, self._station, self._good = tap, station, good

    def send(self, frame: bytes) -> None:
        by = self._station if frame.startswith(self._good) else self._tap
        by.send(frame)


class TestUsersDoNotSeeEachOther:
    @pytest.mark.parametrize("network", ["default", "shared"])
    def test_whatever_one_sends(self, lab: Lab, network: str) -> None:
        """A network of one's own, and one of all."""
        with (
            host.attach(lab, USER, network=network, name="a", vnet_hdr=False) as mine,
            host.attach(lab, OTHER, network=network, name="z", vnet_hdr=False) as hers,
            Station(lab.host, mine.bridge) as my_bridge,
            Station(lab.host, hers.bridge) as her_bridge,
        ):
            assert (mine.bridge == hers.bridge) is (network == "shared")
            for one, other, near, far in (
                (mine, hers, my_bridge, her_bridge),
                (hers, mine, her_bridge, my_bridge),
            ):
                good = frames.ethernet(far.mac, BROADCAST, PLAIN, b"")
                for what, frame in everything(one, other):
                    assert not seen_by(other, far, frame, one, good), what
                # It was a frame that leaves the guest's port.
                assert arrives(hello(one), tap(one), near, hello(one))

    def test_guests_of_one_user_do(self, lab: Lab) -> None:
        """But not what is for nobody: it is not flooded."""
        with (
            host.attach(lab, USER, name="a", vnet_hdr=False) as one,
            host.attach(lab, USER, name="b", vnet_hdr=False) as other,
        ):
            for what, frame in everything(one, other):
                wanted = what != "unknown unicast"
                assert arrives(frame, tap(one), tap(other), hello(one)) is wanted, what

    @pytest.mark.parametrize("network", ["default", "shared"])
    def test_what_is_for_another_on_a_third_guests_port(
        self, lab: Lab, network: str
    ) -> None:
        """From the host: neither unknown unicast nor what is for one guest gets to
        another."""
        with (
            host.attach(lab, USER, network=network, name="a", vnet_hdr=False) as one,
            host.attach(lab, USER, network=network, name="b", vnet_hdr=False) as other,
            Station(lab.host, one.bridge) as bridge,
        ):
            good = frames.ethernet(bridge.mac, BROADCAST, PLAIN, b"")
            for dst, wanted in ((str(one.mac), True), (str(other.mac), False),
                                (UNKNOWN, False)):  # fmt: skip
                frame = frames.ethernet(bridge.mac, dst, PLAIN, b"")
                assert arrives(frame, bridge, tap(one), good) is wanted, dst


class TestUsersWhoMayReachEachOther:
    """scope = "shared", isolation = false. Every spoof is in test_spoof.py."""

    @pytest.fixture
    def two(self, lab: Lab) -> Iterator[tuple[client.Nic, client.Nic]]:
        with (
            host.attach(lab, USER, network="open", name="a", vnet_hdr=False) as one,
            host.attach(lab, OTHER, network="open", name="z", vnet_hdr=False) as other,
        ):
            yield one, other

    def test_do(self, two: tuple[client.Nic, client.Nic]) -> None:
        for one, other in (two, two[::-1]):
            for what, frame in everything(one, other):
                wanted = what != "unknown unicast"
                assert arrives(frame, tap(one), tap(other), hello(one)) is wanted, what

    def test_do_not_spoof_one_who_has_the_mac_of_a_guest_elsewhere(
        self, lab: Lab, two: tuple[client.Nic, client.Nic]
    ) -> None:
        """One's link-local address stays one's own when somebody else's guest of
        the same MAC, on another network, ends."""
        one, other = two
        theft = frames.ethernet(
            str(one.mac), frames.ALL_NODES, frames.IPV6,
            frames.icmpv6(local(other), spoofs6.ALL_NODES, spoofs6.ECHO,
                          bytes(4) + frames.HERE),
        )  # fmt: skip
        assert not arrives(theft, tap(one), tap(other), hello(one))
        with host.attach(lab, USER, network="default", name="c", mac=other.mac):
            assert not arrives(theft, tap(one), tap(other), hello(one))
        until("it is gone", lambda: len(host.nics(lab)) == 2)
        assert not arrives(theft, tap(one), tap(other), hello(one))


class TestTheHostsOwnListeners:
    """lldpd and its like listen on each device. A guest may not talk to them."""

    @pytest.mark.parametrize("group", ["0e", "03"])
    @pytest.mark.parametrize("network", ["default", "routers"])
    def test_hear_a_trusted_guest_alone(
        self, lab: Lab, network: str, group: str
    ) -> None:
        with (
            host.attach(lab, USER, network=network, name="a", vnet_hdr=False) as nic,
            host.attach(lab, USER, network=network, name="b", vnet_hdr=False) as other,
            in_network(lab.host, socket.socket, socket.AF_PACKET, socket.SOCK_RAW,
                       socket.htons(LLDP)) as listener,
        ):  # fmt: skip
            listener.bind((nic.ifname, LLDP))
            listener.setblocking(False)
            frame = frames.ethernet(
                str(nic.mac), f"01:80:c2:00:00:{group}", LLDP, b"\2\7\4" + bytes(6)
            )
            assert not arrives(frame, tap(nic), tap(other), hello(nic))
            heard = []
            with suppress(BlockingIOError):
                while True:
                    heard.append(listener.recv(2000)[:12])
            assert (frame[:12] in heard) is (network == "routers")
