# SPDX-License-Identifier: LGPL-2.1-or-later
"""How many hooks run at once, and whose is next.

Each user has a queue of its own and they are served in turn, and no user gets
more than three quarters of all places: however much one causes, another waits
for what is running just now, and not for what the first has queued.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class Places:
    """A number of places, which may change."""

    def __init__(self, number: Callable[[], int]) -> None:
        """:param number: how many there are, now."""
        self._number = number
        self._running: Counter[int] = Counter()  # by user
        self._waiting: dict[int, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def place(self, uid: int) -> AsyncIterator[None]:
        """Wait for a place, and have it until the block ends.

        :param uid: whom it is for.
        """
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(uid, deque()).append(ready)
        self._serve()
        try:
            await ready
        except asyncio.CancelledError:
            if ready.cancelled():
                self._serve()  # it may have stood before others
            else:  # it was given just before
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
        number = max(self._number(), 1)
        share = max(number * 3 // 4, 1)
        while self._running.total() < number:
            uids = (u for u in self._waiting if self._running.get(u, 0) < share)
            uid = next(uids, None)
            if uid is None:
                return
            queue = self._waiting.pop(uid)
            ready = queue.popleft()
            if queue:
                self._waiting[uid] = queue  # behind the others
            if not ready.done():
                self._running[uid] += 1
                ready.set_result(None)
