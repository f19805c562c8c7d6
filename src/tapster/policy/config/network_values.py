# SPDX-License-Identifier: LGPL-2.1-or-later
"""Values that are about networks, checked and typed: addresses, ports, rates.

Each function takes a value as tomllib returns it, and returns the typed value or raises
`Invalid`. It lets nothing through that the kernel or another program would refuse.
"""

from __future__ import annotations

import re
from decimal import Decimal
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
)
from typing import Any

from ...model import BRIDGE_PREFIX, TAP_PREFIX, Forward, Port
from ...syntax import (
    INTERFACE_NAME_BYTES,
    LABEL_LENGTH,
    is_interface_name,
    parse_mac,
)
from .toml_locations import Invalid
from .values import integer, label, shown, string

Address = IPv4Address | IPv6Address

_PORT = re.compile(r"(tcp|udp)/([1-9][0-9]{0,4})(?:-([1-9][0-9]{0,4}))?")
_FORWARD = re.compile(r"(\S+) +([^\s:]+):([1-9][0-9]{0,4})")
_RATE = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)(bit|kbit|mbit|gbit|)", re.I)
_UNITS = {"": 1, "bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
_MIN_RATE, _MAX_RATE = 8_000, 100_000_000_000
_DOMAIN_LENGTH = 253 - LABEL_LENGTH - 1  # a guest's name and a dot stand before it


def domain(value: Any) -> str:
    text = string(value)
    if len(text) > _DOMAIN_LENGTH:
        raise Invalid(f"{shown(text)} is longer than {_DOMAIN_LENGTH} characters")
    for part in text.split("."):
        try:
            label(part)
        except Invalid:
            raise Invalid(f"{shown(text)} is not a lower-case domain name") from None
    return text


def interface(value: Any) -> str:
    """A Linux bridge's name; the rule is dev_valid_name() in net/core/dev.c."""
    text = string(value)
    if not 1 <= len(text.encode()) <= INTERFACE_NAME_BYTES:
        raise Invalid(f"{shown(text)} is not 1 to 15 bytes long")
    if not is_interface_name(text) or not text.isprintable():
        raise Invalid(f"{shown(text)} is not an interface's name")
    if text.startswith((BRIDGE_PREFIX, TAP_PREFIX)):
        raise Invalid(
            f"{shown(text)} is a name of this program's own devices, "
            "which are used by their network"
        )
    return text


def mac(value: Any) -> str:
    """A guest's MAC address, in lower case."""
    text = string(value)
    try:
        raw = parse_mac(text)
    except ValueError:
        raise Invalid(
            f"{shown(text)} is not a MAC address, as in 0a:1b:2c:3d:4e:5f"
        ) from None
    if raw[0] & 1:
        raise Invalid(f"{shown(text)} is a multicast address")
    if not any(raw):
        raise Invalid(f"{shown(text)} is no guest's address")
    return raw.hex(":")


def mac_pattern(value: Any) -> str:
    text = string(value).lower()
    if not 1 <= len(text) <= 17 or not set("0123456789abcdef:*?").issuperset(text):
        raise Invalid(
            f"{shown(value)} is not a pattern for MAC addresses, as in 52:54:00:*"
        )
    return text


def port(value: Any) -> Port:
    """One port or a range."""
    text = string(value)
    found = _PORT.fullmatch(text)
    if found is None:
        raise Invalid(f"{shown(text)} is not a port, as in tcp/22 or udp/5000-5010")
    first, last = int(found[2]), int(found[3] or found[2])
    if not first <= last <= 65535:
        raise Invalid(f"{shown(text)} is not a range within 1 to 65535")
    return Port(found[1], first, last)


def forward(value: Any) -> Forward:
    text = string(value)
    found = _FORWARD.fullmatch(text)
    if found is None:
        raise Invalid(f"{shown(text)} is not a forwarded port, as in tcp/8080 web:80")
    outside = port(found[1])
    if outside.first != outside.last:
        raise Invalid(f"{shown(text)} is for a range; only single ports are forwarded")
    if int(found[3]) > 65535:
        raise Invalid(f"{shown(text)} has a port above 65535")
    return Forward(outside, label(found[2]), int(found[3]))


def rate(value: Any) -> int:
    """Bits a second: a number, or a text with a unit as for tc(8); 0 is no limit."""
    if isinstance(value, str):
        found = _RATE.fullmatch(value)
        if found is None:
            raise Invalid(
                f"{shown(value)} is not a rate: a number and bit, kbit, mbit or gbit"
            )
        exact = Decimal(found[1]) * _UNITS[found[2].lower()]
        bits = int(exact)
        if bits != exact:
            raise Invalid(f"{shown(value)} is not a whole number of bits")
    else:
        bits = integer(0, _MAX_RATE)(value)
    if bits and not _MIN_RATE <= bits <= _MAX_RATE:
        raise Invalid(
            f"{shown(value)} is not from 8kbit to 100gbit, nor 0 for no limit"
        )
    return bits


def address(value: Any) -> Address:
    text = string(value)
    try:
        found = ip_address(text)
    except ValueError:
        raise Invalid(f"{shown(text)} is not an IP address") from None
    if "%" in text or found.is_multicast or found.is_unspecified:
        raise Invalid(f"{shown(text)} is not the address of one host")
    return found


def guest_ipv4(value: Any) -> IPv4Address:
    found = address(value)
    if not isinstance(found, IPv4Address):
        raise Invalid(f"{shown(value)} is not an IPv4 address")
    if not _is_usable(found):
        raise Invalid(f"{shown(value)} cannot be a guest's address")
    return found


def guest_ipv6(value: Any) -> IPv6Address:
    found = address(value)
    if not isinstance(found, IPv6Address):
        raise Invalid(f"{shown(value)} is not an IPv6 address")
    if not _is_usable(found):
        raise Invalid(f"{shown(value)} cannot be a guest's address")
    return found


def subnet(value: Any) -> IPv4Network:
    """An IPv4 subnet, written with its prefix length."""
    text = string(value)
    try:
        found = IPv4Network(text, strict=False)
    except ValueError:
        raise Invalid(
            f"{shown(text)} is not an IPv4 subnet, as in 10.1.2.0/24"
        ) from None
    length = text.partition("/")[2]
    if not length.isdecimal() or not 16 <= found.prefixlen <= 29:
        raise Invalid(f"{shown(text)} has no prefix length from /16 to /29")
    if text.partition("/")[0] != str(found.network_address):
        raise Invalid(f"{shown(text)} has host bits set; the subnet is {found}")
    if not _is_usable(found[0]) or not _is_usable(found[-1]):
        raise Invalid(f"{shown(text)} cannot be a network's subnet")
    return found


def subnet6(value: Any) -> IPv6Network | None:
    """An IPv6 subnet; None for "none", a network without IPv6."""
    text = string(value)
    if text == "none":
        return None
    try:
        found = IPv6Network(text, strict=False)
        first = IPv6Address(text.partition("/")[0])
    except ValueError:
        raise Invalid(
            f"{shown(text)} is not an IPv6 subnet, as in fd12:3456:789a::/64, "
            'nor "none"'
        ) from None
    if found.prefixlen != 64:
        raise Invalid(f"{shown(text)} has not the prefix length /64")
    if first != found.network_address:
        raise Invalid(f"{shown(text)} has host bits set; the subnet is {found}")
    if not _is_usable(first):
        raise Invalid(f"{shown(text)} cannot be a network's subnet")
    return found


def _is_usable(address: Address) -> bool:
    """Whether a host on a network can have the address."""
    if isinstance(address, IPv6Address):
        return not (
            address.is_link_local
            or address.is_loopback
            or address.is_multicast
            or address.is_unspecified
            or address.ipv4_mapped is not None
        )
    return not (
        address.is_link_local
        or address.is_loopback
        or address.is_multicast
        or address.is_reserved
        or address in IPv4Network("0.0.0.0/8")
    )
