# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rates of NICs, measured: raw frames through taps, and TCP between namespaces.

The kernel's clock gives out tokens, so that a slow machine makes no rate wrong;
what was sent before a limit's bucket was empty does not count. TCP finds the
rate by losing segments: it is given time until its mean is right.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest

from lab import Space, why_not
from support.frames import IPV4, Station, ethernet, ipv4, udp
from support.host import in_network, link, tool
from tapster.kernel import tun
from tapster.kernel.netlink import NetlinkError, NetlinkSocket
from tapster.networks import rates

MBIT = 10**6
ONE, OTHER = "02:00:00:00:00:01", "02:00:00:00:00:02"
WITHIN = 0.15
MTU = 1500
PACKET = ipv4("10.0.0.1", "10.0.0.2", 17, udp(9, 9, bytes(MTU - 28)))
FRAME = ethernet(ONE, OTHER, IPV4, PACKET)

# What is checked besides has nothing to do with rates, and other tests of its own.
TABLE = """
table bridge tapster {
    map egress_limits { type ifname : limit; }
    chain prerouting {
        type filter hook prerouting priority -200; policy accept;
        limit name iifname map @egress_limits drop
    }
}
"""


class Net:
    """A host with what limits need of our table, and a bridge with taps; what is
    for `OTHER` leaves by `out0`, if no port is put in its place."""

    def __init__(self, undo: ExitStack) -> None:
        self._undo = undo
        self.host = self._space()
        self.netlink: NetlinkSocket = in_network(self.host, NetlinkSocket)
        undo.callback(self.netlink.close)
        self.nft(TABLE)
        self.host.run("ip", "link", "add", "br0", "type", "bridge")
        self.host.run("ip", "link", "set", "br0", "up")
        self.pair("out0", "end0")
        self.join("out0", OTHER)

    def _space(self) -> Space:
        made = Space()
        self._undo.callback(made.close)
        return made

    def nft(self, text: str) -> None:
        self.host.run("nft", "-f", "-", input=text)

    def pair(self, one: str, other: str) -> None:
        """A cable with an end that nobody has an address at."""
        self.host.run("ip", "link", "add", one, "type", "veth", "peer", "name", other)
        self.host.run("ip", "link", "set", other, "up")

    def join(self, name: str, mac: str) -> int:
        self.host.run("ip", "link", "set", name, "master", "br0", "up")
        self.host.run(
            "bridge", "fdb", "replace", mac, "dev", name, "master", "static"
        )  # fmt: skip
        return int(link(self.host, name)["ifindex"])

    def tap(self, name: str, mac: str, *, vnet_hdr: bool = False) -> tuple[int, int]:
        """A port; its descriptor, which this keeps, and its index."""
        fd = in_network(self.host, lambda: tun.create(name, vnet_hdr=vnet_hdr))
        self._undo.callback(os.close, fd)
        return fd, self.join(name, mac)

    def guest(self, name: str, number: int) -> tuple[Space, int]:
        """A port whose other end has a kernel's own TCP; and its index."""
        space = self._space()
        self.host.run(
            "ip", "link", "add", name, "type", "veth",
            "peer", "name", "eth0", "netns", str(space.pid),
        )  # fmt: skip
        space.run("ip", "address", "add", f"10.0.0.{number}/24", "dev", "eth0")
        space.run("ip", "link", "set", "eth0", "up")
        mac = str(link(space, "eth0")["address"])
        return space, self.join(name, mac)

    def sent(self, name: str) -> int:
        """Bytes that the kernel has put out of a device."""
        found = tool(self.host, "ip", "-j", "-s", "link", "show", name)
        return int(found[0]["stats64"]["tx"]["bytes"])


@pytest.fixture
def net() -> Iterator[Net]:
    if reason := why_not():
        pytest.skip(reason)
    with ExitStack() as undo:
        yield Net(undo)


def right(mean: float, rate: float) -> bool:
    return abs(mean / rate - 1) <= WITHIN


# Raw frames


def gso(size: int) -> bytes:
    """One frame of TCP that the kernel may cut into segments, with its vnet header."""
    tcp = struct.pack("!HHIIBBHHH", 9, 9, 1, 1, 5 << 4, 0x10, 65535, 0, 0)
    packet = ipv4("10.0.0.1", "10.0.0.2", 6, tcp + bytes(size - 40))
    # flags NEEDS_CSUM, gso_type TCPV4, hdr_len, gso_size, csum_start, csum_offset
    return struct.pack("=BBHHHH", 1, 1, 54, 1448, 34, 16) + ethernet(
        ONE, OTHER, IPV4, packet
    )


@pytest.mark.parametrize(
    ("rate", "vnet_hdr"),
    [(MBIT, False), (100 * MBIT, False), (100 * MBIT, True), (1000 * MBIT, True)],
)
def test_a_flood_leaves_at_the_rate(net: Net, rate: int, vnet_hdr: bool) -> None:
    frame = gso(65000) if vnet_hdr else FRAME
    fd, _ = net.tap("tapster0", ONE, vnet_hdr=vnet_hdr)
    net.nft(rates.add_limit("tapster0", rate))
    # A second's worth is in the bucket: until more than that was sent …
    for _ in range(2 * (rate // 8 + rates.EGRESS_BURST) // len(frame)):
        os.write(fd, frame)
    before, start = net.sent("out0"), time.monotonic()
    while (took := time.monotonic() - start) < 1:
        os.write(fd, frame)
    mean = (net.sent("out0") - before) * 8 / took
    assert right(mean, rate), mean


def test_others_are_not_limited_and_a_limit_can_go(net: Net) -> None:
    limited, _ = net.tap("tapster0", ONE)
    free, _ = net.tap("tapster1", "02:00:00:00:00:03")
    count = 400  # fewer than may wait for a processor that is busy
    net.nft(rates.add_limit("tapster0", MBIT))
    bucket = MBIT // 8 + rates.EGRESS_BURST
    assert bucket < count * len(FRAME) / 2

    def passes(fd: int) -> int:
        before = net.sent("out0")
        for _ in range(count):
            os.write(fd, FRAME)
        return net.sent("out0") - before  # and what hosts say by themselves

    whole = count * len(FRAME)
    assert passes(limited) < whole / 2
    assert passes(free) >= whole
    net.nft(rates.change_limit("tapster0", MBIT, 8000 * MBIT))
    assert passes(limited) >= whole
    net.nft(rates.change_limit("tapster0", 8000 * MBIT, MBIT))
    assert passes(limited) < whole / 2
    net.nft(rates.delete_limit("tapster0"))
    assert passes(limited) >= whole
    listed = tool(net.host, "nft", "-j", "list", "table", "bridge", "tapster")
    objects = [entry for entry in listed["nftables"] if "limit" in entry]
    maps = [e["map"] for e in listed["nftables"] if "map" in e]
    assert objects == []
    assert ["elem" in m for m in maps if m["name"] == "egress_limits"] == [False]


@pytest.mark.parametrize("rate", [MBIT, 100 * MBIT, 1000 * MBIT])
def test_a_flood_comes_in_at_the_rate(net: Net, rate: int) -> None:
    sender, _ = net.tap("tapster0", ONE)
    fd, index = net.tap("tapster1", OTHER)
    net.netlink.transact([rates.limit_ingress(index, "tapster1", rate, MTU)])

    def come(seconds: float) -> tuple[int, float]:
        """Bytes that the guest reads while it is sent more than it may get."""
        count, start = 0, time.monotonic()
        while (took := time.monotonic() - start) < seconds:
            for _ in range(64):
                os.write(sender, FRAME)
            try:
                while True:
                    count += len(os.read(fd, 2 * MTU))
            except BlockingIOError:
                pass
        return count, took

    come(0.2)  # until its bucket is empty, and its queue full
    count, took = come(1)
    assert right(count * 8 / took, rate), count * 8 / took


def test_the_rate_of_what_comes_in_is_seen_changed_and_taken_away(net: Net) -> None:
    _, index = net.tap("tapster0", ONE)

    def shown() -> list[Any]:
        found = tool(net.host, "tc", "-j", "qdisc", "show", "dev", "tapster0")
        return [e["options"] for e in found if e["kind"] == "tbf"]

    assert shown() == []
    for rate in (8_000, MBIT, 1000 * MBIT, 100_000 * MBIT):
        request = rates.limit_ingress(index, "tapster0", rate, MTU)
        net.netlink.transact([request])
        [options] = shown()
        assert options["rate"] == rate // 8
        assert right(options["burst"], rates.bucket(rate, MTU).burst)
    net.netlink.transact([rates.lift_ingress(index, "tapster0")])
    assert shown() == []
    with pytest.raises(NetlinkError, match="lift the rate of tapster0"):
        net.netlink.transact([rates.lift_ingress(index, "tapster0")])


# TCP


class Flow(NamedTuple):
    source: socket.socket
    sink: socket.socket

    def mean(self, rate: float, settle: float) -> float:
        """Bits a second that arrive, from `settle` on: of the first two seconds
        or more at whose end they are right, or else of fifteen."""
        done = threading.Event()

        def send() -> None:
            data = bytes(1 << 16)
            while not done.is_set():
                try:
                    self.source.send(data)
                except TimeoutError:
                    continue

        thread = threading.Thread(target=send)
        thread.start()
        try:
            self._receive(settle, 15)
            count = took = 0.0
            while took < 2 or (took < 15 and not right(count * 8 / took, rate)):
                more, seconds = self._receive(0.5, 15)
                count, took = count + more, took + seconds
            return count * 8 / took
        finally:
            done.set()
            thread.join()

    def _receive(self, seconds: float, patience: float) -> tuple[int, float]:
        self.sink.settimeout(patience)
        buffer = bytearray(1 << 20)
        count, start = 0, time.monotonic()
        while (took := time.monotonic() - start) < seconds:
            count += self.sink.recv_into(buffer)
        return count, took


@pytest.fixture
def flow(net: Net, request: pytest.FixtureRequest) -> Iterator[Flow]:
    """From the guest on tapster0 to that on tapster1, held to `request.param`'s
    way and rate."""
    way, rate = request.param
    source, _ = net.guest("tapster0", 1)
    sink, index = net.guest("tapster1", 2)
    if way == "egress":
        net.nft(rates.add_limit("tapster0", rate))
    else:
        net.netlink.transact([rates.limit_ingress(index, "tapster1", rate, MTU)])
    with (
        in_network(sink, socket.create_server, ("10.0.0.2", 5001)) as listener,
        in_network(source, socket.create_connection, ("10.0.0.2", 5001), 5) as client,
    ):
        client.settimeout(0.1)
        server, _ = listener.accept()
        with server:
            yield Flow(client, server)


WAYS = [(way, rate) for way in ("egress", "ingress") for rate in (MBIT, 1000 * MBIT)]


@pytest.mark.parametrize(
    ("flow", "rate"), [(w, w[1]) for w in WAYS], indirect=["flow"], ids=str
)
def test_tcp_gets_the_rate(flow: Flow, rate: int) -> None:
    # Of what is at once to be had nothing is left then: see the bucket's sizes.
    mean = flow.mean(rate, settle=2)
    assert right(mean, rate), mean


def test_a_limit_is_a_ports_own(net: Net) -> None:
    """A frame of another port, with the same source, is not counted."""
    fd, _ = net.tap("tapster0", ONE)
    net.nft(rates.add_limit("tapster0", MBIT))
    for _ in range(400):
        os.write(fd, FRAME)
    net.pair("lan0", "lan1")
    net.join("lan0", "02:00:00:00:00:04")
    before = net.sent("out0")
    with Station(net.host, "lan1") as station:
        for _ in range(400):
            station.send(FRAME)
    assert net.sent("out0") - before >= 400 * len(FRAME)
