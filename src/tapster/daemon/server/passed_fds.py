# SPDX-License-Identifier: LGPL-2.1-or-later
"""Descriptors that clients send us. No call takes any: all are closed.

Closing them is not harmless. The last close(2) of a file takes as long as the
file's owner chose: a TCP socket with SO_LINGER as long as it was told to, a file
of a dead NFS or FUSE server for ever. The kernel also closes what was sent and not
received, in the context of whoever closes the connection. It is best to get none
(SO_PASSRIGHTS, since Linux 6.16); what comes regardless is closed by threads that
have nothing else to do.
"""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections import Counter
from collections.abc import Iterable

SO_PASSRIGHTS = 83  # asm-generic/socket.h; not in Python's socket module
LIMIT = 8  # descriptors that one connection may bring
THREADS = 16
PENDING = 32  # of one user, not closed yet: no more of its connections are accepted


def disable_fd_passing(listening: socket.socket) -> None:
    """Make sendmsg(2) with descriptors fail for clients that connect from now on,
    where the kernel can do that."""
    try:
        listening.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)
    except OSError:
        pass


def may_carry_fds(connection: socket.socket) -> bool:
    """Whether descriptors may come by this connection, or may have come before
    it was accepted."""
    try:
        return connection.getsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS) != 0
    except OSError:
        return True


class FdReaper:
    """Closes descriptors in threads, each started when all others are busy."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._pending: Counter[int] = Counter()
        self._threads = 0

    def close(self, uid: int, fds: Iterable[int]) -> None:
        """Close descriptors at some later time.

        :param uid: the user whom they came from.
        """
        for fd in fds:
            with self._lock:
                self._pending[uid] += 1
                more = self._pending.total() > self._threads < THREADS
                self._threads += more
            if more:
                # With the name that other threads for closing have.
                threading.Thread(target=self._work, name="close", daemon=True).start()
            self._queue.put((uid, fd))

    def is_behind(self, uid: int) -> bool:
        """Whether so many of a user's are not closed yet that it is no accident."""
        return self._pending[uid] > PENDING

    def _work(self) -> None:
        while True:
            uid, fd = self._queue.get()
            try:
                os.close(fd)
            except OSError:
                pass  # a full disk, for example; the descriptor is closed anyway
            with self._lock:
                self._pending[uid] -= 1
                if not self._pending[uid]:
                    del self._pending[uid]


class PassedFds:
    """The descriptors that one client sends: counted, and closed by the reaper."""

    def __init__(self, reaper: FdReaper, uid: int, connection: socket.socket) -> None:
        """
        :param reaper: closes them.
        :param uid: the user whom they are counted for.
        :param connection: the socket that they come by.
        """
        self._reaper = reaper
        self._uid = uid
        self._may_come = may_carry_fds(connection)
        self._count = 0

    @property
    def are_too_many(self) -> bool:
        return self._count > LIMIT

    def discard(self, fds: list[int]) -> None:
        """Count and close descriptors that were received."""
        self._count += len(fds)
        self._reaper.close(self._uid, fds)

    def close(self, connection: socket.socket) -> None:
        """Close the socket, and with it what was sent by it and not received."""
        if not self._may_come:
            connection.close()
            return
        try:
            connection.shutdown(socket.SHUT_RDWR)  # the client need not wait
        except OSError:
            pass  # the client is gone
        self._reaper.close(self._uid, (connection.detach(),))
