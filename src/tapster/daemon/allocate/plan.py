# SPDX-License-Identifier: LGPL-2.1-or-later
"""The complete NIC of a granted request, before any of it exists. Pure.

`allocator.py` chooses what is unique (name, MAC, address); here that and what was
decided become one `Nic`. Only the index of its tap is still missing, which the
kernel gives (`provision/`).
"""

from __future__ import annotations

from dataclasses import dataclass

from ...kernel.rtnetlink import Link
from ...model import (
    TAP_PREFIX,
    AddressCheck,
    NetworkDefinition,
    Peer,
    Rate,
    Reservation,
    State,
)
from ...networks import ruleset
from ...networks.managed_network import ManagedNetwork
from ..nics.nic import Nic


@dataclass(frozen=True, slots=True)
class Grant:
    """What was decided about one request, and chosen for it."""

    peer: Peer
    user: str  # the account's name, or the uid
    pid: int  # of the process that is to hold the tap
    name: str  # of the guest
    mac: str | None  # of the guest; None: the first one that it shows
    host_mac: str  # of the host's end of the tap
    digits: str  # the random part of the tap's name
    trusted: bool  # no anti-spoofing
    macs: tuple[str, ...]  # patterns of what a MAC that is shown may be
    expires: float | None  # seconds of CLOCK_BOOTTIME
    share: str | None  # the name in lxc-usernet whose number it counts for

    def ifname(self, kind: str) -> str:
        """The tap's name, which tells nftables what kind of port it is.

        :param kind: ruleset.NAT or ruleset.LAN; a trusted port is neither.
        """
        kind = ruleset.TRUSTED if self.trusted else kind
        return TAP_PREFIX + kind + self.digits

    @property
    def state(self) -> State:
        """A port without a MAC waits for the first one; a trusted one never does."""
        waits = self.mac is None and not self.trusted
        return State.WAITING if waits else State.ACTIVE


def on_network(
    grant: Grant, network: ManagedNetwork, ipv4: str, ipv6: str | None
) -> Nic:
    """A NIC on a network of ours.

    :param ipv4, ipv6: the guest's addresses; no IPv6 while its MAC is not known.
    """
    definition = network.definition
    return _nic(
        grant,
        ruleset.NAT,
        network.bridge,
        network.bridge_index,
        network.mtu,
        definition,
        ipv4=ipv4,
        ipv6=ipv6,
        shared=definition.is_shared,
    )


def on_bridge(
    grant: Grant,
    link: Link,
    definition: NetworkDefinition | None,
    check: AddressCheck,
    reserved: Reservation | None,
) -> Nic:
    """A NIC on a Linux bridge of the host's.

    :param definition: of the network that the bridge was asked for as; None: it was
        asked for by its own name.
    :param check: how the guest is held to its addresses.
    :param reserved: the addresses that the configuration has for the guest; it is
        held to these, and learns no others from the LAN's DHCP server.
    """
    ipv4 = ipv6 = None
    if reserved is not None and check is not AddressCheck.OFF:
        ipv4 = str(reserved.ipv4) if reserved.ipv4 else None
        ipv6 = str(reserved.ipv6) if reserved.ipv6 else None
    has_reserved = bool(ipv4 or ipv6)
    learns = check is AddressCheck.LEASE and not grant.trusted
    return _nic(
        grant,
        ruleset.LAN,
        link.name,
        link.ifindex,
        link.mtu,
        definition,
        ipv4=ipv4,
        ipv6=ipv6,
        learns=learns and not has_reserved,
        strict=check is AddressCheck.RESERVED,
    )


def _nic(
    grant: Grant,
    kind: str,
    bridge: str,
    bridge_index: int,
    mtu: int,
    definition: NetworkDefinition | None,
    *,
    ipv4: str | None,
    ipv6: str | None,
    shared: bool = False,
    learns: bool = False,
    strict: bool = False,
) -> Nic:
    rate = definition.rate if definition is not None else Rate()
    return Nic(
        ifname=grant.ifname(kind),
        ifindex=0,
        bridge=bridge,
        bridge_index=bridge_index,
        network=definition.name if definition is not None else None,
        uid=grant.peer.uid,
        user=grant.user,
        pid=grant.pid,
        name=grant.name,
        mac=grant.mac,
        ipv4=ipv4,
        ipv6=ipv6,
        mtu=mtu,
        state=grant.state,
        shared=shared,
        trusted=grant.trusted,
        isolated=definition.is_isolating if definition is not None else False,
        strict=strict,
        learns=learns,
        rate_egress=rate.egress,
        rate_ingress=rate.ingress,
        macs=grant.macs,
        host_mac=grant.host_mac,
        expires=grant.expires,
        share=grant.share,
        handed_out=False,
    )
