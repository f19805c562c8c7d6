# SPDX-License-Identifier: LGPL-2.1-or-later
"""The way of a request, from who asks to what is handed over.

    identify → resolve → decide → allocate → provision → publish → reply → watch

The rooms of this package are those stages; here is what joins them. One event loop
runs it all: what is between two awaits can't be interleaved, and from the last decision
to the publishing there is no await. Between that and the reply there may be one, for
the administrator's hooks: whatever may happen to a NIC may happen then.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Callable, Collection

from ..errors import (
    BrokerFailure,
    MacInUse,
    NameInUse,
    NoSuchNic,
    NotAuthorized,
    QuotaExceeded,
    RequestError,
)
from ..kernel import rtnetlink
from ..kernel.netlink import NetlinkError
from ..kernel.nft import NftError
from ..kernel.rtnetlink import Link
from ..model import (
    AddressCheck,
    AttachRequest,
    Mode,
    NetworkDefinition,
    Rate,
    State,
)
from ..networks import ruleset
from ..networks.guest_addresses import reservation_for
from ..networks.host_context import HostContext
from ..networks.managed_network import ManagedNetwork
from ..policy.config.current import CurrentConfig
from ..policy.config.load import Config
from ..policy.core.decide import Decision
from ..policy.core.rulebook import DEFAULT_NETWORK, Target
from .allocate.allocator import Allocator
from .audit.events import Events
from .audit.request_context import RequestContext
from .decide.admission import Admission
from .decide.closing import PAUSE as _GOING_WAIT
from .decide.closing import TRIES as _GOING_TRIES
from .decide.closing import ClosingTaps
from .decide.consent import Consent, Consents
from .decide.judge import Judge
from .decide.permissions import Permissions
from .decide.quota import target_of
from .decide.visibility import Visibility
from .nics import expiry
from .nics.expected import is_of
from .nics.ledger import Ledger, Nic
from .provision import stages
from .provision.provisioner import Provisioner
from .provision.tap_fd import TapDescriptor
from .publish.forward_table import ForwardTable
from .publish.hooks.lifecycle import Hooks, RefusedByHook
from .publish.networks import RunningNetworks
from .publish.open_forwards import OpenForwards
from .resolve.bridges import Bridges
from .resolve.request import check

_log = logging.getLogger(__name__)

_RISING_TRIES = 5  # for a network that others change while it comes up


class Broker:
    """Everything that the daemon knows and may do, in one namespace."""

    def __init__(
        self,
        current: CurrentConfig,
        env: HostContext,
        ledger: Ledger,
        events: Events,
        judge: Judge,
        consent: Consent,
        visibility: Visibility,
        hooks: Hooks,
    ) -> None:
        self.current = current
        self.judge = judge
        self.consent = consent
        self.permissions = Permissions(current, consent)
        self.visibility = visibility
        self.closing = ClosingTaps(ledger, self._is_gone)
        self.expiry = expiry.Expiry(ledger, self._expire)
        self.env = env
        self.ledger = ledger
        self.events = events
        self.bridges = Bridges(env.netlink)
        self.admission = Admission(
            current, judge, consent, self.closing, events, self.bridges.find
        )
        self.hooks = hooks
        self.networks = RunningNetworks(env, ledger, current, self)
        self.forward_table = ForwardTable(
            os.path.join(env.store.directory, "forwards.json")
        )
        self.open_forwards = OpenForwards(
            self.forward_table, ledger, self.networks, env.nft, current
        )
        self._unanswered: set[str] = set()  # names of taps that nobody has yet
        self.allocator = Allocator(
            env.store.seed, ledger, self.judge, current, self._is_gone
        )
        self.provisioner = Provisioner(env, ledger, self.bridges)
        self.on_waiting: Callable[[], None] = stages.nothing

    @property
    def config(self) -> Config:
        return self.current.value

    def close(self) -> None:
        """Close what was opened here; NICs and networks stay."""
        self.networks.cancel()
        self.expiry.cancel()
        self.bridges.close()

    # attach

    async def attach(
        self, context: RequestContext, request: AttachRequest
    ) -> tuple[TapDescriptor, Nic]:
        """Serve one request to attach.

        :returns: the tap's descriptor, which the caller closes, and its entry.
        :raises RequestError: with the answer for the caller; nothing has changed.
        """
        request = check(request)
        context.network, context.bridge = request.network, request.bridge
        context.name, context.mac = request.name, request.mac
        try:
            made = await self._attach_when_gone(context, request)
            await self._tell_hooks(*made)
        except (NotAuthorized, QuotaExceeded):
            raise  # as told when it was refused
        except RequestError as err:
            reason = err.detail if isinstance(err, RefusedByHook) else err.message
            if self.config.problem is None:
                self.events.failed(context, reason)
            raise
        except Exception:
            self.events.failed(context, "an error that nobody foresaw: the log has it")
            raise
        self.events.about("attached", made[1], context=context)
        return made

    async def _attach_when_gone(
        self, context: RequestContext, request: AttachRequest
    ) -> tuple[TapDescriptor, Nic]:
        consents: Consents = set()
        for _ in range(_GOING_TRIES):
            try:
                return await self._attach(context, request, consents)
            except (NameInUse, MacInUse):
                # Of a guest that is starting again: its tap, closed at once,
                # may still be in our closing hands.
                if not TapDescriptor.pending:
                    break
                await asyncio.sleep(_GOING_WAIT)
        return await self._attach(context, request, consents)

    async def _attach(
        self, context: RequestContext, request: AttachRequest, consents: Consents
    ) -> tuple[TapDescriptor, Nic]:
        peer = context.peer
        for _ in range(_RISING_TRIES):
            decision, target, link, _ = await self.admission.decide(
                context, request, consents
            )
            if link is not None:
                return self._attach_to_bridge(context, request, decision, link, None)
            definition = self.config.networks[target.network or DEFAULT_NETWORK]
            if definition.mode is Mode.BRIDGE:
                link = self._bridge_of(definition)
                return self._attach_to_bridge(
                    context, request, decision, link, definition
                )
            network = self.networks.ready(definition, peer.uid)
            if network is not None:
                try:
                    return self._attach_to_network(context, request, decision, network)
                finally:
                    self.networks.schedule_down(network)
            network = await self.networks.bring_up(definition, peer.uid)
            self.networks.schedule_down(network)  # unless its NIC comes
            # That took its time: what was true may not be now.
        raise BrokerFailure(
            f"network {definition.name} does not stay up", "try again in a moment"
        )

    def _is_gone(self, nic: Nic) -> bool:
        link = rtnetlink.get_link(self.env.netlink, nic.ifindex)
        if not is_of(nic, link):
            self.nic_gone(nic)
            return True
        return False

    def _bridge_of(self, definition: NetworkDefinition) -> Link:
        link = self.bridges.find(definition.bridge or "")
        if link is None or link.kind != "bridge":
            _log.error(
                "network %s: there is no bridge %s", definition.name, definition.bridge
            )
            raise BrokerFailure(
                f"the bridge of network {definition.name} is not there",
                "the administrator has to make it",
            )
        return link

    def _attach_to_network(
        self,
        context: RequestContext,
        request: AttachRequest,
        decision: Decision,
        network: ManagedNetwork,
    ) -> tuple[TapDescriptor, Nic]:
        definition, peer = network.definition, context.peer
        name = self.allocator.guest_name(request, peer, Target(network=definition.name))
        self.allocator.check_mac(peer, request, definition.name, network.bridge, name)
        mac = self.allocator.mac_of(
            request, definition, (definition.name, peer.uid, name), network.bridge_index
        )
        addresses = network.addresses_for(name, peer.uid, mac)
        in_use = {n.ipv4 for n in self.ledger.on_bridge(network.bridge) if n.ipv4}
        nic = self.allocator.new_nic(
            peer, request, decision, ruleset.NAT, name, mac, definition
        )
        nic.bridge, nic.bridge_index = network.bridge, network.bridge_index
        nic.ipv4 = network.guest_ipv4(addresses, in_use)
        nic.ipv6, nic.mtu = addresses.ipv6(), network.mtu
        nic.shared = definition.is_shared
        return self._provision(nic, request.vnet_hdr, network)

    def _attach_to_bridge(
        self,
        context: RequestContext,
        request: AttachRequest,
        decision: Decision,
        link: Link,
        definition: NetworkDefinition | None,
    ) -> tuple[TapDescriptor, Nic]:
        """:param definition: of the network that the bridge was asked for as."""
        peer = context.peer
        target = Target(network=definition.name if definition else None)
        if definition is None:
            target = Target(bridge=link.name)
        name = self.allocator.guest_name(request, peer, target)
        # As they were before networks had names: the same MAC next time.
        identity = ("bridge", link.name, peer.uid, name)
        if definition is not None:
            identity = (definition.name, link.name, peer.uid, name)
        self.allocator.check_mac(
            peer, request, definition.name if definition else None, link.name, name
        )
        mac = self.allocator.mac_of(request, definition, identity, link.ifindex)
        nic = self.allocator.new_nic(
            peer, request, decision, ruleset.LAN, name, mac, definition
        )
        nic.bridge, nic.bridge_index, nic.mtu = link.name, link.ifindex, link.mtu
        check = (
            definition.address_check
            if definition
            else self.allocator.address_check(link.name)
        )
        nic.learns = check is AddressCheck.LEASE and not nic.trusted
        nic.strict = check is AddressCheck.RESERVED
        if definition is not None and check is not AddressCheck.OFF:
            reserved = reservation_for(definition, name, peer.uid)
            if reserved is not None and (reserved.ipv4 or reserved.ipv6):
                nic.ipv4 = str(reserved.ipv4) if reserved.ipv4 else None
                nic.ipv6 = str(reserved.ipv6) if reserved.ipv6 else None
                nic.learns = False  # what is reserved is what it has
        self.bridges.pin_mac(link)
        return self._provision(nic, request.vnet_hdr, None)

    # provision and publish

    def _provision(
        self, nic: Nic, vnet_hdr: bool, network: ManagedNetwork | None
    ) -> tuple[TapDescriptor, Nic]:
        tap = self.provisioner.provision(nic, vnet_hdr, network)
        self.expiry.add(nic)
        if nic.state is State.WAITING:
            self.on_waiting()
        self.open_forwards.guest_attached(nic)
        return tap, nic

    async def _tell_hooks(self, tap: TapDescriptor, nic: Nic) -> None:
        """Let the hooks have their say, and take all back if one says no.

        :raises RequestError: there is no such NIC any more.
        """
        self._unanswered.add(nic.ifname)
        try:
            await self.hooks.attach(nic)
            if self.ledger.by_ifname(nic.ifname) is not nic:
                raise BrokerFailure("the NIC was taken away before it was handed over")
        except RequestError:
            tap.close()
            await self._until_gone(nic)
            raise
        except BaseException:
            tap.close()
            raise
        finally:
            self._unanswered.discard(nic.ifname)

    async def _until_gone(self, nic: Nic) -> None:
        """Until a tap that was just closed is gone, and what hooks did for it is
        undone: its caller may come again at once."""
        for _ in range(_GOING_TRIES):
            if self.ledger.by_ifname(nic.ifname) is not nic or self._is_gone(nic):
                break
            await asyncio.sleep(_GOING_WAIT)
        else:
            self._remove(nic)
            self.nic_gone(nic)
        await self.hooks.ended(nic)

    # going

    async def detach(
        self, context: RequestContext, ifname: str, interactive: bool
    ) -> None:
        """Take a NIC away, for its owner, for root or for who manages it.

        :raises NoSuchNic: there is none, or it is another's.
        """
        context.ifname = ifname
        nic = self.ledger.by_ifname(ifname)
        allowed = nic is not None and nic.uid == context.peer.uid
        if nic is not None and not allowed:
            allowed = await self.permissions.manage(
                context, target_of(nic), interactive
            )
        if nic is None or not allowed or self.ledger.by_ifname(ifname) is not nic:
            # Also where there is none: its caller hears of a denial, too.
            reason = "there is none" if nic is None else f"it is uid {nic.uid}'s"
            self.events.denied(context, reason)
            raise NoSuchNic("there is no such NIC", "'tapster ls' shows yours")
        self._remove(nic)
        self.nic_gone(nic, context)

    def _remove(self, nic: Nic) -> None:
        """:raises BrokerFailure: the kernel won't."""
        link = rtnetlink.get_link(self.env.netlink, nic.ifindex)
        if not is_of(nic, link):
            return
        try:
            self.env.netlink.transact([rtnetlink.delete_link(nic.ifindex, nic.ifname)])
        except NetlinkError as err:
            if err.errno != errno.ENODEV:  # it went by itself
                raise BrokerFailure("the tap could not be removed") from err

    def take_away(self, nic: Nic) -> None:
        """Remove a NIC that nobody asked to be removed.

        :raises BrokerFailure: the kernel won't.
        """
        self._remove(nic)
        self.nic_gone(nic)

    def _expire(self, nic: Nic) -> None:
        """The time that a NIC was granted for is over."""
        try:
            self._remove(nic)
        except BrokerFailure as err:
            _log.error("%s: %s", nic.ifname, err)
            return
        self.events.about("expired", nic, "the time that it was granted for is over")
        self.nic_gone(nic)

    def nic_gone(self, nic: Nic, context: RequestContext | None = None) -> None:
        """Clear up after a tap that no longer exists."""
        if self.ledger.by_ifname(nic.ifname) is not nic:
            return
        self.ledger.remove(nic)
        self.open_forwards.guest_gone(nic)
        self.provisioner.delete_elements(nic)
        network = self.networks.network_of(nic)
        if network is not None:
            network.remove_guest(nic.ifname, nic.mac, nic.ipv4)
            self.networks.schedule_down(network)
        self.hooks.gone(nic)
        if nic.ifname not in self._unanswered:  # else nobody was told that it is
            self.events.about("detached", nic, context=context)

    # what changes around running guests

    def reload(self, config: Config) -> list[str]:
        """Go by another configuration from now on.

        :returns: what that changes for guests that run, and when, for people.
        """
        self.current.replace(config)
        told = self.networks.follow_configuration() + self._change_on_bridges()
        for line in told:
            _log.info("%s", line)
        return told

    # what becomes of networks (`NetworkListener`)

    def network_up(self, network: ManagedNetwork) -> None:
        self.hooks.network_up(network)

    def network_down(self, network: ManagedNetwork) -> None:
        self.hooks.network_down(network)

    def network_changed(
        self, network: ManagedNetwork, changed: Collection[str]
    ) -> None:
        for nic in self.ledger.on_bridge(network.bridge):
            self._change_nic(nic, network.definition, changed)

    def _change_nic(
        self, nic: Nic, definition: NetworkDefinition, changed: Collection[str]
    ) -> None:
        if nic.state is State.QUARANTINED:
            return
        try:
            if "isolation" in changed:
                nic.isolated = definition.is_isolating
                self.provisioner.isolate(nic, nic.isolated)
            if "rate" in changed:
                self.provisioner.limit(nic, definition.rate)
            self.ledger.update(nic)
        except (OSError, NftError) as err:
            _log.error("%s: %s", nic.ifname, err)

    def catch_up(self) -> None:
        """Hold all NICs to what their networks are: an earlier broker may have been
        killed while it changed one after the other."""
        for network in self.networks.all():
            for nic in self.ledger.on_bridge(network.bridge):
                changed = _not_as(network.definition, nic)
                if changed:
                    self._change_nic(nic, network.definition, changed)

    def _change_on_bridges(self) -> list[str]:
        """Hold NICs of networks of mode `bridge`, which are up as long as their
        bridge is, against what is wanted now."""
        changes: dict[str, set[str]] = {}
        for nic in list(self.ledger):
            definition = self.config.networks.get(nic.network or "")
            if definition is None or definition.bridge != nic.bridge:
                continue
            changed = _not_as(definition, nic)
            if changed:
                self._change_nic(nic, definition, changed)
                changes.setdefault(definition.name, set()).update(changed)
        return [
            f"{name}: changed {', '.join(sorted(changed))}"
            for name, changed in changes.items()
        ]

    def network_noted(self, network: ManagedNetwork, text: str) -> None:
        """Tell those who have an interest in a network what became of it."""
        owner = network.uid
        self.events.network(network.name, network.bridge, owner, text)

    async def stop(self, *, everything: bool) -> None:
        """Take down every network that has no NIC; `everything`: every network.

        The system's guests keep theirs over a restart. A rootless broker's
        namespace ends with it.
        """
        self.networks.cancel()
        await self.networks.wait_for_locks()
        await asyncio.sleep(_GOING_WAIT)  # the NIC that a network came up for
        await self.hooks.close()
        for _ in range(_GOING_TRIES):
            if not TapDescriptor.pending:
                break
            await asyncio.sleep(_GOING_WAIT)
        for nic in list(self.ledger):
            self._is_gone(nic)
        self.networks.cancel()
        if everything:
            for nic in list(self.ledger):
                self.nic_gone(nic)
        for network in self.networks.all():
            await self.networks.take_down(network)
        await self.hooks.stop()
        self.networks.restore_host()
        self.networks.cancel()


def _not_as(definition: NetworkDefinition, nic: Nic) -> set[str]:
    """In which properties a NIC is not as a network says that its NICs are."""
    found = set()
    if nic.isolated != definition.is_isolating:
        found.add("isolation")
    if Rate(nic.rate_egress, nic.rate_ingress) != definition.rate:
        found.add("rate")
    return found
