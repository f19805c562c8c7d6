# SPDX-License-Identifier: LGPL-2.1-or-later
"""Things that are to happen at a time, and not a little after it.

A refusal is answered at a fixed time after its request, so that nobody learns
from it what was looked at. asyncio ends a sleep at a whole millisecond after it
began, which is after whatever was looked at: the fraction told it all the same.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable

from ...kernel.timer import Timer


class Deadlines:
    """What is to happen, on the running event loop. `close()` forgets it."""

    def __init__(self) -> None:
        self._timer: Timer | None = None  # made for the first
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()

    async def until(self, moment: float) -> None:
        """:param moment: by the clock of the event loop."""
        loop = asyncio.get_running_loop()
        if moment <= loop.time():
            return
        come: asyncio.Future[None] = loop.create_future()

        def end() -> None:
            if not come.done():  # as it is where its call was cancelled
                come.set_result(None)

        self.call_at(moment, end)
        await come

    def call_at(self, moment: float, what: Callable[[], object]) -> None:
        """Have something done then."""
        if self._timer is None:
            self._timer = Timer()
            asyncio.get_running_loop().add_reader(self._timer.fileno(), self._look)
        if not self._due or moment < self._due[0][0]:
            self._timer.set(moment)
        heapq.heappush(self._due, (moment, next(self._numbers), what))

    def _look(self) -> None:
        assert self._timer is not None  # noqa: S101 - it has woken us
        self._timer.clear()
        now = asyncio.get_running_loop().time()
        while self._due and self._due[0][0] <= now:
            _, _, what = heapq.heappop(self._due)
            # In a turn of its own: if it fails, it fails alone.
            asyncio.get_running_loop().call_soon(what)
        if self._due:
            self._timer.set(self._due[0][0])

    def close(self) -> None:
        if self._timer is not None:
            asyncio.get_running_loop().remove_reader(self._timer.fileno())
            self._timer.close()
            self._timer = None
        self._due.clear()
