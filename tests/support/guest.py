# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest in a few lines: what it sends is made by hand, what it gets is looked at.

For a guest with a kernel's own stack see pump.py.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, ip_address, ip_network

from support import frames
from support.frames import Tap
from tapster.client import attach as client


class Guest:
    """Enough of an IP stack to be a guest, on a tap without vnet header."""

    def __init__(self, nic: client.Nic, length: int = 24) -> None:
        self.nic, self.tap = nic, Tap(nic.fd, str(nic.mac))
        self.gateway = ""  # of a network of ours
        if nic.ipv4 is not None:
            self.gateway = str(ip_network(f"{nic.ipv4}/{length}", strict=False)[1])
        self.router = ""  # the gateway's MAC, once it is known

    def packets(self, seconds: float = 5) -> Iterator[bytes]:
        """IPv4 packets to us; ARP for the address that was given with the NIC is
        answered on the way."""
        for frame in self.tap.frames(seconds):
            kind = int.from_bytes(frame[12:14], "big")
            if kind == frames.ARP and frame[20:22] == b"\0\1":
                mine = self.nic.ipv4
                if mine and frame[38:42] == IPv4Address(mine).packed:
                    self.tap.send(
                        frames.arp(self.tap.mac, self.tap.mac, str(self.nic.ipv4),
                                   str(IPv4Address(frame[28:32])),
                                   dst=frame[6:12].hex(":"), operation=2)
                    )  # fmt: skip
            elif kind == frames.IPV4:
                yield frame[14 : 14 + int.from_bytes(frame[16:18], "big")]

    def find_router(self) -> None:
        """Asks until it is answered, as every IP stack does: a bridge with its
        first port may take a moment until the kernel lets it send."""
        me = self.tap.mac
        for _ in range(20):
            self.tap.send(frames.arp(me, me, str(self.nic.ipv4), self.gateway))
            for frame in self.tap.frames(0.25):
                if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\2":
                    self.router = frame[22:28].hex(":")
                    return
        raise AssertionError("the gateway does not answer ARP")

    def send(self, dst: str, protocol: int, payload: bytes, mac: str = "") -> None:
        packet = frames.ipv4(str(self.nic.ipv4), dst, protocol, payload)
        self.tap.send(
            frames.ethernet(self.tap.mac, mac or self.router, frames.IPV4, packet)
        )

    def pings(self, dst: str, mac: str = "", seconds: float = 5) -> bool:
        """Whether there is an answer within the time."""
        self.send(dst, 1, frames.echo(8, 7), mac)
        for packet in self.packets(seconds):
            if packet[9] == 1 and packet[20] == 0 and packet[12:16] == ip_address(
                dst
            ).packed:  # fmt: skip
                return True
        return False

    def resolve(self, name: str, kind: int = 1) -> tuple[int, list[bytes]]:
        """dnsmasq's answer: its code, and the data of its records."""
        self.tap.drain()
        question = b"".join(
            bytes((len(label),)) + label.encode() for label in name.split(".")
        )
        query = struct.pack("!6H", 0x1234, 0x0100, 1, 0, 0, 0)
        query += question + b"\0" + struct.pack("!HH", kind, 1)
        self.send(self.gateway, 17, frames.udp(40000, 53, query))
        for packet in self.packets():
            if packet[9] == 17 and packet[20:22] == b"\0\x35":
                answer = packet[28:]
                count = int.from_bytes(answer[6:8], "big")
                rest = answer[len(query) :]
                found = []
                for _ in range(count):
                    length = int.from_bytes(rest[10:12], "big")
                    found.append(rest[12 : 12 + length])
                    rest = rest[12 + length :]
                return answer[3] & 15, found
        raise AssertionError("no answer of the name server")

    def dhcp(self, kind: int, requested: str | None = None) -> dict[int, bytes]:
        """One DHCP exchange; the options of the answer, and 0: the address.
        A client asks again when it hears nothing, and so does this."""
        for _ in range(20):
            if answer := self._dhcp(kind, requested):
                return answer
        raise AssertionError("no answer of the DHCP server")

    def _dhcp(self, kind: int, requested: str | None) -> dict[int, bytes]:
        number = secrets.randbits(32)
        body = struct.pack("!4BIHH", 1, 1, 6, 0, number, 0, 0x8000) + bytes(16)
        body += frames.mac(self.tap.mac).ljust(16, b"\0") + bytes(192)
        body += b"\x63\x82\x53\x63" + bytes((53, 1, kind))
        if requested:
            body += b"\x32\x04" + IPv4Address(requested).packed
        body += b"\x37\x07" + bytes((1, 3, 6, 15, 26, 54, 119)) + b"\xff"
        packet = frames.ipv4("0.0.0.0", "255.255.255.255", 17,
                             frames.udp(68, 67, body))  # fmt: skip
        self.tap.send(
            frames.ethernet(self.tap.mac, frames.BROADCAST, frames.IPV4, packet)
        )
        for answer in self.packets(0.25):
            reply = answer[28:]
            if (
                answer[9] == 17
                and reply[:1] == b"\2"
                and reply[4:8] == number.to_bytes(4)
            ):
                found, options = {0: reply[16:20]}, reply[240:]
                while options and options[0] != 255:
                    code, length = options[0], options[1] if len(options) > 1 else 0
                    if code == 0:
                        options = options[1:]
                        continue
                    found[code] = options[2 : 2 + length]
                    options = options[2 + length :]
                return found
        return {}
