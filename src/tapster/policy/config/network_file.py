# SPDX-License-Identifier: LGPL-2.1-or-later
"""[networks.NAME]: what a network is made of, from all files together.

A later file sets single keys anew. Each value is checked where it is written. Whether
the values go together is checked once all files are read (`network_check`); an error
then has the location of the key that was set last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any, NamedTuple

from ...model import (
    AddressCheck,
    Egress,
    Mode,
    NetworkDefinition,
    Rate,
    Reservation,
    Scope,
)
from ..core.rulebook import DEFAULT_NETWORK
from .network_values import (
    address,
    domain,
    forward,
    guest_ipv4,
    guest_ipv6,
    interface,
    mac,
    port,
    rate,
    subnet,
    subnet6,
)
from .toml_locations import Document, Invalid, Keys, UnknownKey
from .values import Names, boolean, choice, each, identity, integer, label, shown, table

NAME_LENGTH = 40
MOST_NICS = 10_000


class Setting(NamedTuple):
    """A value, and the key that set it."""

    value: Any
    document: Document
    keys: Keys

    @property
    def location(self) -> str:
        return self.document.location(*self.keys)


@dataclass(slots=True)
class Draft:
    """One network, as the files read so far make it."""

    name: str
    settings: dict[str, Setting] = field(default_factory=dict)
    reservations: dict[str, Setting] = field(default_factory=dict)

    def value(self, key: str, default: Any = None) -> Any:
        return self.settings[key].value if key in self.settings else default

    @property
    def mode(self) -> Mode:
        return Mode(self.value("mode", Mode.NAT))

    @property
    def scope(self) -> Scope:
        return Scope(self.value("scope", Scope.USER))

    @property
    def ipv6(self) -> bool:
        return "subnet6" not in self.settings or self.value("subnet6") is not None


def drafts() -> dict[str, Draft]:
    """The networks that exist before the first file is read."""
    return {DEFAULT_NETWORK: Draft(DEFAULT_NETWORK)}


def add(networks: dict[str, Draft], document: Document, names: Names) -> None:
    """Add what one file says.

    :param networks: the drafts so far, by name; these are changed.
    :param document: the file.
    :param names: the numbers of users' names.
    :raises ConfigError: a value is not acceptable, or a key not known.
    """
    try:
        found = table(document.data.get("networks", {}))
    except Invalid as err:
        raise document.error(("networks",), err, 0) from None
    for name, keys in found.items():
        here: Keys = ("networks", name)
        try:
            label(name, NAME_LENGTH)
            keys = table(keys)
        except Invalid as err:
            raise document.error(here, err, 0) from None
        _add_keys(networks.setdefault(name, Draft(name)), document, keys, names)


def _add_keys(
    draft: Draft, document: Document, found: Mapping[str, Any], names: Names
) -> None:
    for key, value in found.items():
        keys: Keys = ("networks", draft.name, key)
        if key == "reservations":
            _add_reservations(draft, document, value, names)
            continue
        if key not in CONVERT:
            problem = UnknownKey(key, (*CONVERT, "reservations"))
            raise document.error(keys[:-1], problem)
        try:
            converted = CONVERT[key](value)
        except Invalid as err:
            raise document.error(keys, err) from None
        draft.settings[key] = Setting(converted, document, keys)


def _add_reservations(
    draft: Draft, document: Document, value: object, names: Names
) -> None:
    keys: Keys = ("networks", draft.name, "reservations")
    try:
        found = table(value)
    except Invalid as err:
        raise document.error(keys, err) from None
    for guest, what in found.items():
        here = (*keys, guest)
        try:
            label(guest)
            reservation = _reservation(what, names)
        except Invalid as err:
            raise document.error(here, err) from None
        draft.reservations[guest] = Setting(reservation, document, here)


def _reservation(value: Any, names: Names) -> Reservation:
    if isinstance(value, str):
        found = address(value)
        if isinstance(found, IPv4Address):
            return Reservation(ipv4=guest_ipv4(value))
        return Reservation(ipv6=guest_ipv6(value))
    if not isinstance(value, dict):
        raise Invalid(f"{shown(value)} is neither an address nor a table")
    if not value:
        raise Invalid("the table is empty")
    convert: dict[str, Callable[[Any], Any]] = {
        "ipv4": guest_ipv4,
        "ipv6": guest_ipv6,
        "mac": mac,
        "user": identity("user", names.uid),
    }
    return Reservation(**table(value, convert))


def _rate(value: Any) -> Rate:
    return Rate(**table(value, {"egress": rate, "ingress": rate}))


def build(draft: Draft) -> NetworkDefinition:
    """The network of a draft that `network_check` has taken."""
    values = {key: setting.value for key, setting in draft.settings.items()}
    if values.get("domain") == NetworkDefinition(draft.name).full_domain:
        del values["domain"]
    return NetworkDefinition(
        draft.name,
        ipv6=draft.ipv6,
        reservations={
            guest: setting.value for guest, setting in draft.reservations.items()
        },
        **values,
    )


CONVERT: dict[str, Callable[[Any], Any]] = {
    "mode": choice(Mode, "ovn"),
    "scope": choice(Scope),
    "bridge": interface,
    "subnet": subnet,
    "subnet6": subnet6,
    "slaac": boolean,
    "domain": domain,
    "dns": each(address),
    "dhcp": boolean,
    "mtu": integer(576, 65535),
    "isolation": boolean,
    "egress": choice(Egress),
    "host_access": each(port),
    "rate": _rate,
    "forward": each(forward),
    "address_check": choice(AddressCheck),
    "max_nics": integer(1, MOST_NICS),
}
