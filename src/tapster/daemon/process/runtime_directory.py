# SPDX-License-Identifier: LGPL-2.1-or-later
"""The runtime directory: locked by one broker, and watched while that runs.

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

from ...errors import BrokerUnavailable

_log = logging.getLogger(__name__)

INTERVAL = 1.0  # seconds


def lock(runtime: str) -> int:
    """Make the runtime directory, and be its only broker.

    :param runtime: path of the directory.
    :returns: a descriptor that holds the lock for as long as it is open; the caller
        closes it.
    :raises BrokerUnavailable: the directory can't be made, others can write to it, or
        another broker has it.
    """
    try:
        if not os.path.isdir(runtime):
            os.makedirs(runtime, exist_ok=True)
            os.chmod(runtime, 0o755)  # noqa: S103 - who may ask is policy
        what = os.stat(runtime)
        if what.st_uid not in (0, os.geteuid()) or what.st_mode & 0o022:
            raise BrokerUnavailable(
                f"others than root and its own user can write to {runtime}",
                "what is in there is trusted; see --runtime-dir",
            )
        fd = os.open(
            os.path.join(runtime, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
    except OSError as err:
        raise BrokerUnavailable(
            f"cannot use {runtime}: {err.strerror}", "see --runtime-dir"
        ) from err
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise BrokerUnavailable(f"another broker uses {runtime}") from None
    return fd


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
