# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which addresses a guest of a network of ours gets. Pure.

A guest gets the address that is reserved for its name, or else the one that it had the
last time, or else a free one that follows from its name. A reserved address is given to
nobody else.
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
    """The reservation for a guest.

    :param definition: of the network.
    :param name: of the guest.
    :param uid: of its user.
    :returns: None: there is none, or it is for another user's guest of that name.
    """
    found = definition.reservations.get(name)
    return None if found is None or found.user not in (None, uid) else found


def has_anothers_mac(
    definition: NetworkDefinition, mac: str, name: str, uid: int
) -> bool:
    """Whether a MAC is reserved for another guest.

    :param definition: of the network.
    :param mac: in lower case.
    :param name: of the guest that would have it.
    :param uid: of that guest's user.
    """
    return any(
        reserved.mac == mac and (other != name or reserved.user not in (None, uid))
        for other, reserved in definition.reservations.items()
    )


class GuestAddresses:
    """The addresses that one guest gets on one network instance."""

    def __init__(
        self,
        definition: NetworkDefinition,
        subnet4: IPv4Network,
        subnet6: IPv6Network | None,
        name: str,
        uid: int,
        mac: str | None,
    ) -> None:
        """
        :param definition: of the network.
        :param subnet4: of the instance.
        :param subnet6: of the instance; None: it has no IPv6.
        :param name: of the guest.
        :param uid: of the guest's user.
        :param mac: of the guest; None: not known yet.
        """
        self._definition = definition
        self._subnet4 = subnet4
        self._subnet6 = subnet6
        # On a shared network, two users' guests of one name are two guests.
        shared = definition.scope is Scope.SHARED
        self._name = f"{name}.{uid}" if shared else name
        self._mac = mac
        self._reserved = reservation_for(definition, name, uid)

    def ipv4(
        self, seed: bytes, state: NetworkState, in_use: set[str]
    ) -> tuple[str, bool]:
        """Choose the IPv4 address, and remember it in `state`.

        :param seed: of this host.
        :param state: what is remembered of the instance; changed in place.
        :param in_use: addresses that other guests have now.
        :returns: the address, and whether `state` has to be saved for it.
        :raises AddressesExhausted: every address is in use, or the reserved one is.
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
        """The IPv6 address: the reserved one, or the one made from the MAC. None: the
        MAC is not known yet, or the network has no IPv6."""
        if self._subnet6 is None or self._mac is None:
            return None
        if self._reserved is not None and self._reserved.ipv6 is not None:
            return str(self._reserved.ipv6)
        return addresses.eui64(self._subnet6, self._mac)
