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

import logging
import os
import socket
import threading
from collections import Counter
from collections.abc import Iterable

from ..fairness.round_robin import RoundRobin

_log = logging.getLogger(__name__)

SO_PASSRIGHTS = 83  # asm-generic/socket.h; not in Python's socket module
LIMIT = 8  # descriptors that one connection may bring
# Descriptors that one sendmsg(2) can bring (SCM_MAX_FD, net/scm.h). There is room for
# all: the kernel would close the others in the context of whoever receives.
ROOM = 253
THREADS = 16
THREADS_PER_USER = 4  # that close one user's descriptors at a time
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
    """Closes descriptors in threads, each started when all others are busy.

    Users are served in turn, and a user whose descriptors are slow to close keeps no
    more than THREADS_PER_USER threads busy: what others sent is closed meanwhile.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()  # guards all of the following
        self._waiting: RoundRobin[int] = RoundRobin()  # descriptors
        self._closing: Counter[int] = Counter()  # threads that close one, by user
        self._pending: Counter[int] = Counter()  # descriptors not closed yet, by user
        self._threads = 0

    def close(self, uid: int, fds: Iterable[int]) -> None:
        """Close descriptors at some later time.

        :param uid: the user whom they came from.
        """
        for fd in fds:
            with self._changed:
                self._waiting.add(uid, fd)
                self._pending[uid] += 1
                more = self._pending.total() > self._threads < THREADS
                self._threads += more
                self._changed.notify()
            if more:
                self._start_thread()

    def _start_thread(self) -> None:
        # With the name that other threads for closing have.
        thread = threading.Thread(target=self._work, name="close", daemon=True)
        try:
            thread.start()
        except RuntimeError as err:  # the limit of threads
            with self._changed:
                self._threads -= 1  # tried again with the next descriptor
            _log.warning("descriptors of clients are closed later: %s", err)

    def close_connection(
        self, uid: int, connection: socket.socket, *, may_come: bool | None = None
    ) -> None:
        """Close a socket, and with it what was sent by it and not received.

        :param uid: the client's.
        :param connection: its socket.
        :param may_come: whether descriptors may be in it; None: ask the kernel.
        """
        if may_come is None:
            may_come = may_carry_fds(connection)
        if not may_come:
            connection.close()
            return
        try:
            connection.shutdown(socket.SHUT_RDWR)  # the client need not wait
        except OSError:
            pass  # the client is gone
        self.close(uid, (connection.detach(),))

    def is_behind(self, uid: int) -> bool:
        """Whether so many of a user's are not closed yet that it is no accident."""
        return self._pending[uid] > PENDING

    def _work(self) -> None:
        while True:
            with self._changed:
                while (uid := self._next_user()) is None:
                    self._changed.wait()
                fd = self._waiting.take(uid)
                self._closing[uid] += 1
            try:
                os.close(fd)
            except OSError:
                pass  # a full disk, for example; the descriptor is closed anyway
            with self._changed:
                for counter in (self._closing, self._pending):
                    counter[uid] -= 1
                    if not counter[uid]:
                        del counter[uid]

    def _next_user(self) -> int | None:
        for uid in self._waiting:
            if self._closing[uid] < THREADS_PER_USER:
                return uid
        return None


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

    @property
    def room(self) -> int:
        """For how many descriptors there has to be room in one recvmsg(2)."""
        return ROOM if self._may_come else 0

    def close(self, connection: socket.socket) -> None:
        """Close the socket, and with it what was sent by it and not received."""
        self._reaper.close_connection(self._uid, connection, may_come=self._may_come)
