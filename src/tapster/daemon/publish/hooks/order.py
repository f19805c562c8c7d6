# SPDX-License-Identifier: LGPL-2.1-or-later
"""In which order hooks run: what has to be over before a beginning, and before an end.

* The end of a guest comes before the beginning of the next one of the same user and
  name on the same bridge.
* The beginning of a network comes before its guests' beginnings, and its end after
  their ends.
* The end of a device comes after everything else about that device.

Everything else runs at the same time, as far as there are slots.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Hashable
from dataclasses import dataclass

from ...nics.naming import EVERYBODY
from .pending import PendingEnd

_log = logging.getLogger(__name__)

Task = asyncio.Future[None]


@dataclass(slots=True, eq=False)
class Lifetime:
    """A tap's, or one of our bridges', as hooks see it: begun, and later ended."""

    pending: PendingEnd  # the hooks that have to hear of the end
    begun: Task | None = None  # done when all hooks have heard of the beginning
    is_over: bool = False

    @property
    def is_network(self) -> bool:
        return "ifname" not in self.pending.payload

    @property
    def device(self) -> str:
        return self.pending.device

    @property
    def bridge(self) -> str:
        return str(self.pending.payload["bridge"])

    @property
    def uid(self) -> int:
        uid = self.pending.payload["uid"]
        return EVERYBODY if uid is None else int(uid)

    @property
    def key(self) -> Hashable:
        """Of two lifetimes with one key, the first ends before the second begins."""
        if self.is_network:
            return self.bridge
        return self.bridge, self.uid, self.pending.payload["name"]


class HookOrder:
    """The tasks that run hooks, and which of them has to wait for which."""

    def __init__(self) -> None:
        self._tasks: dict[Task, Lifetime] = {}
        self._last: dict[Hashable, Task] = {}  # the latest task of each key

    def start(self, work: Coroutine[None, None, None], lifetime: Lifetime) -> Task:
        """Run something for a lifetime, in a task of its own."""
        task: Task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = lifetime
        task.add_done_callback(self._done)
        return task

    def start_in_turn(self, work: Coroutine[None, None, None], life: Lifetime) -> None:
        """Run something that the next beginning with the same key has to wait for."""
        key = life.key
        task = self.start(work, life)
        self._last[key] = task

        def forget(done: Task) -> None:
            if self._last.get(key) is done:
                del self._last[key]

        task.add_done_callback(forget)

    def _done(self, task: Task) -> None:
        del self._tasks[task]
        if not task.cancelled() and (err := task.exception()) is not None:
            _log.error("a hook was not told", exc_info=err)

    async def wait_to_begin(self, lifetime: Lifetime) -> None:
        """Until the beginning of a lifetime may be told."""
        for before in (self._last.get(lifetime.key), self._last.get(lifetime.bridge)):
            if before is not None and before in self._tasks:
                await asyncio.wait([before])

    async def wait_to_end(self, lifetime: Lifetime) -> None:
        """Until the end of a lifetime may be told."""
        before = {
            task
            for task, other in self._tasks.items()
            if _comes_before_end(other, lifetime)
        }
        if lifetime.begun is not None and not lifetime.begun.done():
            before.add(lifetime.begun)
        if before:
            await asyncio.wait(before)

    async def wait_for_device(self, device: str) -> None:
        """Until nothing about a device runs any more."""
        tasks = [t for t, other in self._tasks.items() if other.device == device]
        if tasks:
            await asyncio.wait(tasks)

    async def wait_for_all(self, seconds: float) -> None:
        """Until nothing runs any more, or for that time."""
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=seconds)

    def cancel_all(self) -> None:
        """Cancel what still runs. Call `wait_for_all` afterwards."""
        for task in list(self._tasks):
            task.cancel()


def _comes_before_end(other: Lifetime, lifetime: Lifetime) -> bool:
    """Whether what runs for `other` has to be over before `lifetime` may end."""
    if other is lifetime:
        return False
    if lifetime.is_network:
        return other.bridge == lifetime.bridge and not other.is_network
    return other.device == lifetime.device
