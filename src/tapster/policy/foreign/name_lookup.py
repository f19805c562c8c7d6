# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whose the names in a file are, without waiting long for the answer.

NSS may ask a directory server, and take a minute to learn that the server does not
answer; a broker that waits serves nobody. So names are looked up in a thread. The
thread is waited for half a second at most, and for much less while another lookup is
still under way; an answer is good for a minute. A name that is not known by then stays
as it was known before, or is not known.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping

from ..config.values import Names

SECONDS = 60.0  # after that, names are looked up again
PATIENCE = 0.5  # seconds that a request waits for the thread
IMPATIENCE = 0.02  # seconds that it waits while another lookup is under way


class NameLookup:
    """The lookup of some names' numbers: begun, and maybe not ended yet.

    `numbers` has each name's number, None if nobody has the name; a name that is
    missing there is not known yet.
    """

    def __init__(
        self,
        names: Names,
        wanted: frozenset[bytes],
        numbers: Mapping[bytes, int | None],
        is_slow: bool,
    ) -> None:
        """Begin, and wait for the end if it comes soon.

        :param names: what is asked.
        :param wanted: names of users, and of groups with an "@".
        :param numbers: what was known before.
        :param is_slow: another lookup is still under way.
        """
        self.names = names
        self._wanted = wanted
        self.numbers = dict(numbers)
        self._began = time.monotonic()
        self._has_ended = threading.Event()
        try:
            # A daemon thread: one that waits for NSS must not keep the broker alive.
            threading.Thread(target=self._work, name="names", daemon=True).start()
        except RuntimeError:  # no thread can be had now; the next lookup tries again
            self._has_ended.set()
        self._has_ended.wait(IMPATIENCE if is_slow else PATIENCE)

    @property
    def is_under_way(self) -> bool:
        return not self._has_ended.is_set()

    def serves(self, names: Names, wanted: frozenset[bytes]) -> bool:
        """Whether its answer is, or will be, good enough for these names.

        :param names: what would be asked.
        :param wanted: the names.
        """
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
