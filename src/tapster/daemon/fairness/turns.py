# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whose turn it is: users take turns, however much one of them has to do.

All that the broker does for a client, from accepting its connection to each of
its calls, is a piece of work that waits here for its user's turn. A user who is
alone waits for nobody; among several, a user who asks for much waits for itself.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from .round_robin import RoundRobin

# A piece of work: returns what it leaves running, or None if it is done.
Work = Callable[[], asyncio.Future[Any] | None]

SLICE = 0.0005  # seconds of work until the loop looks who else has come


class Turns:
    """Work to do, by user. For one event loop, the running one."""

    def __init__(self, running: int) -> None:
        """:param running: how many pieces of one user's work may be running at a
        time before the user's next piece is begun."""
        self._limit = running
        self._waiting: RoundRobin[Work] = RoundRobin()
        self._held: RoundRobin[Work] = RoundRobin()  # of users with enough running
        self._running: Counter[int] = Counter()
        self._is_due = False  # _go is scheduled for the next turn of the loop
        self._last = -1  # the user who had the last turn

    def __len__(self) -> int:
        """How many pieces wait."""
        return len(self._waiting) + len(self._held)

    def ask(self, uid: int, work: Work) -> None:
        """Do a piece of work in a turn of this user's: at once, if nobody has had
        a turn in this turn of the loop.

        :param uid: the user whom the work is for.
        :param work: called in the user's turn.
        """
        if not self._is_due:
            self._schedule()
            if self._running[uid] < self._limit:
                self._do(uid, work)
                return
        is_held = uid in self._held or self._running[uid] >= self._limit
        (self._held if is_held else self._waiting).add(uid, work)

    def _schedule(self) -> None:
        self._is_due = True
        asyncio.get_running_loop().call_soon(self._go)

    def _go(self) -> None:
        """Do one piece of each user's, for as long as there is time."""
        waiting = self._waiting
        if not waiting:
            self._is_due = False
            return
        self._schedule()  # first, as a piece of work may raise
        end = time.perf_counter() + SLICE
        if next(iter(waiting)) == self._last:
            waiting.skip(self._last)
        while waiting:
            uid = next(iter(waiting))
            self._do(uid, waiting.take(uid))
            if time.perf_counter() >= end:
                return

    def _do(self, uid: int, work: Work) -> None:
        self._last = uid
        running = work()
        if running is None or running.done():
            return
        self._running[uid] += 1
        running.add_done_callback(lambda _: self._ended(uid))
        if self._running[uid] >= self._limit and uid in self._waiting:
            self._waiting.move(uid, self._held)

    def _ended(self, uid: int) -> None:
        self._running[uid] -= 1
        if not self._running[uid]:
            del self._running[uid]
        if uid in self._held:
            self._held.move(uid, self._waiting)
            if not self._is_due:  # not at once: this is in the middle of something
                self._schedule()
