# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a granted NIC is: the name and the MAC of its guest, and its entry, before
anything of it exists.

Each is chosen or refused here without an await, in the same turn of the loop as the
decision; `daemon/provision/provisioner.py` makes it true.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from ...errors import MacInUse, NameInUse
from ...model import (
    TAP_PREFIX,
    AddressCheck,
    AttachRequest,
    NetworkDefinition,
    Peer,
    Rate,
    State,
)
from ...networks import addresses, ruleset
from ...networks.guest_addresses import has_anothers_mac, reservation_for
from ...policy.config.current import CurrentConfig
from ...policy.core.decide import Decision
from ...policy.core.rulebook import Target
from ..decide.judge import Judge
from ..identify.accounts import user_name, vmm_of_helper
from ..nics import expiry
from ..nics.ledger import Ledger, Nic

_TAP_DIGITS = 7  # after "tapster" and the kind: all that 15 bytes hold


class Allocator:
    """Chooses for one broker."""

    def __init__(
        self,
        seed: bytes,
        ledger: Ledger,
        judge: Judge,
        current: CurrentConfig,
        is_gone: Callable[[Nic], bool],
    ) -> None:
        """
        :param seed: of the machine, which MACs follow from.
        :param is_gone: whether a NIC has none of its tap left; clears up if so.
        """
        self._seed = seed
        self._ledger = ledger
        self._judge = judge
        self._current = current
        self._is_gone = is_gone

    def guest_name(self, request: AttachRequest, peer: Peer, target: Target) -> str:
        """The name that was judged, if it is free."""
        scope = self._judge.name_key(peer, target)
        if request.name is None:
            return self._ledger.free_name(*scope)
        holder = self._ledger.by_scope((*scope, request.name))
        if holder is not None and not self._is_gone(holder):
            raise NameInUse(
                f"a guest named {request.name} is attached already",
                "choose another --name, or end that guest",
            )
        return request.name

    def check_mac(
        self,
        peer: Peer,
        request: AttachRequest,
        network: str | None,
        bridge: str,
        name: str,
    ) -> None:
        mac = request.mac
        if mac is not None and self.is_kept(mac, network, bridge, name, peer.uid):
            raise MacInUse(
                f"the MAC address {mac} is reserved for another guest",
                "leave the MAC out to be given one",
            )

    def is_kept(
        self, mac: str, network: str | None, bridge: str, name: str, uid: int
    ) -> bool:
        """Whether a MAC is reserved for another guest than that one, on its
        network or on another of the same Linux bridge."""
        return any(
            has_anothers_mac(definition, mac, name, uid)
            for definition in self._current.value.networks.values()
            if network == definition.name or bridge == definition.bridge
        )

    def mac_of(
        self,
        request: AttachRequest,
        definition: NetworkDefinition | None,
        identity: tuple[object, ...],
        bridge_index: int,
    ) -> str | None:
        """What was asked for, or is reserved, or follows from who it is for.

        :raises MacInUse: another guest of that bridge has it.
        """
        mac = request.mac
        if mac is None and definition is not None:
            *_, uid, name = identity
            reserved = reservation_for(definition, str(name), int(str(uid)))
            mac = reserved.mac if reserved else None
        if mac is not None:
            holder = self._ledger.by_mac(bridge_index, mac)
            if holder is not None and not self._is_gone(holder):
                raise MacInUse(
                    f"another guest of that network has the MAC address {mac}",
                    "leave the MAC out to be given one",
                )
            return mac
        if request.for_parent:
            return None
        for derived in addresses.guest_macs(self._seed, *identity):
            if not self._ledger.knows_mac(derived):
                return derived
            holder = self._ledger.by_mac(bridge_index, derived)
            if holder is not None and self._is_gone(holder):
                return derived
        raise AssertionError("there is always another MAC")

    def new_nic(
        self,
        peer: Peer,
        request: AttachRequest,
        decision: Decision,
        kind: str,
        name: str,
        mac: str | None,
        definition: NetworkDefinition | None,
    ) -> Nic:
        pid = vmm_of_helper(peer.pid) if request.for_parent else peer.pid
        # A waiting port is locked to its first MAC; a trusted one never waits.
        trusted = decision.trusted
        digits = addresses.base36(secrets.randbits(64), _TAP_DIGITS)
        rate = definition.rate if definition else Rate()
        return Nic(
            ifname=TAP_PREFIX + (ruleset.TRUSTED if trusted else kind) + digits,
            ifindex=0,
            bridge="",
            bridge_index=0,
            network=definition.name if definition else None,
            uid=peer.uid,
            user=user_name(peer.uid),
            pid=pid,
            name=name,
            mac=mac,
            ipv4=None,
            ipv6=None,
            mtu=0,
            state=State.WAITING if mac is None and not trusted else State.ACTIVE,
            trusted=trusted,
            isolated=definition.is_isolating if definition else False,
            rate_egress=rate.egress,
            rate_ingress=rate.ingress,
            macs=list(decision.macs),
            expires=None if decision.ttl is None else expiry.now() + decision.ttl,
            share=decision.share,
        )

    def address_check(self, bridge: str) -> AddressCheck:
        """How a bridge that is asked for by its own name checks addresses: as
        the network does that is defined on it, if there is one."""
        for definition in self._current.value.networks.values():
            if definition.bridge == bridge:
                return definition.address_check
        return AddressCheck.LEASE
