# SPDX-License-Identifier: LGPL-2.1-or-later
"""Descriptors that clients send us. No call takes any: they are to be got rid of.

That is not harmless. The last close(2) of a file is its owner's choice of time: a
TCP socket with SO_LINGER takes as long as it was told to, a file of a dead NFS or
FUSE server for ever. The kernel closes what is not received in the context of
whoever reads, too. So it is best not to get any (SO_PASSRIGHTS, since Linux 6.16);
and what we get regardless is closed by threads that have nothing else to do.
"""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections import Counter
from collections.abc import Iterable

SO_PASSRIGHTS = 83  # asm-generic/socket.h; not in Python's socket module
THREADS = 16
PENDING = 32  # of one user, not closed yet: more are not taken in


def refuse(listening: socket.socket) -> None:
    """Have sendmsg(2) with descriptors fail for who connects from now on, where
    the kernel can do that."""
    try:
        listening.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)
    except OSError:
        pass


def may_come(connection: socket.socket) -> bool:
    """Whether descriptors may come by this connection, or may have come before
    it was accepted."""
    try:
        return connection.getsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS) != 0
    except OSError:
        return True


class Disposal:
    """Closes descriptors in threads, each started when all others are busy."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._pending: Counter[int] = Counter()
        self._threads = 0

    def close(self, uid: int, fds: Iterable[int]) -> None:
        """Close what came from a user, some time."""
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
                pass  # what a full disk has to say, say; it is closed
            with self._lock:
                self._pending[uid] -= 1
                if not self._pending[uid]:
                    del self._pending[uid]
