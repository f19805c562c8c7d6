# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tells what happens: to the log, and to those who watch and may know of it.

Everything is told in the event loop's next turn, so that a caller does not wait for
the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

from ...model import Peer
from ...wire.objects import Event
from ...wire.refusals import REFUSAL_SECONDS
from ..fairness.throttle import OTHERS, Throttle
from ..identify.accounts import user_name
from ..identify.program import UNKNOWN, ProgramReader
from ..nics.nic import Nic
from .deadlines import Deadlines
from .record import NO_UID, OK, Record, make_event, nic_fields
from .request_context import RequestContext
from .watchers import Watchers, is_own

_log = logging.getLogger("tapster.audit")

SUM_UP = 10.0  # seconds until the events that were not told are told as a number


class Events:
    """Takes all that one broker has to tell, to its audit log and its watchers."""

    def __init__(
        self,
        may_see: Callable[[Peer, Event], bool] = is_own,
        programs: ProgramReader | None = None,
        *,
        watchers: int = 256,
        watchers_per_user: int = 16,
    ) -> None:
        """
        :param may_see: whether a watcher is told of an event.
        :param programs: looks up what program a caller runs; None: as far as this
            process itself may.
        :param watchers: how many may watch, of all users together.
        :param watchers_per_user: how many of these of one user.
        """
        self.deadlines = Deadlines()
        self._programs = programs or ProgramReader()
        self._watchers = Watchers(may_see, self.deadlines, watchers, watchers_per_user)
        self._throttle = Throttle()
        self._summary: asyncio.TimerHandle | None = None

    # What there is to tell

    def about(
        self,
        what: str,
        nic: Nic,
        reason: str | None = None,
        context: RequestContext | None = None,
    ) -> None:
        """Something happened to a NIC.

        :param what: one of `record.KINDS`.
        :param nic: the NIC.
        :param reason: why, in words.
        :param context: of the request that it happened by, if it was one.
        """
        duration = context.duration() if context is not None else None
        loop = asyncio.get_running_loop()
        loop.call_soon(self._about, what, nic, reason, context, duration)

    def denied(self, context: RequestContext, reason: str) -> None:
        """A request was denied. The reason and the rule are told to root only: a
        caller that watches learns that it was denied, not why."""
        self._soon("denied", context, reason, {})

    def failed(self, context: RequestContext, reason: str) -> None:
        """A request was granted, but could not be done."""
        self._soon("failed", context, reason, {})

    def changed(
        self,
        what: str,
        context: RequestContext | None = None,
        reason: str | None = None,
        **objects: Any,
    ) -> None:
        """Something else than a NIC has changed, or was to change.

        :param what: one of `record.KINDS`.
        :param context: of the request; None where it came by no request, as by SIGHUP.
        :param reason: why, in words.
        :param objects: fields of the record that the context does not have.
        """
        self._soon(what, context, reason, objects)

    def network(self, network: str, bridge: str, uid: int | None, reason: str) -> None:
        """Something is the matter with a network, or no longer.

        :param network: its name.
        :param bridge: its bridge.
        :param uid: whose it is; None: all users'.
        :param reason: what is the matter.
        """
        user = {} if uid is None else {"uid": uid, "user": user_name(uid)}
        fields = {"network": network, "bridge": bridge, "owner": uid, **user}
        self._soon("network", None, reason, fields)

    # Telling it

    def _soon(
        self,
        what: str,
        context: RequestContext | None,
        reason: str | None,
        fields: dict[str, Any],
    ) -> None:
        duration = context.duration() if context is not None else None
        loop = asyncio.get_running_loop()
        loop.call_soon(self._publish, what, context, reason, duration, fields)

    def _about(
        self,
        what: str,
        nic: Nic,
        reason: str | None,
        context: RequestContext | None,
        duration: int | None,
    ) -> None:
        fields = nic_fields(nic)
        if context is None:
            fields |= {"uid": nic.uid, "user": nic.user, "pid": nic.pid}
        self._publish(what, context, reason, duration, fields)

    def _publish(
        self,
        what: str,
        context: RequestContext | None,
        reason: str | None,
        duration: int | None,
        fields: dict[str, Any],
    ) -> None:
        """Make the record, log it and tell it to watchers. Requests that fail are
        logged up to a limit, as a caller can send any number of them."""
        admitted = True
        if context is not None and what in ("denied", "failed"):
            now = asyncio.get_running_loop().time()
            admitted = self._throttle.admits(context.peer.uid, now)
            if not admitted:
                self._sum_up_later()
                if not self._watchers.has(context.peer.uid):
                    return  # nobody is told: there is nothing to look up
        program = UNKNOWN
        if context is not None:
            peer = context.peer
            program = self._programs.read(peer.pid, peer.uid, context.connected_by())
        event = make_event(
            what, context, program, duration=duration, reason=reason, **fields
        )
        if admitted:
            self._write(event)
        wait = 0.0
        if context is not None and what == "denied":
            # At the time of the reply: how long a decision takes tells what exists.
            wait = max(0.0, REFUSAL_SECONDS - context.duration() / 1e6)
        self._watchers.tell(event, wait, only=None if admitted else event.uid)

    @staticmethod
    def _write(event: Event) -> None:
        calm = event.outcome == OK and event.event != "network"
        _log.log(logging.INFO if calm else logging.WARNING, Record(event))

    def _sum_up_later(self) -> None:
        if self._summary is None:
            loop = asyncio.get_running_loop()
            self._summary = loop.call_later(SUM_UP, self._sum_up)

    def _sum_up(self) -> None:
        """Tell how many events were not told one by one. The callers themselves are
        not told that: they were told each."""
        self._summary = None
        for uid, count in self._throttle.collect():
            whose = f"of uid {uid}" if uid != OTHERS else "of several other users"
            event = make_event(
                "suppressed",
                uid=uid if uid != OTHERS else NO_UID,
                user=user_name(uid) if uid != OTHERS else "",
                count=count,
                reason=f"{count} more requests {whose} were denied or failed",
            )
            self._write(event)
            self._watchers.tell(event, except_for=uid)

    # Watching

    def watch(self, peer: Peer) -> AsyncIterator[Event]:
        """The events that a watcher may see, as `Watchers.watch`."""
        return self._watchers.watch(peer)

    def close(self) -> None:
        """Tell what was not told yet, and end every watch."""
        if self._summary is not None:
            self._summary.cancel()
            self._sum_up()
        self._watchers.close()
        self.deadlines.close()
