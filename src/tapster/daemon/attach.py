# SPDX-License-Identifier: LGPL-2.1-or-later
"""The way in: one request to attach, through its eight stages.

    identify → resolve → decide → allocate → provision → publish → reply → watch

`server/` has identified the peer before, and replies and watches afterwards. One
event loop runs it all, so what stands between two awaits can't be interleaved: from
the last decision to the publishing there is no await. Between that and the reply
there may be one, for the administrator's hooks. Whatever can happen to a NIC can
happen during that wait.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from ..errors import (
    BrokerFailure,
    MacInUse,
    NameInUse,
    NotAuthorized,
    QuotaExceeded,
    RequestError,
)
from ..kernel.rtnetlink import Link
from ..model import AttachRequest, Mode, NetworkDefinition, State
from ..networks.managed_network import ManagedNetwork
from ..policy.config.current import CurrentConfig
from ..policy.core.decide import Decision
from ..policy.core.rulebook import DEFAULT_NETWORK
from .allocate.allocator import Allocator
from .audit.events import Events
from .audit.request_context import RequestContext
from .decide.admission import Admission
from .decide.closing import PAUSE, TRIES
from .decide.consent import Consents
from .detach import Detacher
from .nics.expiry import Expiry
from .nics.ledger import Ledger
from .nics.nic import Nic
from .provision.provisioner import Provisioner
from .provision.tap_fd import TapDescriptor
from .publish.hooks.lifecycle import Hooks, RefusedByHook
from .publish.networks import RunningNetworks
from .publish.open_forwards import OpenForwards
from .resolve.bridges import Bridges
from .resolve.request import check

_log = logging.getLogger(__name__)

_STARTS = 5  # of a network that others change while it comes up

Made = tuple[TapDescriptor, Nic]


class Attacher:
    """Serves requests to attach."""

    def __init__(
        self,
        current: CurrentConfig,
        ledger: Ledger,
        bridges: Bridges,
        admission: Admission,
        allocator: Allocator,
        provisioner: Provisioner,
        networks: RunningNetworks,
        forwards: OpenForwards,
        hooks: Hooks,
        detacher: Detacher,
        expiry: Expiry,
        events: Events,
        port_waits: Callable[[], None],
    ) -> None:
        """:param port_waits: is told of a port that waits for its guest's MAC."""
        self._current = current
        self._ledger = ledger
        self._bridges = bridges
        self._admission = admission
        self._allocator = allocator
        self._provisioner = provisioner
        self._networks = networks
        self._forwards = forwards
        self._hooks = hooks
        self._detacher = detacher
        self._expiry = expiry
        self._events = events
        self._port_waits = port_waits

    async def attach(self, context: RequestContext, request: AttachRequest) -> Made:
        """Serve one request.

        :param context: who asks; it is filled in with what is asked for.
        :returns: the tap's descriptor, which the caller closes, and the NIC.
        :raises RequestError: with the answer for the caller; nothing has changed.
        """
        request = check(request)
        context.network, context.bridge = request.network, request.bridge
        context.name, context.mac = request.name, request.mac
        try:
            tap, nic = await self._attach_when_gone(context, request)
            nic = await self._ask_hooks(tap, nic)
        except (NotAuthorized, QuotaExceeded):
            raise  # it was told when it was refused
        except RequestError as err:
            reason = err.detail if isinstance(err, RefusedByHook) else err.message
            if self._current.value.problem is None:
                self._events.failed(context, reason)
            raise
        except Exception:
            self._events.failed(context, "an error that nobody foresaw: the log has it")
            raise
        self._events.about("attached", nic, context=context)
        return tap, nic

    async def _attach_when_gone(
        self, context: RequestContext, request: AttachRequest
    ) -> Made:
        """Attach; where a name or a MAC is taken, once taps that are closing are
        closed. A guest that starts again finds its last tap among those."""
        consents: Consents = set()
        for _ in range(TRIES):
            try:
                return await self._attach(context, request, consents)
            except (NameInUse, MacInUse):
                if not TapDescriptor.pending:
                    break
                await asyncio.sleep(PAUSE)
        return await self._attach(context, request, consents)

    async def _attach(
        self, context: RequestContext, request: AttachRequest, consents: Consents
    ) -> Made:
        """Resolve and decide; then, without any further await, allocate, provision
        and publish. A network that has to come up first takes its time, and all is
        resolved and decided again after that."""
        for _ in range(_STARTS):
            granted = await self._admission.decide(context, request, consents)
            if granted.link is not None:
                return self._on_bridge(
                    context, request, granted.decision, granted.link, None
                )
            name = granted.target.network or DEFAULT_NETWORK
            definition = self._current.value.networks[name]
            if definition.mode is Mode.BRIDGE:
                link = self._bridge_of(definition)
                return self._on_bridge(
                    context, request, granted.decision, link, definition
                )
            network = self._networks.ready(definition, context.peer.uid)
            if network is not None:
                try:
                    return self._on_network(context, request, granted.decision, network)
                finally:
                    self._networks.schedule_down(network)
            network = await self._networks.bring_up(definition, context.peer.uid)
            self._networks.schedule_down(network)  # unless its NIC comes
        raise BrokerFailure(
            f"network {definition.name} does not stay up", "try again in a moment"
        )

    def _bridge_of(self, definition: NetworkDefinition) -> Link:
        """:raises BrokerFailure: a network's Linux bridge does not exist."""
        link = self._bridges.find(definition.bridge or "")
        if link is None or link.kind != "bridge":
            _log.error(
                "network %s: there is no bridge %s", definition.name, definition.bridge
            )
            raise BrokerFailure(
                f"the bridge of network {definition.name} is not there",
                "the administrator has to make it",
            )
        return link

    def _on_network(
        self,
        context: RequestContext,
        request: AttachRequest,
        decision: Decision,
        network: ManagedNetwork,
    ) -> Made:
        nic = self._allocator.on_network(context.peer, request, decision, network)
        return self._make(nic, request.vnet_hdr, network)

    def _on_bridge(
        self,
        context: RequestContext,
        request: AttachRequest,
        decision: Decision,
        link: Link,
        definition: NetworkDefinition | None,
    ) -> Made:
        """:param definition: of the network that the bridge was asked for as."""
        nic = self._allocator.on_bridge(
            context.peer, request, decision, link, definition
        )
        self._bridges.pin_mac(link)
        return self._make(nic, request.vnet_hdr, None)

    def _make(self, nic: Nic, vnet_hdr: bool, network: ManagedNetwork | None) -> Made:
        tap, nic = self._provisioner.provision(nic, vnet_hdr, network)
        self._expiry.add(nic)
        if nic.state is State.WAITING:
            self._port_waits()
        self._forwards.guest_attached(nic)
        return tap, nic

    async def _ask_hooks(self, tap: TapDescriptor, nic: Nic) -> Nic:
        """Let the hooks have their say, and take all back if one says no.

        :returns: the NIC as it is by then.
        :raises RequestError: there is no such NIC any more.
        """
        try:
            await self._hooks.attach(nic)
            now = self._ledger.current(nic)
            if now is None:
                raise BrokerFailure("the NIC was taken away before it was handed over")
            return self._ledger.transition(now, handed_out=True)
        except RequestError:
            tap.close()
            await self._detacher.wait_until_gone(nic)
            raise
        except BaseException:
            tap.close()
            raise
