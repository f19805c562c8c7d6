# SPDX-License-Identifier: LGPL-2.1-or-later
"""What somebody else's DHCP server has given to our guests on a LAN.

The rules below log a DHCP server's answers to guests of ours; the parsers read what was
logged. Nothing is ever learned from what a guest sends.

Somebody on the Internet who helps a guest can send it what looks like an answer, to the
address that the guest has. A real answer goes to everybody on the link, or to the
address that it gives: so only such an answer counts. Any station of the LAN that is not
a guest of ours passes for a DHCP server here, as it does with the guests.

Formats: RFC 2131, 2132 and 3396; RFC 8415.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Literal, NamedTuple

from .ruleset import BRIDGE_TABLE

IPV4, IPV6 = 0x0800, 0x86DD  # ETH_P_*
LOG_PREFIX = "tapster dhcp"
MAX_ADDRESSES = 8  # of one DHCPv6 reply; a client asks for one or two

# The bridge table sends to `of_server` what has a DHCP server's source port and came
# in by no port of ours. What a server on the host itself sends comes by `dhcp_output`;
# its priority is below 0, where br_netfilter takes a frame away from the hooks.
# `learners` has the MACs of guests that are held to their leases. @th,288,48 is the
# client's MAC in the message (8 bytes of UDP, then chaddr at 28), @ll,0,48 the MAC that
# the frame is to. Answers are logged where they come in: one that is broadcast to a
# thousand ports is logged once.
#
# Each MAC has a limit of its own. So a flood of answers to one guest, which the guest
# itself may have asked for, does not keep us from hearing of the others.
_CHAINS = """
table %(table)s {
    set dhcp_rates {
        typeof @th,288,48; size 65535; flags dynamic, timeout; timeout 1s;
    }

    chain of_server {
        udp sport 67 udp dport 68 @th,288,48 @learners \\
            update @dhcp_rates { @th,288,48 limit rate 10/second burst 20 packets } \\
            log prefix "%(prefix)s" group %(group)d
        udp sport 547 udp dport 546 ip6 daddr fe80::/10 @ll,0,48 @learners \\
            update @dhcp_rates { @ll,0,48 limit rate 10/second burst 20 packets } \\
            log prefix "%(prefix)s" group %(group)d
    }
    chain dhcp_output {
        type filter hook output priority -200; policy accept;
        oifname "tapsterl*" udp sport { 67, 547 } jump of_server
    }
}
"""

_BROADCAST = b"\xff\xff\xff\xff"
_LINK_LOCAL = IPv6Network("fe80::/10")
_UDP = 17
_COOKIE = b"\x63\x82\x53\x63"
_FOR_EVER = 0xFFFFFFFF

# Options of DHCPv4, and two values of option 53.
_LEASE_TIME, _OVERLOAD, _TYPE = 51, 52, 53
_ACK, _NAK = b"\x05", b"\x06"
# Options of DHCPv6, and one message type.
_IA_NA, _IA_TA, _IA_ADDRESS, _STATUS = 3, 4, 5, 13
_REPLY = 7


class Lease(NamedTuple):
    """What a server has told a client: it has an address ("ack"), or has it no more
    ("nak")."""

    family: Literal[4, 6]
    mac: str  # the client's
    address: IPv4Address | IPv6Address | None  # None, of a "nak": all of the family
    seconds: int | None  # None, of an "ack": for ever
    kind: Literal["ack", "nak"]


class _Malformed(Exception):
    """A packet is no answer that a client would take."""


def chains(group: int) -> str:
    """The chains that the bridge table needs for answers to be logged to `group`.

    A kernel without nfnetlink_log refuses them, and with them the whole transaction. If
    a socket of kernel/nflog.py could be opened, the kernel has it.
    """
    return _CHAINS % {"table": BRIDGE_TABLE, "prefix": LOG_PREFIX, "group": group}


def parse_logged(protocol: int, ethernet: bytes, payload: bytes) -> list[Lease]:
    """Read what one logged packet says of leases.

    :param protocol: ETH_P_* of the payload.
    :param ethernet: the link layer's header.
    :param payload: the packet from the network layer's header on.
    :returns: empty if it is anything but a DHCP server's answer.
    """
    if protocol == IPV4:
        lease = dhcp4(payload)
        return [] if lease is None else [lease]
    if protocol == IPV6 and len(ethernet) >= 6:
        return dhcp6(payload, ethernet[:6].hex(":"))
    return []


def dhcp4(packet: bytes) -> Lease | None:
    """Read an IPv4 packet. The message says which client it is for (chaddr).

    Fragments are not read: a server sends no more than the client takes at once (RFC
    2131, 2). Checksums are not checked: a server on this host leaves them to the
    device.

    :returns: None: it is no answer about a lease.
    """
    try:
        return _dhcp4(packet)
    except _Malformed:
        return None


def dhcp6(packet: bytes, mac: str) -> list[Lease]:
    """Read an IPv6 packet.

    :param packet: from the IPv6 header on.
    :param mac: that the frame was sent to. Nothing in the packet says which client it
        is for.
    :returns: empty if it is no answer about leases.
    """
    try:
        return _dhcp6(packet, mac)
    except _Malformed:
        return []


def _need(condition: bool) -> None:
    if not condition:
        raise _Malformed


def _dhcp4(packet: bytes) -> Lease | None:
    _need(len(packet) >= 20 and packet[0] >> 4 == 4)
    head, length = (packet[0] & 15) * 4, _number(packet[2:4])
    _need(20 <= head <= length <= len(packet))
    _need(not _number(packet[6:8]) & 0x3FFF)  # a fragment
    _need(packet[9] == _UDP)
    destination = packet[16:20]
    message = _udp(packet[head:length], 67, 68)
    # A reply (2) to a client on Ethernet (1, and 6 bytes of address).
    _need(len(message) >= 240 and message[:3] == b"\2\1\6")
    _need(message[236:240] == _COOKIE)
    mac = message[28:34].hex(":")
    options = _all_options4(message)
    if options.get(_TYPE) == _NAK:
        _need(destination == _BROADCAST)
        return Lease(4, mac, None, None, "nak")
    address, time = message[16:20], options.get(_LEASE_TIME, b"")
    # Without a time it is an answer to DHCPINFORM, and no lease.
    _need(options.get(_TYPE) == _ACK and len(time) == 4 and any(time))
    _need(destination in (_BROADCAST, address))
    return Lease(4, mac, _guests4(address), _seconds(time), "ack")


def _guests4(raw: bytes) -> IPv4Address:
    """Read an address that a guest can have."""
    address = IPv4Address(raw)
    _need(raw[0] != 0 and not address.is_loopback)
    _need(not address.is_multicast and not address.is_reserved)
    return address


def _all_options4(message: bytes) -> dict[int, bytes]:
    """The options, with those in the fields for a server's and a file's name. Parts of
    an option that is given in parts are joined (RFC 3396)."""
    options: dict[int, bytes] = {}
    _options4(message[240:], options)
    overload = options.get(_OVERLOAD, b"\0")
    _need(len(overload) == 1 and overload[0] <= 3)
    if overload[0] & 1:
        _options4(message[108:236], options)
    if overload[0] & 2:
        _options4(message[44:108], options)
    return options


def _options4(data: bytes, found: dict[int, bytes]) -> None:
    offset = 0
    while offset < len(data) and data[offset] != 255:
        code = data[offset]
        offset += 1
        if code == 0:
            continue
        _need(offset < len(data))
        end = offset + 1 + data[offset]
        _need(end <= len(data))
        found[code] = found.get(code, b"") + data[offset + 1 : end]
        offset = end


def _dhcp6(packet: bytes, mac: str) -> list[Lease]:
    _need(len(packet) >= 40 and packet[0] >> 4 == 6)
    length = _number(packet[4:6])
    # UDP comes at once: no server sends extension headers, or fragments.
    _need(40 + length <= len(packet) and packet[6] == _UDP)
    # No router forwards what is for a link-local address (RFC 4291, 2.5.6).
    _need(IPv6Address(packet[24:40]) in _LINK_LOCAL)
    message = _udp(packet[40 : 40 + length], 547, 546)
    _need(len(message) >= 4 and message[0] == _REPLY)
    leases: list[Lease] = []
    for code, data in _successful(message[4:]):
        head = {_IA_NA: 12, _IA_TA: 4}.get(code)
        if head is None:
            continue
        _need(len(data) >= head)
        for inner, value in _successful(data[head:]):
            if inner == _IA_ADDRESS:
                leases += _address6(value, mac)
    return leases[:MAX_ADDRESSES]


def _address6(data: bytes, mac: str) -> list[Lease]:
    _need(len(data) >= 24)
    preferred, valid = _number(data[16:20]), _number(data[20:24])
    address = IPv6Address(data[:16])
    if (
        preferred > valid
        or address.is_multicast
        or address.is_link_local
        or address.packed[:12] in (bytes(12), bytes(10) + b"\xff\xff")
        or not _is_success(data[24:])
    ):
        return []
    if not valid:
        return [Lease(6, mac, address, None, "nak")]
    return [Lease(6, mac, address, _seconds(data[20:24]), "ack")]


def _successful(data: bytes) -> list[tuple[int, bytes]]:
    """Read options; none of them counts if their status is a refusal."""
    return list(_options6(data)) if _is_success(data) else []


def _is_success(data: bytes) -> bool:
    return all(
        len(value) >= 2 and not _number(value[:2])
        for code, value in _options6(data)
        if code == _STATUS
    )


def _options6(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset < len(data):
        end = offset + 4 + _number(data[offset + 2 : offset + 4])
        _need(offset + 4 <= len(data) and end <= len(data))
        yield _number(data[offset : offset + 2]), data[offset + 4 : end]
        offset = end


def _udp(datagram: bytes, source: int, destination: int) -> bytes:
    """The contents of a UDP datagram, which must be between these ports."""
    length = _number(datagram[4:6])
    _need(8 <= length <= len(datagram))
    _need(_number(datagram[:2]) == source and _number(datagram[2:4]) == destination)
    return datagram[8:length]


def _seconds(raw: bytes) -> int | None:
    seconds = _number(raw)
    return None if seconds == _FOR_EVER else seconds


def _number(raw: bytes) -> int:
    return int.from_bytes(raw, "big")
