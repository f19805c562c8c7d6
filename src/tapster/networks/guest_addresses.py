# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which addresses a guest of a network of ours gets. Pure.

What is reserved for its name; else what it had the last time; else a free one
that follows from its name. Nobody else is given what is reserved.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

from ..errors import AddressesExhausted
from ..model import NetworkDefinition, Reservation, Scope
from . import addresses
from .state_store import NetworkState


def reservation_for(
    definition: NetworkDefinition, name: str, uid: int
) -> Reservation | None:
    """What is reserved for that user's guest of that name."""
    found = definition.reservations.get(name)
    return None if found is None or found.user not in (None, uid) else found


def has_anothers_mac(
    definition: NetworkDefinition, mac: str, name: str, uid: int
) -> bool:
    """Whether a MAC is reserved, and not for that user's guest of that name."""
    return any(
        reserved.mac == mac and (other != name or reserved.user not in (None, uid))
        for other, reserved in definition.reservations.items()
    )


class GuestAddresses:
    """One guest's claim on a network."""

    def __init__(
        self,
        definition: NetworkDefinition,
        subnet4: IPv4Network,
        subnet6: IPv6Network | None,
        name: str,
        uid: int,
        mac: str | None,
    ) -> None:
        self._definition = definition
        self._subnet4 = subnet4
        self._subnet6 = subnet6
        # In a network of all, two users' guests of one name are two guests.
        shared = definition.scope is Scope.SHARED
        self._name = f"{name}.{uid}" if shared else name
        self._mac = mac
        self._reserved = reservation_for(definition, name, uid)

    def ipv4(
        self, seed: bytes, state: NetworkState, in_use: set[str]
    ) -> tuple[str, bool]:
        """The IPv4 address, and whether `state` has changed with it.

        :raises AddressesExhausted: every address is in use, or the reserved one.
        """
        if self._reserved is not None and self._reserved.ipv4 is not None:
            address = str(self._reserved.ipv4)
            if address in in_use:
                raise AddressesExhausted(
                    f"the address {address} that is reserved is in use",
                    "end the guest that has it",
                )
            return address, False
        held = in_use | {
            str(reserved.ipv4)
            for reserved in self._definition.reservations.values()
            if reserved.ipv4 is not None
        }
        known = state.guests
        had = known.get(self._name)
        if had is not None and had not in held and self._fits(had):
            if next(reversed(known)) != self._name:
                known[self._name] = known.pop(self._name)  # kept with the next save
            return had, False
        remembered = set(known.values())
        address = addresses.guest_address(
            seed, self._subnet4, held | remembered, self._name
        ) or self._of_the_longest_gone(known, held)
        known[self._name] = address
        return address, True

    def _of_the_longest_gone(self, known: dict[str, str], held: set[str]) -> str:
        for name, address in known.items():
            if address not in held and self._fits(address):
                return known.pop(name)
        raise AddressesExhausted(
            f"network {self._definition.name} has no free address",
            "end a guest, or ask for a larger subnet",
        )

    def _fits(self, address: str) -> bool:
        return addresses.is_guest_address(self._subnet4, address)

    def ipv6(self) -> str | None:
        """The IPv6 address: reserved, or made of the MAC. None while that is not
        known, and where the network has none."""
        if self._subnet6 is None or self._mac is None:
            return None
        if self._reserved is not None and self._reserved.ipv6 is not None:
            return str(self._reserved.ipv6)
        return addresses.eui64(self._subnet6, self._mac)
