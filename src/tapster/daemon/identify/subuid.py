# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which uids are not persons but what subuid(5) gives to one.

By newuidmap(1), as rootless containers have it, a user can be any of 65,536 other
uids. To each limit for each user, and to each rule that denies him something, they
would be somebody else.
"""

from __future__ import annotations

import logging
import os
from bisect import bisect_right

from ...policy.config.files import signature

_log = logging.getLogger(__name__)

PATH = "/etc/subuid"
_MOST_ID = 2**32 - 2
_LARGEST = 16 << 20  # bytes; a line for each of 100,000 users are 3 MB


def parse(text: str) -> list[tuple[int, int]]:
    """First and last uid of each range, in order and apart; a line that is none is
    passed over, as newuidmap does."""
    ranges: list[tuple[int, int]] = []
    found = []
    for line in text.split("\n"):
        _, *numbers = line.split(":")
        if len(numbers) == 2 and all(n.isascii() and n.isdigit() for n in numbers):
            first, count = (int(number[:12]) for number in numbers)
            if count and first <= _MOST_ID:
                found.append((first, min(first + count - 1, _MOST_ID)))
    for first, last in sorted(found):
        if ranges and first <= ranges[-1][1] + 1:
            ranges[-1] = ranges[-1][0], max(last, ranges[-1][1])
        else:
            ranges.append((first, last))
    return ranges


class Subordinates:
    """What the file says now."""

    def __init__(self, path: str = PATH) -> None:
        self._path = path
        self._signature: tuple[int, ...] = ()
        self._ranges: list[tuple[int, int]] = []

    def __contains__(self, uid: int) -> bool:
        self._look()
        place = bisect_right(self._ranges, (uid, _MOST_ID + 1)) - 1
        return place >= 0 and uid <= self._ranges[place][1]

    def _look(self) -> None:
        try:
            seen = signature(os.stat(self._path))
            if seen == self._signature:
                return
            with open(self._path, encoding="utf-8", errors="replace") as file:
                self._ranges = parse(file.read(_LARGEST))
            self._signature = seen
        except FileNotFoundError:
            self._signature, self._ranges = (), []
        except OSError as err:
            if self._signature != (err.errno or 0,):
                _log.warning("%s: %s", self._path, err.strerror)
            self._signature = (err.errno or 0,)  # what it said last holds


_SYSTEMS = Subordinates()


def is_subordinate(uid: int) -> bool:
    """Whether the system's file gives a uid to a user."""
    return uid in _SYSTEMS
