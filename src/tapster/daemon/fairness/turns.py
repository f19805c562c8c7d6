# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whose turn it is: users take turns, however much one of them has to do.

All that a client has done for it, from taking its connection in to each of its
calls, is a piece of work that waits here for its user's turn. A user alone waits
for nobody; among several, whoever asks for much waits for himself.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

# A piece of work: what it leaves running, or None if it is done.
Work = Callable[[], asyncio.Future[Any] | None]

SLICE = 0.0005  # seconds of work until the loop looks who else has come


class Turns:
    """Work to do, by user. For one event loop, the running one."""

    def __init__(self, running: int) -> None:
        """:param running: how much of one user's work may be running at a time,
        once begun, before the next piece of it is."""
        self._limit = running
        self._waiting: dict[int, deque[Work]] = {}  # whose turn is next, first
        self._held: dict[int, deque[Work]] = {}  # of those with enough running
        self._running: Counter[int] = Counter()
        self._is_due = False  # _go is, in the next turn of the loop
        self._last = -1  # whose turn was last

    def __len__(self) -> int:
        """How many pieces wait."""
        return sum(map(len, (*self._waiting.values(), *self._held.values())))

    def ask(self, uid: int, work: Work) -> None:
        """Do it in a turn of this user's: at once, if nobody has had one in this
        turn of the loop."""
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._go)
            if self._running[uid] < self._limit:
                self._do(uid, work)
                return
        if uid in self._held:
            self._held[uid].append(work)
        elif self._running[uid] >= self._limit:
            self._held[uid] = deque((work,))
        else:
            self._waiting.setdefault(uid, deque()).append(work)

    def _go(self) -> None:
        """One piece each, for as long as there is time."""
        waiting = self._waiting
        if not waiting:
            self._is_due = False
            return
        asyncio.get_running_loop().call_soon(self._go)  # whatever happens in here
        end = time.perf_counter() + SLICE
        if next(iter(waiting)) == self._last and len(waiting) > 1:
            waiting[self._last] = waiting.pop(self._last)
        while waiting:
            uid = next(iter(waiting))
            queue = waiting.pop(uid)
            work = queue.popleft()
            if queue:
                waiting[uid] = queue  # behind the others
            self._do(uid, work)
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
            self._held[uid] = self._waiting.pop(uid)

    def _ended(self, uid: int) -> None:
        self._running[uid] -= 1
        if not self._running[uid]:
            del self._running[uid]
        if uid in self._held:
            self._waiting[uid] = self._held.pop(uid)
            if not self._is_due:  # not at once: this is in the middle of something
                self._is_due = True
                asyncio.get_running_loop().call_soon(self._go)
