# SPDX-License-Identifier: LGPL-2.1-or-later
"""The runtime directory while a broker runs: whether it is still there.

Somebody cleans up, and the socket, the lock and all records are gone: nobody can
ask any more, another broker could start beside this one, and the next would know
of no NIC. A running broker may no longer make all that anew (it can't give files
to dnsmasq), and need not: it writes down what only it knows, and ends, for the
next one to make the rest from that and the kernel. Guests notice nothing.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from collections.abc import Callable

_log = logging.getLogger(__name__)

INTERVAL = 1.0  # seconds


class Place:
    """Looks now and then."""

    def __init__(self, lock: int, runtime: str, save: Callable[[], None]) -> None:
        """
        :param lock: the descriptor that makes us the only broker; the caller's.
        :param save: writes down again what is to be known.
        """
        self._lock, self._runtime, self._save = lock, runtime, save
        self._timer: asyncio.TimerHandle | None = None
        self.is_lost = False
        self.on_lost: Callable[[], None] = lambda: None

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(INTERVAL, self._look)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        if self._is_there():
            self.start()
            return
        self._timer = None
        self.is_lost = True
        _log.critical("%s was lost; another broker has to start", self._runtime)
        try:
            self._save_if_ours()
        except OSError as err:
            _log.error("NICs can't be written down again: %s", err)
        self.on_lost()

    def _is_there(self) -> bool:
        try:
            there = os.stat(os.path.join(self._runtime, "lock"))
        except OSError:
            return False
        return os.path.samestat(there, os.fstat(self._lock)) and all(
            os.path.isdir(os.path.join(self._runtime, name))
            for name in ("nics", "networks")
        )

    def _save_if_ours(self) -> None:
        """Nothing is written where another broker is already."""
        if not os.path.isdir(self._runtime):
            os.makedirs(self._runtime)
            os.chmod(self._runtime, 0o755)  # noqa: S103 - who may ask is policy
        path = os.path.join(self._runtime, "lock")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not os.path.samestat(os.fstat(fd), os.fstat(self._lock)):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._save()
        finally:
            os.close(fd)
