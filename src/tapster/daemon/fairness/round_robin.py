# SPDX-License-Identifier: LGPL-2.1-or-later
"""A queue per user, served in turn: what `turns` and `slots` have in common."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class RoundRobin(Generic[T]):
    """Items that wait, by user. A user whose item was taken goes to the end."""

    def __init__(self) -> None:
        self._queues: dict[int, deque[T]] = {}  # none is empty; next user first

    def __len__(self) -> int:
        """How many items wait."""
        return sum(map(len, self._queues.values()))

    def __bool__(self) -> bool:
        return bool(self._queues)

    def __contains__(self, uid: int) -> bool:
        """Whether the user has an item that waits."""
        return uid in self._queues

    def __iter__(self) -> Iterator[int]:
        """The users who have items, the next one first."""
        return iter(self._queues)

    def add(self, uid: int, item: T) -> None:
        """Queue an item behind the user's others."""
        queue = self._queues.get(uid)
        if queue is None:
            self._queues[uid] = deque((item,))
        else:
            queue.append(item)

    def take(self, uid: int) -> T:
        """Remove the user's oldest item, and put the user behind the others."""
        queue = self._queues.pop(uid)
        item = queue.popleft()
        if queue:
            self._queues[uid] = queue
        return item

    def skip(self, uid: int) -> None:
        """Put the user behind the others, without taking an item."""
        self._queues[uid] = self._queues.pop(uid)

    def move(self, uid: int, other: RoundRobin[T]) -> None:
        """Move all of the user's items to another round robin, where it has none."""
        other._queues[uid] = self._queues.pop(uid)
