# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which subnet a network instance gets, and who else has it by now. Pure.

An instance keeps its subnet from one time to the next, as long as nothing else on
the host has an address or route in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network

from ..errors import AddressesExhausted, BrokerFailure
from ..model import NetworkDefinition
from . import addresses


def choose_ipv4(
    definition: NetworkDefinition,
    key: str,
    seed: bytes,
    used: Iterable[IPv4Network | IPv6Network],
    last: IPv4Network | None,
) -> IPv4Network:
    """Choose the IPv4 subnet of an instance that comes up.

    :param definition: its `subnet` is taken, or refused; never another.
    :param key: of the instance; a free subnet follows from it and the seed.
    :param seed: of this host.
    :param used: networks of all addresses and routes of the host.
    :param last: what the instance had the last time; None: it is new.
    :raises BrokerFailure: the configured subnet is in use.
    :raises AddressesExhausted: no subnet is free.
    """
    in_use = [net for net in used if isinstance(net, IPv4Network)]
    fixed = definition.subnet
    if fixed is not None:
        rival = next((net for net in in_use if net.overlaps(fixed)), None)
        if rival is not None:
            raise BrokerFailure(
                f"network {definition.name} did not come up: its subnet is in use",
                f"{fixed} overlaps {rival} of this host; see tapster network show",
            )
        return fixed
    if last is not None and not any(net.overlaps(last) for net in in_use):
        return last
    free = addresses.free_ipv4_subnet(seed, in_use, key)
    if free is None:
        raise AddressesExhausted("no subnet is free on this host")
    return free


def rival_of(
    subnet: IPv4Network, used: Iterable[tuple[int, IPv4Network]], bridge_index: int
) -> IPv4Network | None:
    """Find an address or route of another device that is in a subnet.

    :param subnet: of an instance that is up.
    :param used: device index and network of each address and route of the host.
    :param bridge_index: of the instance's own bridge, which does not count.
    :returns: the network that overlaps; None: there is none.
    """
    return next(
        (net for index, net in used if index != bridge_index and net.overlaps(subnet)),
        None,
    )
