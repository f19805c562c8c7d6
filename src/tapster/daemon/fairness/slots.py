# SPDX-License-Identifier: LGPL-2.1-or-later
"""How many hooks run at once, and whose is next.

Users are served in turn, and no user gets more than three quarters of the slots:
however many hooks one user causes, another waits only for a hook that is running
now, and never for what the first user has queued.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from .round_robin import RoundRobin


class FairSlots:
    """A number of slots, which may change at any time."""

    def __init__(self, number: Callable[[], int]) -> None:
        """:param number: returns how many slots there are now."""
        self._number = number
        self._running: Counter[int] = Counter()  # by user
        self._waiting: RoundRobin[asyncio.Future[None]] = RoundRobin()

    @asynccontextmanager
    async def slot(self, uid: int) -> AsyncIterator[None]:
        """Wait for a slot, and hold it until the block ends.

        :param uid: the user whom the slot is counted for.
        """
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(uid, granted)
        self._serve()
        try:
            await granted
        except asyncio.CancelledError:
            if granted.cancelled():
                self._serve()  # others may have waited behind this one
            else:  # it was granted just before
                self._leave(uid)
            raise
        try:
            yield
        finally:
            self._leave(uid)

    def _leave(self, uid: int) -> None:
        self._running[uid] -= 1
        if not self._running[uid]:
            del self._running[uid]
        self._serve()

    def _serve(self) -> None:
        """Grant slots until none is free, or nobody who waits may have one."""
        number = max(self._number(), 1)
        share = max(number * 3 // 4, 1)
        while self._running.total() < number:
            uids = (u for u in self._waiting if self._running.get(u, 0) < share)
            uid = next(uids, None)
            if uid is None:
                return
            granted = self._waiting.take(uid)
            if not granted.done():
                self._running[uid] += 1
                granted.set_result(None)
