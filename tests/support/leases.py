# SPDX-License-Identifier: LGPL-2.1-or-later
"""A LAN's DHCP servers, as far as a broker that listens to them can tell."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from lab import Lab, until
from support import frames, host, spoofs6
from support.frames import Station
from support.spoofs import Party


def party(mac: str, ipv4: str, ipv6: str) -> Party:
    """With the link-local address that RFC 4291, appendix A, makes of the MAC."""
    raw = bytearray(frames.mac(mac))
    raw[0] ^= 2
    local = bytes.fromhex("fe80") + bytes(6) + raw[:3] + b"\xff\xfe" + raw[3:]
    return Party(mac, ipv4, ipv6, str(IPv6Address(local)))


def give(lab: Lab, station: Station, to: Party, server: str) -> None:
    """What the servers say to a guest: these addresses are yours."""
    body = struct.pack("!4BIHH4x", 2, 1, 6, 0, 0x1234, 0, 0)
    body += IPv4Address(to.ipv4).packed + bytes(8) + frames.mac(to.mac).ljust(16, b"\0")
    body += bytes(192) + b"\x63\x82\x53\x63\x35\1\5\x33\4\0\0\x0e\x10\xff"
    ack = frames.ipv4(server, to.ipv4, 17, frames.udp(67, 68, body))
    station.send(frames.ethernet(station.mac, to.mac, frames.IPV4, ack))
    inner = IPv6Address(to.ipv6).packed + struct.pack("!II", 3600, 3600)
    option = struct.pack("!HH", 5, len(inner)) + inner
    association = struct.pack("!HHIII", 3, 12 + len(option), 1, 0, 0) + option
    reply = frames.ipv6(spoofs6.ROUTER, to.local, 17, frames.udp(
        547, 546, b"\7\0\0\1" + association))  # fmt: skip
    station.send(frames.ethernet(station.mac, to.mac, frames.IPV6, reply))

    def known() -> bool:
        (nic,) = (n for n in host.nics(lab) if n["mac"] == to.mac)
        return (nic["ipv4"], nic["ipv6"]) == (to.ipv4, to.ipv6)

    until(f"the leases of {to.mac}", known)
