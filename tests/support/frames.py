# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ethernet frames, made by hand and read from taps and wires.

Whether a frame was dropped is never a matter of waiting: another one, known to
pass, is sent after it on the same way, and what comes before that was all.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address

from lab import Space
from support.host import in_network

BROADCAST = "ff:ff:ff:ff:ff:ff"
ALL_NODES = "33:33:00:00:00:01"
ARP, IPV4, IPV6, VLAN, QINQ = 0x0806, 0x0800, 0x86DD, 0x8100, 0x88A8
ETH_P_ALL = 3
HERE = b"@" * 16  # in a frame: where `arrives` may put its mark
PLAIN = 0x88B5  # IEEE 802: for local experiments; no protocol anybody knows


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def ethernet(src: str, dst: str, kind: int, payload: bytes) -> bytes:
    return mac(dst) + mac(src) + struct.pack("!H", kind) + payload.ljust(46, b"\0")


def tagged(frame: bytes, vlan: int, kind: int = VLAN) -> bytes:
    """The same frame with a VLAN tag."""
    return frame[:12] + struct.pack("!HH", kind, vlan) + frame[12:]


def arp(src: str, sender: str, ip: str, target: str, *, dst: str = BROADCAST,
        operation: int = 1,
        kinds: tuple[int, int, int, int] = (1, IPV4, 6, 4)) -> bytes:  # fmt: skip
    """`src` is the frame's, `sender` what the ARP message itself says; `kinds` are
    htype, ptype, hlen and plen of RFC 826."""
    body = struct.pack("!HHBBH", *kinds, operation)
    body += mac(sender) + IPv4Address(ip).packed + bytes(6) + IPv4Address(target).packed
    return ethernet(src, dst, ARP, body)


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data[: len(data) // 2 * 2]))
    if len(data) % 2:
        total += data[-1] << 8
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(src: str, dst: str, protocol: int, payload: bytes, *, fragment: int = 0,
         options: bytes = b"") -> bytes:  # fmt: skip
    """`fragment`: flags and offset, as they are in the header."""

    def head(check: int) -> bytes:
        length = 20 + len(options)
        return struct.pack(
            "!BBHHHBBH4s4s", 0x40 | length // 4, 0, length + len(payload), 1, fragment,
            64, protocol, check, IPv4Address(src).packed, IPv4Address(dst).packed,
        ) + options  # fmt: skip

    return head(checksum(head(0))) + payload


def udp(sport: int, dport: int, payload: bytes) -> bytes:
    """Without a checksum, as IPv4 allows."""
    return struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload


def dhcp(client: str) -> bytes:
    """Enough of a DHCP client's message: who it is, at the place for it."""
    return HERE + bytes(12) + mac(client).ljust(16, b"\0") + bytes(256)


def ipv6(src: str, dst: str, protocol: int, payload: bytes, hops: int = 255) -> bytes:
    return (
        struct.pack("!IHBB", 6 << 28, len(payload), protocol, hops)
        + IPv6Address(src).packed
        + IPv6Address(dst).packed
        + payload
    )


def icmpv6(src: str, dst: str, kind: int, rest: bytes) -> bytes:
    """A whole IPv6 packet."""
    body = struct.pack("!BBH", kind, 0, 0) + rest
    pseudo = IPv6Address(src).packed + IPv6Address(dst).packed
    pseudo += struct.pack("!II", len(body), 58)
    check = checksum(pseudo + body)
    return ipv6(src, dst, 58, body[:2] + struct.pack("!H", check) + body[4:])


def router_advertisement(src: str = "fe80::66") -> bytes:
    mark = bytes((253, 3)) + bytes(6) + HERE  # an option for experiments, RFC 4727
    rest = struct.pack("!BBHII", 64, 0, 1800, 0, 0) + mark
    return icmpv6(src, "ff02::1", 134, rest)


def echo(kind: int, number: int, payload: bytes = b"tapster") -> bytes:
    """An ICMP echo request (8) or reply (0)."""
    head = struct.pack("!BBHHH", kind, 0, 0, 0x7A7A, number)
    check = checksum(head + payload)
    return struct.pack("!BBHHH", kind, 0, check, 0x7A7A, number) + payload


class Wire:
    """One end that frames go into and come out of. `close()` closes it."""

    def send(self, frame: bytes) -> None:
        raise NotImplementedError

    def fileno(self) -> int:
        raise NotImplementedError

    def _read(self) -> bytes:
        raise NotImplementedError

    def frames(self, seconds: float = 5) -> Iterator[bytes]:
        """What comes in, until the time is over."""
        deadline = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        while (left := deadline - time.monotonic()) > 0:
            if poll.poll(left * 1000):
                yield self._read()

    def drain(self) -> None:
        for _ in self.frames(0.000001):
            pass


class Tap(Wire):
    """A guest's end, on a tap without vnet header. The descriptor stays its
    owner's."""

    def __init__(self, fd: int, mac: str) -> None:
        self._fd, self.mac = fd, mac

    def fileno(self) -> int:
        return self._fd

    def send(self, frame: bytes) -> None:
        os.write(self._fd, frame)

    def _read(self) -> bytes:
        return os.read(self._fd, 70000)


class VnetTap(Tap):
    """The same, on a tap that was opened with IFF_VNET_HDR: each frame has a
    struct virtio_net_hdr before it, here without anything to say."""

    header = bytes(10)

    def send(self, frame: bytes) -> None:
        super().send(self.header + frame)

    def _read(self) -> bytes:
        return super()._read()[len(self.header) :]


class Station(Wire):
    """A packet socket on a device of a space: another station, or a listener."""

    def __init__(self, space: Space, device: str) -> None:
        self._socket = in_network(
            space, socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0
        )
        self._socket.bind((device, ETH_P_ALL))
        request = fcntl.ioctl(  # SIOCGIFHWADDR
            self._socket, 0x8927, struct.pack("16s24x", device.encode())
        )
        self.mac = request[18:24].hex(":")

    def fileno(self) -> int:
        return int(self._socket.fileno())

    def send(self, frame: bytes) -> None:
        self._socket.send(frame)

    def _read(self) -> bytes:
        return bytes(self._socket.recv(70000))

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Station:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def one_processor() -> Iterator[None]:
    """What is sent in here is handled in the order in which it was sent."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _marked(frame: bytes, mark: bytes) -> bytes:
    """What is behind the end of an IP packet may get lost on the way."""
    return frame.replace(HERE, mark) if HERE in frame else frame + mark


def arrives(
    frame: bytes, sender: Wire, receiver: Wire, known_good: bytes, seconds: float = 5
) -> bool:
    """Whether a frame gets from one to the other. `known_good` does, in the time."""
    token, last = secrets.token_bytes(16), secrets.token_bytes(16)
    with one_processor():
        sender.send(_marked(frame, token))
        sender.send(_marked(known_good, last))
        arrived = False
        for seen in receiver.frames(seconds):
            arrived = arrived or token in seen
            if last in seen:
                return arrived
    raise AssertionError("not even the frame that is known to pass arrived")
