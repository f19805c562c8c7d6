# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whose names those in a file are, without waiting long to be told.

NSS may ask a directory server, and wait for a minute to learn that nobody answers;
a broker that waits serves nobody. So names are looked up in a thread, which is
waited for at first and then once a minute, half a second at most, and for less
while others are still waiting. What is not known by then is not, or as before.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping

from ..config.values import Names

SECONDS = 60.0  # after that they are looked up again
PATIENCE = 0.5  # seconds that a request waits for them
IMPATIENCE = 0.02  # the same where it is slow


class NameLookup:
    """The way from some names to their numbers."""

    def __init__(
        self,
        names: Names,
        wanted: frozenset[bytes],
        numbers: Mapping[bytes, int | None],
        is_slow: bool,
    ) -> None:
        """Wait for it, if it ends soon.

        :param wanted: names of users, and of groups with an "@".
        :param numbers: what was known before.
        :param is_slow: nobody has answered for others yet.
        """
        self.names = names
        self._wanted = wanted
        self.numbers = dict(numbers)
        self._began = time.monotonic()
        self._has_ended = threading.Event()
        try:
            # A daemon thread: one that waits for NSS must not keep us from ending.
            threading.Thread(target=self._work, name="names", daemon=True).start()
        except RuntimeError:  # no thread can be had now; later maybe
            self._has_ended.set()
        self._has_ended.wait(IMPATIENCE if is_slow else PATIENCE)

    @property
    def is_under_way(self) -> bool:
        return not self._has_ended.is_set()

    def serves(self, names: Names, wanted: frozenset[bytes]) -> bool:
        """Whether its answer is, or will be, good enough for these."""
        if names is not self.names or not wanted <= self._wanted:
            return False
        if self.is_under_way:
            return True  # what is slow is not asked a second time meanwhile
        return time.monotonic() - self._began < SECONDS

    def _work(self) -> None:
        try:
            for name in sorted(self._wanted):
                self.numbers[name] = self._number(os.fsdecode(name))
        finally:
            self._has_ended.set()

    def _number(self, name: str) -> int | None:
        try:
            if name.startswith("@"):
                return self.names.gid(name[1:])
            return self.names.uid(name)
        except (KeyError, ValueError, OSError):
            return None
