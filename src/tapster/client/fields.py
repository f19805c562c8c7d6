# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a broker's answers must have before anybody relies on them.

A client does without the library that the daemon's interface is written with,
so the objects of the wire are told here once more; a test holds both equal.
"""

from __future__ import annotations

from tapster.errors import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    # Of each field its type, a list being one of strings, and whether it may be
    # null or missing.
    Fields = dict[str, tuple[type, bool]]

NIC: Fields = {
    "ifname": (str, False),
    "mac": (str, True),
    "ipv4": (str, True),
    "ipv6": (str, True),
    "mtu": (int, False),
    "bridge": (str, False),
    "network": (str, True),
    "uid": (int, False),
    "user": (str, False),
    "pid": (int, False),
    "name": (str, False),
    "state": (str, False),
    "reason": (str, True),
    "expires": (str, True),
    "rx_bytes": (int, False),
    "tx_bytes": (int, False),
    "rx_packets": (int, False),
    "tx_packets": (int, False),
}
NETWORK: Fields = {
    "name": (str, False),
    "mode": (str, False),
    "scope": (str, False),
    "uid": (int, True),
    "user": (str, True),
    "state": (str, False),
    "bridge": (str, True),
    "subnet4": (str, True),
    "subnet6": (str, True),
    "gateway4": (str, True),
    "gateway6": (str, True),
    "domain": (str, True),
    "mtu": (int, True),
    "isolation": (bool, False),
    "egress": (str, True),
    "host_access": (list, False),
    "egress_rate": (int, False),
    "ingress_rate": (int, False),
    "dns": (list, False),
    "dhcp": (bool, False),
    "address_check": (str, True),
    "forwards": (list, False),
    "max_nics": (int, True),
    "nics": (int, False),
    "notes": (list, False),
}
FORWARD: Fields = {
    "network": (str, False),
    "uid": (int, True),
    "user": (str, True),
    "port": (str, False),
    "guest": (str, False),
    "guest_port": (int, False),
    "state": (str, False),
    "ipv4": (str, True),
    "ipv6": (str, True),
    "static": (bool, False),
}
FINDING: Fields = {
    "code": (str, False),
    "severity": (str, False),
    "message": (str, False),
    "remedy": (str, True),
}
STEP: Fields = {
    "place": (str, False),
    "effect": (str, False),
    "outcome": (str, False),
}
# And `steps`, which is a list of the former.
EXPLANATION: Fields = {
    "user": (str, False),
    "uid": (int, False),
    "allowed": (bool, False),
    "reason": (str, False),
    "rule": (str, True),
    "polkit": (bool, False),
    "max_nics": (int, True),
    "nics": (int, False),
    "network_max_nics": (int, True),
    "network_nics": (int, True),
    "notes": (list, False),
}


def check(value: object, fields: Fields, what: str) -> dict[str, Any]:
    """An object of the wire with each field there is, and others untouched.

    :param what: what it is called where it is none.
    :raise ProtocolError: a field is missing or of the wrong type.
    """
    if not isinstance(value, dict):
        raise ProtocolError(f"the broker's answer has no {what}")
    checked: dict[str, Any] = dict(value)
    for field, (kind, nullable) in fields.items():
        found = checked.setdefault(field, None)
        if found is None and nullable:
            continue
        if type(found) is not kind or (kind is list and not is_strings(found)):
            text = f"the {what} in the broker's answer has no good {field}"
            raise ProtocolError(text)
    return checked


def check_list(values: object, fields: Fields, what: str) -> list[dict[str, Any]]:
    """The same for each in a list."""
    if not isinstance(values, list):
        raise ProtocolError(f"the broker's answer has no list of {what}s")
    return [check(value, fields, what) for value in values]


def is_strings(value: object) -> bool:
    """Whether it is a list, and of nothing but strings."""
    return isinstance(value, list) and all(type(word) is str for word in value)
