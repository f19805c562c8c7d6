# SPDX-License-Identifier: LGPL-2.1-or-later
"""NICs that were granted for a time: each is taken away when that is over.

Time is CLOCK_BOOTTIME, as the records outlive the broker but not the boot, and a
host that sleeps is no way to keep a NIC longer. The loop's own clock stops while
the host sleeps, so it is woken once a minute at least.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from .ledger import Ledger, Nic

_log = logging.getLogger(__name__)

_LONGEST_NAP = 60.0  # seconds
_AGAIN = 10.0  # seconds until one that could not be taken away is tried again
_SPARE = 64  # entries of NICs that have gone before their time


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def as_date(expires: float | None) -> str | None:
    """When that is by the host's clock, as it goes now."""
    if expires is None:
        return None
    when = datetime.now(UTC) + timedelta(seconds=expires - now())
    return when.isoformat(timespec="seconds")


class Expiry:
    """When the next NIC's time is over."""

    def __init__(self, ledger: Ledger, expire: Callable[[Nic], None]) -> None:
        """:param expire: takes a NIC away; one that is still there is tried again."""
        self._ledger = ledger
        self._expire = expire
        self._next: list[tuple[float, str]] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, nic: Nic) -> None:
        """Take a NIC away when its time is over; one without an end is none of
        ours."""
        if nic.expires is not None:
            if len(self._next) > 2 * len(self._ledger) + _SPARE:
                self._forget_gone()
            heapq.heappush(self._next, (nic.expires, nic.ifname))
            self._look()

    def _forget_gone(self) -> None:
        """What has gone by itself would stay in here for its time, which a user
        who attaches and detaches can have be years."""
        there = self._ledger.by_ifname
        self._next = [entry for entry in self._next if there(entry[1]) is not None]
        heapq.heapify(self._next)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self.cancel()
        while self._next and self._next[0][0] <= now():
            _, ifname = heapq.heappop(self._next)
            nic = self._ledger.by_ifname(ifname)
            if nic is None or nic.expires is None or nic.expires > now():
                continue
            try:
                self._expire(nic)
            except Exception:  # noqa: BLE001 - the others' time is over, too
                _log.exception("%s could not be taken away", ifname)
            if self._ledger.by_ifname(ifname) is nic:
                heapq.heappush(self._next, (now() + _AGAIN, ifname))
        if self._next:
            nap = min(self._next[0][0] - now(), _LONGEST_NAP)
            self._timer = asyncio.get_running_loop().call_later(
                max(nap, 0.0), self._look
            )
