# SPDX-License-Identifier: LGPL-2.1-or-later
"""What each method of the Varlink interface does: who does it, in the wire's words."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from typing import Protocol

from asyncvarlink import FileDescriptor

from ...model import AttachRequest, Peer
from ...wire import objects as wire
from ..audit.events import Events
from ..audit.request_context import RequestContext
from ..identify.accounts import user_name
from ..nics.nic import Nic
from ..provision.tap_fd import TapDescriptor
from ..publish.forwards import ForwardRequests
from ..publish.open_forwards import OpenForwards
from . import views
from .doctor.examination import Examination
from .explain import Explainer
from .listing import Listing
from .reload import Reload


class Attach(Protocol):
    """Serves a request to attach, and gives the caller a descriptor to close."""

    def __call__(
        self, context: RequestContext, request: AttachRequest
    ) -> Awaitable[tuple[TapDescriptor, Nic]]: ...


class Detach(Protocol):
    """Takes away the NIC whose tap has that name."""

    def __call__(
        self, context: RequestContext, ifname: str, interactive: bool
    ) -> Awaitable[None]: ...


class BrokerService:
    """Implements `wire.interface.Service` for every connection.

    `interactive` says whether polkit may have a person asked.
    """

    def __init__(
        self,
        attach: Attach,
        detach: Detach,
        listing: Listing,
        reload: Reload,
        forwards: ForwardRequests,
        open_forwards: OpenForwards,
        explainer: Explainer,
        examination: Examination,
        events: Events,
    ) -> None:
        """
        :param attach: the way in.
        :param detach: the way out.
        :param listing: lists what there is.
        :param reload: reads the configuration anew.
        :param forwards: adds and removes forwards.
        :param open_forwards: those that are open.
        :param explainer: explains decisions.
        :param examination: of the host.
        :param events: what watchers are told.
        """
        self._attach = attach
        self._detach = detach
        self._listing = listing
        self._reload = reload
        self._forwards = forwards
        self._open_forwards = open_forwards
        self._explainer = explainer
        self._examination = examination
        self._events = events

    # NICs

    async def attach(
        self, peer: Peer, request: AttachRequest
    ) -> tuple[FileDescriptor, wire.Nic]:
        tap, nic = await self._attach(RequestContext(peer, "attach"), request)
        return FileDescriptor(tap, should_close=True), views.nic(nic, None)

    async def detach(self, peer: Peer, ifname: str, interactive: bool) -> None:
        await self._detach(RequestContext(peer, "detach"), ifname, interactive)

    async def list_nics(self, peer: Peer) -> list[wire.Nic]:
        return await self._listing.nics(peer)

    def watch(self, peer: Peer) -> AsyncIterator[wire.Event]:
        return self._events.watch(peer)

    async def until(self, moment: float) -> None:
        await self._events.deadlines.until(moment)

    # Networks and the configuration

    def info(self, peer: Peer) -> wire.Info:
        return self._listing.info(peer)

    async def list_networks(self, peer: Peer) -> list[wire.NetworkInfo]:
        return await self._listing.networks(peer)

    async def reload(self, peer: Peer, interactive: bool) -> list[str]:
        return await self._reload.by_caller(peer, interactive)

    # Forwards

    async def add_forward(
        self,
        peer: Peer,
        network: str | None,
        port: str,
        guest: str,
        guest_port: int,
        interactive: bool,
    ) -> wire.ForwardInfo:
        context = RequestContext(peer, "add-forward")
        row = await self._forwards.add(
            context, network, port, guest, guest_port, interactive
        )
        self._events.changed("forward-added", context, owner=row.uid)
        await self._open_forwards.wait_for_flows()
        owner = views.forward_owner(row)
        return views.forward(row, user_name(owner) if owner is not None else None)

    async def remove_forward(
        self, peer: Peer, network: str | None, port: str, interactive: bool
    ) -> None:
        context = RequestContext(peer, "remove-forward")
        row = await self._forwards.remove(context, network, port, interactive)
        self._events.changed("forward-removed", context, owner=row.uid)
        await self._open_forwards.wait_for_flows()

    async def list_forwards(self, peer: Peer) -> list[wire.ForwardInfo]:
        return await self._listing.forwards(peer)

    # Questions

    async def explain(
        self, peer: Peer, request: AttachRequest, user: str | None, forward: str | None
    ) -> wire.Explanation:
        return await self._explainer.explain(peer, request, user, forward)

    async def diagnose(self, peer: Peer) -> list[wire.Finding]:
        return [views.finding(f) for f in await self._examination.examine(peer)]
