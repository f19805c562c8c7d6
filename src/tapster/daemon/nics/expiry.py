# SPDX-License-Identifier: LGPL-2.1-or-later
"""NICs that were granted for a time: each is removed when that time is over.

Times are those of CLOCK_BOOTTIME: records outlive the broker but not the boot, and
the time goes on while the host sleeps. The clock of the event loop stops then, so
the next end is looked at once a minute at least.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from .ledger import Ledger
from .nic import Nic

_log = logging.getLogger(__name__)

_LONGEST_NAP = 60.0  # seconds
_AGAIN = 10.0  # seconds until one that could not be removed is tried again
_SPARE = 64  # entries of NICs that are gone, which may stay in here


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def as_date(expires: float | None) -> str | None:
    """A time of CLOCK_BOOTTIME (seconds) as date and time of day, by the host's clock
    as it is set now; None: never."""
    if expires is None:
        return None
    when = datetime.now(UTC) + timedelta(seconds=expires - now())
    return when.isoformat(timespec="seconds")


class Expiry:
    """Ends NICs when their time is over. One timer, for the next of them."""

    def __init__(self, ledger: Ledger, expire: Callable[[Nic], None]) -> None:
        """:param expire: removes a NIC; one that is still there afterwards is tried
        again."""
        self._ledger = ledger
        self._expire = expire
        self._next: list[tuple[float, str]] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, nic: Nic) -> None:
        """Have a NIC removed when its time is over, if it was granted for a time."""
        if nic.expires is not None:
            if len(self._next) > 2 * len(self._ledger) + _SPARE:
                self._forget_gone()
            heapq.heappush(self._next, (nic.expires, nic.ifname))
            self._look()

    def _forget_gone(self) -> None:
        """Drop the entries of NICs that are gone. They would stay until their time is
        over, which may be years, for each attach of a user who attaches often."""
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
            if self._ledger.by_ifname(ifname) is not None:
                heapq.heappush(self._next, (now() + _AGAIN, ifname))
        if self._next:
            nap = min(self._next[0][0] - now(), _LONGEST_NAP)
            self._timer = asyncio.get_running_loop().call_later(
                max(nap, 0.0), self._look
            )
