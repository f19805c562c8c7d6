# SPDX-License-Identifier: LGPL-2.1-or-later
"""Chooses what has to be unique: the guest's name, its MAC and its addresses.

Nothing is awaited between the decision and the choice, so nobody can take in the
meantime what is chosen here. Who asks again under the same name is given the same
MAC and address again: both follow from the machine's seed and from who asks.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from ...errors import MacInUse, NameInUse
from ...kernel.rtnetlink import Link
from ...model import AddressCheck, AttachRequest, NetworkDefinition, Peer
from ...networks import addresses
from ...networks.guest_addresses import has_anothers_mac, reservation_for
from ...networks.managed_network import ManagedNetwork
from ...policy.config.current import CurrentConfig
from ...policy.core.decide import Decision
from ...policy.core.rulebook import Target
from ..decide.judge import Judge
from ..identify.accounts import user_name, vmm_of_helper
from ..nics import expiry
from ..nics.ledger import Ledger
from ..nics.nic import Nic
from . import plan

_TAP_DIGITS = 7  # after "tapster" and the kind: all that 15 bytes hold


class Allocator:
    """Chooses for one broker."""

    def __init__(
        self,
        seed: bytes,
        ledger: Ledger,
        judge: Judge,
        current: CurrentConfig,
        clear_if_gone: Callable[[Nic], bool],
    ) -> None:
        """
        :param seed: of the machine, which MACs follow from.
        :param clear_if_gone: clears up after a NIC whose tap is gone, and tells
            whether it was.
        """
        self._seed = seed
        self._ledger = ledger
        self._judge = judge
        self._current = current
        self._clear_if_gone = clear_if_gone

    def on_network(
        self,
        peer: Peer,
        request: AttachRequest,
        decision: Decision,
        network: ManagedNetwork,
    ) -> Nic:
        """The NIC of a request that was granted on a network of ours.

        :raises NameInUse, MacInUse, AddressesExhausted: what was asked for is taken.
        """
        definition = network.definition
        name = self._name(request, peer, Target(network=definition.name))
        self._check_reserved(request, definition.name, network.bridge, name, peer.uid)
        mac = self._mac(
            request,
            definition,
            (definition.name, peer.uid, name),
            network.bridge_index,
        )
        wanted = network.addresses_for(name, peer.uid, mac)
        in_use = {n.ipv4 for n in self._ledger.on_bridge(network.bridge) if n.ipv4}
        grant = self._grant(peer, request, decision, name, mac)
        ipv4 = network.guest_ipv4(wanted, in_use)
        return plan.on_network(grant, network, ipv4, wanted.ipv6())

    def on_bridge(
        self,
        peer: Peer,
        request: AttachRequest,
        decision: Decision,
        link: Link,
        definition: NetworkDefinition | None,
    ) -> Nic:
        """The NIC of a request that was granted on a Linux bridge of the host's.

        :param definition: of the network that the bridge was asked for as, if any.
        :raises NameInUse, MacInUse: what was asked for is taken.
        """
        network = definition.name if definition is not None else None
        target = Target(network=network)
        if definition is None:
            target = Target(bridge=link.name)
        name = self._name(request, peer, target)
        self._check_reserved(request, network, link.name, name, peer.uid)
        # "bridge" where there is no network: MACs stay what they were before
        # networks had names.
        identity = (network or "bridge", link.name, peer.uid, name)
        mac = self._mac(request, definition, identity, link.ifindex)
        reserved, check = None, self._address_check(link.name)
        if definition is not None:
            check = definition.address_check
            reserved = reservation_for(definition, name, peer.uid)
        grant = self._grant(peer, request, decision, name, mac)
        return plan.on_bridge(grant, link, definition, check, reserved)

    def is_reserved(
        self, mac: str, network: str | None, bridge: str, name: str, uid: int
    ) -> bool:
        """Whether a MAC is reserved for another guest.

        :param network: that the guest is on; None on a Linux bridge. Reservations
            of all networks on the same Linux bridge count.
        :param name, uid: the guest and its user.
        """
        return any(
            has_anothers_mac(definition, mac, name, uid)
            for definition in self._current.value.networks.values()
            if network == definition.name or bridge == definition.bridge
        )

    # Choosing

    def _name(self, request: AttachRequest, peer: Peer, target: Target) -> str:
        """The name that was decided about, if it is free."""
        scope = self._judge.name_scope(peer, target)
        if request.name is None:
            return self._ledger.free_name(*scope)
        holder = self._ledger.by_name((*scope, request.name))
        if holder is not None and not self._clear_if_gone(holder):
            raise NameInUse(
                f"a guest named {request.name} is attached already",
                "choose another --name, or end that guest",
            )
        return request.name

    def _check_reserved(
        self,
        request: AttachRequest,
        network: str | None,
        bridge: str,
        name: str,
        uid: int,
    ) -> None:
        mac = request.mac
        if mac is not None and self.is_reserved(mac, network, bridge, name, uid):
            raise MacInUse(
                f"the MAC address {mac} is reserved for another guest",
                "leave the MAC out to be given one",
            )

    def _mac(
        self,
        request: AttachRequest,
        definition: NetworkDefinition | None,
        identity: tuple[object, ...],
        bridge_index: int,
    ) -> str | None:
        """The MAC that was asked for, or is reserved, or follows from the identity.

        :param identity: what the MAC is made of; it ends with uid and name.
        :returns: None if the guest is to show its MAC.
        :raises MacInUse: another guest of that bridge has it.
        """
        mac = request.mac
        if mac is None and definition is not None:
            *_, uid, name = identity
            reserved = reservation_for(definition, str(name), int(str(uid)))
            mac = reserved.mac if reserved else None
        if mac is not None:
            holder = self._ledger.by_mac(bridge_index, mac)
            if holder is not None and not self._clear_if_gone(holder):
                raise MacInUse(
                    f"another guest of that network has the MAC address {mac}",
                    "leave the MAC out to be given one",
                )
            return mac
        if request.for_parent:
            return None
        return self._derived_mac(identity, bridge_index)

    def _derived_mac(self, identity: tuple[object, ...], bridge_index: int) -> str:
        for derived in addresses.guest_macs(self._seed, *identity):
            if not self._ledger.knows_mac(derived):
                return derived
            holder = self._ledger.by_mac(bridge_index, derived)
            if holder is not None and self._clear_if_gone(holder):
                return derived
        raise AssertionError("there is always another MAC")

    def _grant(
        self,
        peer: Peer,
        request: AttachRequest,
        decision: Decision,
        name: str,
        mac: str | None,
    ) -> plan.Grant:
        ttl = decision.ttl
        return plan.Grant(
            peer=peer,
            user=user_name(peer.uid),
            pid=vmm_of_helper(peer.pid) if request.for_parent else peer.pid,
            name=name,
            mac=mac,
            host_mac=addresses.host_side_mac(mac or secrets.token_bytes(6).hex(":")),
            digits=addresses.base36(secrets.randbits(64), _TAP_DIGITS),
            trusted=decision.trusted,
            macs=tuple(decision.macs),
            expires=None if ttl is None else expiry.now() + ttl,
            share=decision.share,
        )

    def _address_check(self, bridge: str) -> AddressCheck:
        """How addresses are checked on a bridge that was asked for by its own name:
        as the network does that is defined on it, if there is one."""
        for definition in self._current.value.networks.values():
            if definition.bridge == bridge:
                return definition.address_check
        return AddressCheck.LEASE
