# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who watches events, and what each may know of them.

Each watcher has a queue of its own, of limited length: a watcher that does not read
loses its watch, and costs nobody else anything.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable

from ...errors import BrokerBusy
from ...model import Peer
from ...wire.objects import Event
from ..identify.accounts import user_name
from .deadlines import Deadlines
from .record import make_event, now, redacted_for

QUEUE = 256  # events that a watcher may be behind


def is_own(peer: Peer, event: Event) -> bool:
    """Whether a user did something itself, or it happened to what is the user's, or
    to a network of all users. Everything is root's."""
    if peer.is_root or peer.uid in (event.uid, event.owner):
        return True
    return event.event == "network" and event.owner is None


class _Watcher:
    """Who watches, and what it has not read yet; None at the end."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.queue: asyncio.Queue[Event | None] = asyncio.Queue(QUEUE)

    def offer(self, event: Event | None) -> None:
        """Queue an event, or the end. Where the queue is full the watch ends."""
        try:
            self.queue.put_nowait(event)
        except asyncio.QueueFull:
            while not self.queue.empty():
                self.queue.get_nowait()
            self.queue.put_nowait(None)


class Watchers:
    """All watchers of one broker."""

    def __init__(
        self,
        may_see: Callable[[Peer, Event], bool],
        deadlines: Deadlines,
        limit: int,
        limit_of_user: int,
    ) -> None:
        """
        :param may_see: whether a watcher is told of an event; `redacted_for` says how
            much of it.
        :param deadlines: for what is told later.
        :param limit: how many may watch, of all users together.
        :param limit_of_user: how many of these of one user.
        """
        self._may_see = may_see
        self._deadlines = deadlines
        self._limit, self._limit_of_user = limit, limit_of_user
        self._watchers: set[_Watcher] = set()

    async def watch(self, peer: Peer) -> AsyncIterator[Event]:
        """The events that a watcher may see, until it is too slow, or until `close`.

        :raises BrokerBusy: too many watch already, or the watch has ended.
        """
        of_user = sum(watcher.peer.uid == peer.uid for watcher in self._watchers)
        # Root is not counted: users could take all places, and hide from root by that.
        is_full = len(self._watchers) >= self._limit and not peer.is_root
        if is_full or of_user >= self._limit_of_user:
            raise BrokerBusy("too many watchers", "end another 'tapster events'")
        watcher = _Watcher(peer)
        self._watchers.add(watcher)
        try:
            user = user_name(peer.uid)
            yield make_event("watching", uid=peer.uid, user=user, pid=peer.pid)
            while (event := await watcher.queue.get()) is not None:
                yield event
            raise BrokerBusy("the broker ended this watch", "watch again")
        finally:
            self._watchers.discard(watcher)

    def has(self, uid: int) -> bool:
        """Whether a user watches."""
        return any(watcher.peer.uid == uid for watcher in self._watchers)

    def tell(
        self,
        event: Event,
        wait: float = 0.0,
        *,
        only: int | None = None,
        except_for: int | None = None,
    ) -> None:
        """Tell a record to those watchers who may know of it.

        :param event: the record.
        :param wait: seconds until watchers who are not root are told.
        :param only: the uid of the one user who is told; None: everybody.
        :param except_for: the uid of a user who is not told.
        """
        for watcher in self._watchers:
            peer = watcher.peer
            if only not in (None, peer.uid) or peer.uid == except_for:
                continue
            if not self._may_see(peer, event):
                continue
            if wait and not peer.is_root:
                moment = asyncio.get_running_loop().time() + wait
                late = functools.partial(self._tell_late, watcher, event)
                self._deadlines.call_at(moment, late)
            else:
                watcher.offer(redacted_for(peer, event))

    @staticmethod
    def _tell_late(watcher: _Watcher, event: Event) -> None:
        told = redacted_for(watcher.peer, event)
        told.time = now()
        watcher.offer(told)

    def close(self) -> None:
        """End every watch."""
        for watcher in self._watchers:
            watcher.offer(None)
