# SPDX-License-Identifier: LGPL-2.1-or-later
"""How much of what a user can cause at will is worth a line: a token bucket each.

What is passed over is counted. However many users there are (one may have tens
of thousands of ids), the state is bounded: those for whom there is no room share
a bucket.
"""

from __future__ import annotations

from dataclasses import dataclass

OTHERS = -1  # in place of a uid
BURST = 50
RATE = 5.0  # a second
USERS = 128  # with a bucket of their own


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float  # seconds; when it had them
    passed_over: int = 0


class Throttle:
    """The buckets of all users. Time is the caller's, in seconds."""

    def __init__(
        self, burst: int = BURST, rate: float = RATE, users: int = USERS
    ) -> None:
        self._burst = burst
        self._rate = rate
        self._users = users
        self._buckets: dict[int, _Bucket] = {}

    def __len__(self) -> int:
        return len(self._buckets)

    def admits(self, uid: int, now: float) -> bool:
        """Whether one more is within the user's measure; if not, it is counted."""
        bucket = self._bucket(uid, now)
        bucket.tokens = self._tokens(bucket, now)
        bucket.at = now
        if bucket.tokens < 1:
            bucket.passed_over += 1
            return False
        bucket.tokens -= 1
        return True

    def _tokens(self, bucket: _Bucket, now: float) -> float:
        return min(self._burst, bucket.tokens + (now - bucket.at) * self._rate)

    def _bucket(self, uid: int, now: float) -> _Bucket:
        bucket = self._buckets.get(uid)
        if bucket is None:
            if len(self._buckets) >= self._users:
                self._forget(now)
            if len(self._buckets) >= self._users:
                uid = OTHERS
            bucket = self._buckets.setdefault(uid, _Bucket(self._burst, now))
        return bucket

    def _forget(self, now: float) -> None:
        """The buckets that are as good as new."""
        for uid, bucket in list(self._buckets.items()):
            if not bucket.passed_over and self._tokens(bucket, now) >= self._burst:
                del self._buckets[uid]

    def collect(self) -> list[tuple[int, int]]:
        """Uids and how many were passed over since this was last asked."""
        found = [(u, b.passed_over) for u, b in self._buckets.items() if b.passed_over]
        for uid, _ in found:
            self._buckets[uid].passed_over = 0
        return found
