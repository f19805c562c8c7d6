# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which uids are not persons but given to one by subuid(5).

With newuidmap(1), as rootless containers use it, a user can become any of 65,536
other uids. Without this each of them would have its own share of every limit, and
none would be denied what a rule denies to the user.
"""

from __future__ import annotations

import logging
import os
from bisect import bisect_right

from ...policy.config.files import signature

_log = logging.getLogger(__name__)

PATH = "/etc/subuid"
_MOST_ID = 2**32 - 2
_LARGEST = 16 << 20  # bytes of the file; 100,000 users take 3 MB


def parse(text: str) -> list[tuple[int, int]]:
    """The ranges of a file like /etc/subuid. A line that is not well formed is skipped,
    as newuidmap does.

    :returns: the first and the last uid of each range, in order; none overlap.
    """
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
    """The uids that a file gives to users, as it is now."""

    def __init__(self, path: str = PATH) -> None:
        self._path = path
        self._signature: tuple[int, ...] = ()
        self._ranges: list[tuple[int, int]] = []

    def __contains__(self, uid: int) -> bool:
        self._read_if_changed()
        place = bisect_right(self._ranges, (uid, _MOST_ID + 1)) - 1
        return place >= 0 and uid <= self._ranges[place][1]

    def _read_if_changed(self) -> None:
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
            self._signature = (err.errno or 0,)  # what was read last holds


_SYSTEMS = Subordinates()


def is_subordinate(uid: int) -> bool:
    """Whether /etc/subuid gives a uid to some user."""
    return uid in _SYSTEMS
