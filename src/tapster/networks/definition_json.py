# SPDX-License-Identifier: LGPL-2.1-or-later
"""A network's definition in a record: how an instance was brought up.

The configuration may say something else by the time the next broker reads it;
its guests run with what is written here. JSON and back, and what is different
between two definitions.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address
from ipaddress import IPv6Address as _IPv6Address
from typing import Any

from ..model import (
    AddressCheck,
    Egress,
    Forward,
    Mode,
    NetworkDefinition,
    Port,
    Rate,
    Reservation,
    Scope,
)

_PORT = re.compile(r"(tcp|udp)/(\d{1,5})(?:-(\d{1,5}))?", re.ASCII)


def to_json(definition: NetworkDefinition) -> dict[str, Any]:
    """All fields, in JSON's types."""
    d = definition
    return {
        **{
            name: _text(getattr(d, name))
            for name in (
                *("name", "mode", "scope", "bridge", "subnet", "subnet6", "ipv6"),
                *("slaac", "domain", "dhcp", "mtu", "isolation", "egress"),
                *("address_check", "max_nics"),
            )
        },
        "dns": [str(server) for server in d.dns],
        "host_access": [str(port) for port in d.host_access],
        "rate": [d.rate.egress, d.rate.ingress],
        "forward": [[str(f.port), f.guest, f.guest_port] for f in d.forward],
        "reservations": {
            name: [_text(r.ipv4), _text(r.ipv6), r.mac, r.user]
            for name, r in d.reservations.items()
        },
    }


def _text(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int) else str(value)


def _maybe(kind: Any, value: Any) -> Any:
    return None if value is None else kind(value)


def _text_of(value: Any) -> str:
    """What goes into dnsmasq's configuration and nftables' text, a line of it."""
    if not isinstance(value, str) or not value.isprintable() or " " in value:
        raise TypeError(f"not a word: {value!r}")
    return value


def subnet4_of(value: Any) -> IPv4Network:
    """:raises ValueError, TypeError: it is none that has a gateway and a guest."""
    found = IPv4Network(_text_of(value))
    if found.prefixlen > 30:
        raise ValueError(f"not a subnet: {value!r}")
    return found


def subnet6_of(value: Any) -> IPv6Network:
    """:raises ValueError, TypeError: it is none of 64 bits."""
    found = IPv6Network(_text_of(value))
    if found.prefixlen != 64:
        raise ValueError(f"not a subnet: {value!r}")
    return found


def _flag_of(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"neither true nor false: {value!r}")
    return value


def _number_of(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError(f"not a number: {value!r}")
    return value


def from_json(data: dict[str, Any]) -> NetworkDefinition:
    """:raises ValueError, KeyError, TypeError: these are not such fields."""
    try:
        return _from_json(data)
    except (AttributeError, OverflowError) as err:
        raise ValueError(str(err)) from err


def _from_json(data: dict[str, Any]) -> NetworkDefinition:
    return NetworkDefinition(
        name=_text_of(data["name"]),
        mode=Mode(data["mode"]),
        scope=Scope(data["scope"]),
        bridge=_maybe(_text_of, data["bridge"]),
        subnet=_maybe(subnet4_of, data["subnet"]),
        subnet6=_maybe(subnet6_of, data["subnet6"]),
        ipv6=_flag_of(data["ipv6"]),
        slaac=_flag_of(data["slaac"]),
        domain=_text_of(data["domain"]),
        dns=tuple(ip_address(server) for server in data["dns"]),
        dhcp=_flag_of(data["dhcp"]),
        mtu=_maybe(_number_of, data["mtu"]),
        isolation=_maybe(_flag_of, data["isolation"]),
        egress=Egress(data["egress"]),
        host_access=tuple(parse_port(text) for text in data["host_access"]),
        rate=Rate(*map(_number_of, data["rate"])),
        forward=tuple(
            Forward(parse_port(port), _text_of(guest), _number_of(number))
            for port, guest, number in data["forward"]
        ),
        address_check=AddressCheck(data["address_check"]),
        max_nics=_maybe(_number_of, data["max_nics"]),
        reservations={
            str(name): Reservation(
                _maybe(IPv4Address, ipv4),
                _maybe(_IPv6Address, ipv6),
                _maybe(_text_of, mac),
                _maybe(_number_of, user),
            )
            for name, (ipv4, ipv6, mac, user) in data["reservations"].items()
        },
    )


@functools.lru_cache(256)
def parse_port(text: str) -> Port:
    """ "tcp/80" or "udp/5000-5010"; :raises ValueError: it is neither."""
    found = _PORT.fullmatch(text)
    if not found:
        raise ValueError(f"not a port: {text!r}")
    first = int(found[2])
    last = int(found[3] or first)
    if not 0 < first <= last < 65536:
        raise ValueError(f"not a port: {text!r}")
    return Port(found[1], first, last)


def differences(one: NetworkDefinition, other: NetworkDefinition) -> set[str]:
    """The names of the fields in which they differ."""
    return {
        field.name
        for field in dataclasses.fields(NetworkDefinition)
        if getattr(one, field.name) != getattr(other, field.name)
    }


def with_properties(
    base: NetworkDefinition, source: NetworkDefinition, names: set[str]
) -> NetworkDefinition:
    """`base` with these fields of `source`."""
    return dataclasses.replace(base, **{name: getattr(source, name) for name in names})
