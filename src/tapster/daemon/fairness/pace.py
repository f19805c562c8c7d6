# SPDX-License-Identifier: LGPL-2.1-or-later
"""How fast a user may have things changed: a token bucket each.

What each of these costs goes beyond our own time: the kernel takes a tap apart
long after we answered, each change is two lines of log, and everybody's daemons
are told of it. Whoever is faster waits for it; nobody else does.
"""

from __future__ import annotations

from collections.abc import Mapping

# What calls cost; others, which only look at what is known, cost nothing.
COSTS: Mapping[str, float] = {
    "Attach": 1,
    "Detach": 1,
    "AddForward": 1,
    "RemoveForward": 1,
    "Explain": 1,
    "Reload": 5,  # reads files
    "Diagnose": 25,  # reads all rules of the host
}
LONGEST = 10.0  # seconds to wait; clients give up after 30
USERS = 4096  # with a bucket of their own


class Pace:
    """The buckets of all users but root. Time is the caller's, in seconds."""

    def __init__(self, rate: float, burst: float, users: int = USERS) -> None:
        """
        :param rate: a second, for as long as one likes.
        :param burst: at once, after some quiet.
        """
        self._rate = rate
        self._burst = max(burst, 1.0)
        self._users = users
        # When the user's bucket was, or is going to be, full again.
        self._full: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._full)

    def wait(self, uid: int, cost: float, now: float) -> float | None:
        """Take this from the user's bucket, which may leave it with less than nothing.

        :returns: seconds until it may be done, as one is in the bucket then; None:
            too many, it is not taken.
        """
        if uid == 0 or not cost:
            return 0.0
        full = max(self._full.get(uid, now), now)
        wait = full - now - (self._burst - 1) / self._rate
        if wait > LONGEST:
            return None
        if uid not in self._full and len(self._full) >= self._users:
            self._forget(now)
        self._full[uid] = full + cost / self._rate
        return max(wait, 0.0)

    def _forget(self, now: float) -> None:
        """The buckets that are full, as all are that nobody used for a while."""
        self._full = {uid: full for uid, full in self._full.items() if full > now}
        # Each time at the same number would be each time if nearly all are in use.
        self._users = max(self._users, 2 * len(self._full))
