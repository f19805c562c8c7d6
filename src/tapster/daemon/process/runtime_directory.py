# SPDX-License-Identifier: LGPL-2.1-or-later
"""Notices that the runtime directory was removed while the broker runs.

If somebody cleans it up, the socket, the lock and all records are gone: nobody can
connect any more, another broker could start beside this one, and the next broker
would know of no NIC. The running broker may not make all of that again, because its
sandbox forbids it to give files to dnsmasq. It need not, either: it writes down what
only it knows and ends; the next broker makes the rest from that and from what the
kernel says. Guests notice nothing.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from collections.abc import Callable

_log = logging.getLogger(__name__)

INTERVAL = 1.0  # seconds


class RuntimeDirectoryWatch:
    """Checks the runtime directory every INTERVAL, from `start` to `stop`."""

    def __init__(
        self,
        lock: int,
        runtime: str,
        save: Callable[[], None],
        on_lost: Callable[[], None],
    ) -> None:
        """
        :param lock: descriptor of the file `lock` in there, which makes us the only
            broker; the caller closes it.
        :param runtime: path of the directory.
        :param save: writes the records again; may raise OSError.
        :param on_lost: called once, after `save`, when the directory is gone.
        """
        self._lock, self._runtime = lock, runtime
        self._save, self._on_lost = save, on_lost
        self._timer: asyncio.TimerHandle | None = None
        self.is_lost = False

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(INTERVAL, self._check)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        if self._is_there():
            self.start()
            return
        self._timer = None
        self.is_lost = True
        _log.critical("%s was lost; another broker has to start", self._runtime)
        try:
            self._save_unless_taken()
        except OSError as err:
            _log.error("NICs can't be written down again: %s", err)
        self._on_lost()

    def _is_there(self) -> bool:
        try:
            there = os.stat(os.path.join(self._runtime, "lock"))
        except OSError:
            return False
        return os.path.samestat(there, os.fstat(self._lock)) and all(
            os.path.isdir(os.path.join(self._runtime, name))
            for name in ("nics", "networks")
        )

    def _save_unless_taken(self) -> None:
        """Write nothing if another broker has locked the directory already.

        :raises OSError: another broker has, or nothing can be written.
        """
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
