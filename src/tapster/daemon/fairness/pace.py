# SPDX-License-Identifier: LGPL-2.1-or-later
"""How fast a user may have things changed: who is faster waits, and nobody else.

A change costs more than the broker's own time: the kernel takes a tap apart long
after the reply, each change is two lines of log, and every user's daemons are
told of it.
"""

from __future__ import annotations

from collections.abc import Mapping

from .token_bucket import TokenBuckets

# Tokens that a call costs. Calls that only look at what is known cost nothing.
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
    """When each user's next call may run. Time is the caller's, in seconds."""

    def __init__(self, rate: float, burst: float, users: int = USERS) -> None:
        """
        :param rate: tokens a second that a user may spend for any length of time.
        :param burst: tokens that a user may spend at once after a quiet time.
        :param users: how many buckets are stored before full ones are looked for.
        """
        self._buckets = TokenBuckets(rate, burst)
        self._users = users

    def __len__(self) -> int:
        return len(self._buckets)

    def wait(self, uid: int, cost: float, now: float) -> float | None:
        """Charge `cost` tokens; the balance may go negative. Root pays nothing.

        :param uid: whose call it is.
        :param cost: tokens, see `COSTS`.
        :param now: the present time, in seconds.
        :returns: seconds to wait before the call may run; 0.0: now; None: the wait
            would exceed LONGEST, and nothing was charged.
        """
        if uid == 0 or not cost:
            return 0.0
        wait = self._buckets.wait(uid, now)
        if wait > LONGEST:
            return None
        if len(self._buckets) >= self._users and uid not in self._buckets:
            self._make_room(now)
        self._buckets.take(uid, cost, now)
        return wait

    def _make_room(self, now: float) -> None:
        self._buckets.forget_full(now)
        # With a fixed limit each call would look for full buckets, if nearly all
        # of them are in use.
        self._users = max(self._users, 2 * len(self._buckets))
