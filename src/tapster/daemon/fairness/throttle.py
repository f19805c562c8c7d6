# SPDX-License-Identifier: LGPL-2.1-or-later
"""How much of what a user can cause at will is worth a line of log.

What is passed over is counted. One user may have tens of thousands of uids, so
the number of buckets is bounded: uids for which there is no room share one.
"""

from __future__ import annotations

from collections import Counter

from .token_bucket import TokenBuckets

OTHERS = -1  # in place of a uid
BURST = 50
RATE = 5.0  # a second
USERS = 128  # with a bucket of their own


class Throttle:
    """Admits lines, per user. Time is the caller's, in seconds."""

    def __init__(
        self, burst: int = BURST, rate: float = RATE, users: int = USERS
    ) -> None:
        """
        :param burst: lines of one user that are admitted at once.
        :param rate: lines a second of one user that are admitted in the long run.
        :param users: how many users have a bucket of their own.
        """
        self._buckets = TokenBuckets(rate, burst)
        self._users = users
        self._passed_over: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._buckets)

    def admits(self, uid: int, now: float) -> bool:
        """Whether one more line is within the user's measure; if not, count it."""
        if uid not in self._buckets and not self._has_room(now):
            uid = OTHERS
        if self._buckets.wait(uid, now):
            self._passed_over[uid] += 1
            return False
        self._buckets.take(uid, 1, now)
        return True

    def _has_room(self, now: float) -> bool:
        """Whether there is room for one more bucket, once full ones are forgotten."""
        if len(self._buckets) < self._users:
            return True
        self._buckets.forget_full(now, keep=self._passed_over)
        return len(self._buckets) < self._users

    def collect(self) -> list[tuple[int, int]]:
        """Return uids and how many lines were passed over since the last call."""
        found = list(self._passed_over.items())
        self._passed_over.clear()
        return found
