# SPDX-License-Identifier: LGPL-2.1-or-later
"""A network's definition as JSON.

The record of a network instance holds the definition that it was brought up with.
Its guests run with that one, whatever the configuration says by the time the next
broker reads it.
"""

from __future__ import annotations

import functools
import re
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
)
from typing import Any, TypeVar

from ..jsonutil import (
    Reader,
    array,
    boolean,
    get,
    integer,
    mapping,
    optional,
    row,
    text_as,
    word,
)
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

T = TypeVar("T")

_PORT = re.compile(r"(tcp|udp)/(\d{1,5})(?:-(\d{1,5}))?", re.ASCII)


def to_json(definition: NetworkDefinition) -> dict[str, Any]:
    """Return all fields of a definition as values that JSON has."""
    made = {name: _json(getattr(definition, name)) for name in _READERS}
    made["rate"] = [definition.rate.egress, definition.rate.ingress]
    made["forward"] = [
        [str(each.port), each.guest, each.guest_port] for each in definition.forward
    ]
    made["reservations"] = {
        name: [_json(each.ipv4), _json(each.ipv6), each.mac, each.user]
        for name, each in definition.reservations.items()
    }
    return made


def _json(value: Any) -> Any:
    if isinstance(value, tuple):
        return [str(each) for each in value]
    return value if value is None or isinstance(value, bool | int) else str(value)


def from_json(data: object) -> NetworkDefinition:
    """Make the definition of which `to_json` made `data`.

    :raises JsonError: a field is missing, or is nothing that was ever written.
    """
    return NetworkDefinition(
        **{name: get(data, name, read) for name, read in _READERS.items()}
    )


def subnet4_of(value: object) -> IPv4Network:
    """Read an IPv4 subnet that has room for a gateway and a guest.

    :raises ValueError: it is none.
    """
    found = IPv4Network(word(value))
    if found.prefixlen > 30:
        raise ValueError(f"not a subnet: {value!r}")
    return found


def subnet6_of(value: object) -> IPv6Network:
    """Read an IPv6 subnet with a prefix of 64 bits.

    :raises ValueError: it is none.
    """
    found = IPv6Network(word(value))
    if found.prefixlen != 64:
        raise ValueError(f"not a subnet: {value!r}")
    return found


@functools.lru_cache(256)
def parse_port(text: str) -> Port:
    """Parse "tcp/80" or "udp/5000-5010".

    :raises ValueError: it is neither.
    """
    found = _PORT.fullmatch(text)
    if not found:
        raise ValueError(f"not a port: {text!r}")
    first = int(found[2])
    last = int(found[3] or first)
    if not 0 < first <= last < 65536:
        raise ValueError(f"not a port: {text!r}")
    return Port(found[1], first, last)


_PORT_READER = text_as(parse_port)
_NUMBER = integer(0)


def _rate(value: object) -> Rate:
    return Rate(*row(value, _NUMBER, _NUMBER))


def _forward(value: object) -> Forward:
    return Forward(*row(value, _PORT_READER, word, _NUMBER))


def _reservation(value: object) -> Reservation:
    return Reservation(
        *row(
            value,
            optional(text_as(IPv4Address)),
            optional(text_as(IPv6Address)),
            optional(word),
            optional(_NUMBER),
        )
    )


def _tuple_of(read: Reader[T]) -> Reader[tuple[T, ...]]:
    values = array(read)
    return lambda value: tuple(values(value))


# What reads each field. Words go into dnsmasq's configuration and nftables' text: a
# second line in one would be a directive of its own.
_READERS: dict[str, Reader[Any]] = {
    "name": word,
    "mode": Mode,
    "scope": Scope,
    "bridge": optional(word),
    "subnet": optional(subnet4_of),
    "subnet6": optional(subnet6_of),
    "ipv6": boolean,
    "slaac": boolean,
    "domain": word,
    "dns": _tuple_of(text_as(ip_address)),
    "dhcp": boolean,
    "mtu": optional(_NUMBER),
    "isolation": optional(boolean),
    "egress": Egress,
    "host_access": _tuple_of(_PORT_READER),
    "rate": _rate,
    "forward": _tuple_of(_forward),
    "address_check": AddressCheck,
    "max_nics": optional(_NUMBER),
    "reservations": mapping(_reservation),
}
