# SPDX-License-Identifier: LGPL-2.1-or-later
"""Calls at a time, exact to a fraction of a millisecond.

A refusal is answered at a fixed time after its request, so that nobody learns from
the time what was looked up. asyncio's own timers would tell: they end a whole number
of milliseconds after they were set, which is when the lookup was done, so the
fraction of a millisecond shows how long that took.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable

from ...kernel.timer import Timer


class Deadlines:
    """What is to be done on the running event loop, and when. `close()` forgets it."""

    def __init__(self) -> None:
        self._timer: Timer | None = None  # made for the first deadline
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()

    async def until(self, moment: float) -> None:
        """Wait until a time.

        :param moment: by the clock of the event loop.
        """
        loop = asyncio.get_running_loop()
        if moment <= loop.time():
            return
        come: asyncio.Future[None] = loop.create_future()

        def end() -> None:
            if not come.done():  # it is done if the waiting call was cancelled
                come.set_result(None)

        self.call_at(moment, end)
        await come

    def call_at(self, moment: float, what: Callable[[], object]) -> None:
        """Have something done at a time.

        :param moment: by the clock of the event loop.
        :param what: is called without arguments.
        """
        if self._timer is None:
            self._timer = Timer()
            asyncio.get_running_loop().add_reader(self._timer.fileno(), self._call_due)
        if not self._due or moment < self._due[0][0]:
            self._timer.set(moment)
        heapq.heappush(self._due, (moment, next(self._numbers), what))

    def _call_due(self) -> None:
        assert self._timer is not None  # noqa: S101 - it has just expired
        self._timer.clear()
        now = asyncio.get_running_loop().time()
        while self._due and self._due[0][0] <= now:
            _, _, what = heapq.heappop(self._due)
            # In a turn of the loop of its own: if it fails, no other call does.
            asyncio.get_running_loop().call_soon(what)
        if self._due:
            self._timer.set(self._due[0][0])

    def close(self) -> None:
        """Forget all calls, and close the timer."""
        if self._timer is not None:
            asyncio.get_running_loop().remove_reader(self._timer.fileno())
            self._timer.close()
            self._timer = None
        self._due.clear()
