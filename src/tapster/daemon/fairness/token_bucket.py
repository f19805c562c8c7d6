# SPDX-License-Identifier: LGPL-2.1-or-later
"""A token bucket per user: the arithmetic that `pace` and `throttle` share.

A bucket holds up to `burst` tokens and gains `rate` of them a second. Stored is
only when it will be full again, so a full bucket is one that need not be stored.
"""

from __future__ import annotations

from collections.abc import Container

_ROUNDING = 1e-6  # seconds; adding up many short times is not exact


class TokenBuckets:
    """The buckets of all users. Time is the caller's, in seconds."""

    def __init__(self, rate: float, burst: float) -> None:
        """
        :param rate: tokens a second that a bucket gains.
        :param burst: tokens that a full bucket holds; at least 1.
        """
        self._rate = rate
        self._until_one = (max(burst, 1.0) - 1) / rate  # seconds from full down to one
        self._full_at: dict[int, float] = {}

    def __len__(self) -> int:
        """How many buckets are stored."""
        return len(self._full_at)

    def __contains__(self, uid: int) -> bool:
        return uid in self._full_at

    def wait(self, uid: int, now: float) -> float:
        """:returns: seconds until the user's bucket holds a token; 0.0: it does."""
        full_at = self._full_at.get(uid)
        if full_at is None:
            return 0.0
        wait = full_at - now - self._until_one
        return wait if wait > _ROUNDING else 0.0

    def take(self, uid: int, tokens: float, now: float) -> None:
        """Take tokens out of the user's bucket, whether or not it holds as many.

        :param uid: whose bucket.
        :param tokens: how many; the bucket may be left with less than none.
        :param now: the present time, in seconds.
        """
        full_at = max(self._full_at.get(uid, now), now)
        self._full_at[uid] = full_at + tokens / self._rate

    def forget_full(self, now: float, keep: Container[int] = ()) -> None:
        """Stop storing the buckets that are full, except those in `keep`."""
        self._full_at = {
            uid: full_at
            for uid, full_at in self._full_at.items()
            if full_at > now or uid in keep
        }
