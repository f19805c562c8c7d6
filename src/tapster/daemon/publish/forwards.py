# SPDX-License-Identifier: LGPL-2.1-or-later
"""What users ask of forwards: to add one, to remove one, to see them."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ...errors import BrokerFailure, ForwardRefused, NoSuchForward
from ...model import Mode, Peer
from ...policy.config.current import CurrentConfig
from ...policy.core.decide import Decision, decide
from ...policy.core.rulebook import Target
from ..audit.events import Events
from ..audit.request_context import RequestContext
from ..decide.permissions import Permissions
from ..decide.refusal import refuse
from ..resolve.forward import parse_forward, parse_network, parse_port
from .forward_table import HOST_LIMIT, USER_LIMIT, ForwardTable, Row, key_of
from .open_forwards import OpenForwards

_log = logging.getLogger(__name__)


class ForwardRequests:
    """Serves users' requests about the forwards of one broker."""

    def __init__(
        self,
        table: ForwardTable,
        opened: OpenForwards,
        permissions: Permissions,
        events: Events,
        current: CurrentConfig,
        *,
        rootless: bool,
    ) -> None:
        """
        :param table: the forwards.
        :param opened: opens and shuts the forwards of `table`.
        :param permissions: decides, and asks polkit if a rule says so.
        :param events: is told of what was denied and of what failed.
        :param current: has the networks and the rules.
        :param rootless: whether this is a user's own broker, which forwards nothing.
        """
        self._table = table
        self._opened = opened
        self._permissions = permissions
        self._events = events
        self._current = current
        self._rootless = rootless

    async def add(
        self,
        context: RequestContext,
        network: str | None,
        port: str,
        guest: str,
        guest_port: int,
        interactive: bool,
    ) -> Row:
        """Forward a port of the host to the caller's guest of that name.

        :param context: who asks; it is filled in with what is asked for.
        :param network: the guest's; None means the default network.
        :param port: of the host, as in "tcp/8080".
        :param guest: its name; it need not be attached.
        :param guest_port: the guest's own port.
        :param interactive: whether polkit may ask the caller for a password.
        :raises InvalidRequest: a parameter is not acceptable, whatever exists.
        :raises NotAuthorized: the caller may not use the network.
        :raises ForwardRefused: the port can't be had, or may not be.
        :raises BrokerFailure: the forward could not be kept.
        """
        name = parse_network(network)
        forward = parse_forward(port, guest, guest_port)
        context.network, context.name, context.port = (
            name,
            forward.guest,
            str(forward.port),
        )
        context.guest_port = forward.guest_port
        self._check_network(context, name, forward.guest)
        decision = await self._permissions.forward(
            context, name, forward.guest, forward.port, interactive
        )
        # Polkit may have been asked, which takes time: look at everything again.
        self._check_network(context, name, forward.guest)
        if not decision.allowed:
            self._events.denied(context, decision.reason)
            raise ForwardRefused(
                f"you may not forward {forward.port}",
                "ports from 1024 up are granted unless the administrator says else",
            )
        row = Row(name, context.peer.uid, forward)
        try:
            self._insert(row, context.peer.uid)
        except (ForwardRefused, BrokerFailure) as err:
            self._events.failed(context, err.message)
            raise
        return row

    def _insert(self, row: Row, uid: int) -> None:
        self._check_room(row, uid)
        _hold_port(row)
        self._table.insert(row)
        try:
            self._table.save()
        except OSError as err:
            self._table.delete(row)
            _log.error("forwards can't be kept: %s", err)
            raise BrokerFailure(
                "the forward could not be kept", "the broker's log has the reason"
            ) from err
        self._opened.open_for_any_guest(row)

    def _check_room(self, row: Row, uid: int) -> None:
        """:raises ForwardRefused: the port is forwarded, or a limit is reached."""
        if self._table.get(row.key) is not None:
            raise ForwardRefused(
                f"port {row.forward.port} is forwarded already",
                "'tapster forward ls' shows yours; choose another port",
            )
        if len(self._table) >= HOST_LIMIT:
            raise ForwardRefused("this host has all the forwards it may have")
        if self._table.count(uid) >= USER_LIMIT:
            raise ForwardRefused(
                f"you have all the forwards you may have ({USER_LIMIT})",
                "'tapster forward rm' gives one back",
            )

    def _check_network(self, context: RequestContext, name: str, guest: str) -> None:
        """See that ports can lead to a guest of the caller's on that network.

        :raises NotAuthorized: the caller may not use it, or there is none.
        :raises ForwardRefused: it is no network that forwards ports.
        """
        config = self._current.value
        definition = config.networks.get(name)
        # Decided in any case: a network that does not exist has to take as long as
        # one that is denied.
        decision = decide(context.peer, Target(network=name, name=guest), config.book)
        if definition is None:
            decision = Decision(False, "no such network")
        if definition is None or not decision.allowed:
            refuse(context, decision, config, self._events)
        if self._rootless:
            raise ForwardRefused(
                "your own broker cannot forward ports of the host",
                "it needs the system's broker, tapsterd",
            )
        if definition.mode is not Mode.NAT:
            raise ForwardRefused(
                f"network {name} has no way in",
                "only a network of mode nat forwards ports",
            )

    async def remove(
        self, context: RequestContext, network: str | None, port: str, interactive: bool
    ) -> Row:
        """Give up a forward that is the caller's, or that the caller manages.

        :param context: who asks; it is filled in with what is asked for.
        :param network: the guest's; None means the default network.
        :param port: of the host, as in "tcp/8080".
        :param interactive: whether polkit may ask the caller for a password.
        :returns: what was given up.
        :raises InvalidRequest: it names no port, or no network.
        :raises NoSuchForward: there is none, or the caller has no say in it.
        """
        name = parse_network(network)
        wanted = parse_port(port)
        context.network, context.port = name, str(wanted)
        key = key_of(wanted)
        row = self._table.get(key)
        if row is not None and (row.network != name or row.uid is None):
            row = None
        allowed = row is not None and row.uid == context.peer.uid
        if row is not None and not allowed:
            target = Target(network=row.network, name=row.forward.guest)
            allowed = await self._permissions.manage(context, target, interactive)
        if row is None or not allowed or self._table.get(key) is not row:
            reason = "there is none" if row is None else f"it is uid {row.uid}'s"
            self._events.denied(context, reason)
            raise NoSuchForward(
                f"there is no forward of {port} on network {name}",
                "'tapster forward ls' shows yours; those of the configuration stay",
            )
        context.name, context.guest_port = row.forward.guest, row.forward.guest_port
        self._delete(row)
        return row

    def _delete(self, row: Row) -> None:
        self._opened.delete(row)
        try:
            self._table.save()
        except OSError as err:
            _log.error("forwards can't be kept: %s", err)  # it is back after a restart
        definitions = self._current.value.networks.values()
        if any(f.port == row.forward.port for d in definitions for f in d.forward):
            self._opened.follow_configuration()  # a forward of it waited for the port

    def visible_to(self, peer: Peer, sees: Callable[[Target], bool]) -> list[Row]:
        """The forwards that a caller may see: its own, those that lead to its guests,
        and others' where it manages.

        :param sees: whether the caller sees what others have on a target.
        """
        return [
            row
            for row in self._table
            if row.uid == peer.uid
            or (row.nic is not None and row.nic.uid == peer.uid)
            or sees(Target(network=row.network, name=row.forward.guest))
        ]


def _hold_port(row: Row) -> None:
    """:raises ForwardRefused: the port can't be bound."""
    port = row.forward.port
    try:
        row.hold_port()
    except PermissionError:
        raise ForwardRefused(
            f"port {port} is privileged, and tapsterd may not bind it",
            "give tapsterd CAP_NET_BIND_SERVICE",
        ) from None
    except OSError as err:
        raise ForwardRefused(
            f"port {port} is taken on this host",
            f"{err.strerror}; choose another port",
        ) from None
