# SPDX-License-Identifier: LGPL-2.1-or-later
"""Accepts connections, and goes on accepting whatever clients do.

A shortage of descriptors is met with a spare one: the connection that can't be
served is accepted and closed, instead of waiting in the kernel's queue and waking
the broker for ever. No user has more than its share of connections: a client
beyond it is told so at once, as all users wait in the same queue until they are
accepted. A connection that is to be served is admitted in its user's turn.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import time

from ...policy.config.load import Limits
from ...wire.errors import INTERFACE
from ...wire.interface import Service
from ..fairness.throttle import OTHERS
from ..identify.peer import credentials, groups, with_account
from .connection import Connection
from .framing import encode
from .passed_fds import disable_fd_passing
from .server_state import ServerState

_log = logging.getLogger(__name__)

_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
_LOST = (errno.ECONNABORTED, errno.EINTR, errno.EPROTO)
_ACCEPTING = 0.0005  # seconds of accepting until others have their turn
_CROWDED = 0.002  # seconds; a shorter time between two connections is a crowd
_BUSY = encode(
    {
        "error": f"{INTERFACE}.BrokerBusy",
        "parameters": {"message": "too many connections", "hint": "try again later"},
    }
)


class Listener:
    """Serves one listening socket. `close()` closes it and every connection."""

    def __init__(
        self, listening: socket.socket, service: Service, limits: Limits
    ) -> None:
        """
        :param listening: bound and listening; closed by `close()`.
        :param service: does what calls ask for.
        :param limits: of connections and requests, by user and in all.
        """
        self._listening = listening
        self._service = service
        self._limits = limits
        self._server = ServerState(limits)
        # The oldest first; a socket is a connection that is still to be admitted.
        self._of_user: dict[int, dict[socket.socket | Connection, None]] = {}
        self._count = 0
        self._spare = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self._sweep: asyncio.TimerHandle | None = None
        self._accepted = 0.0  # when the last connection was
        self._is_crowded = False  # the last two came shortly after each other

    def __len__(self) -> int:
        """How many connections there are."""
        return self._count

    def start(self) -> None:
        """Accept from now on, in the running event loop."""
        loop = asyncio.get_running_loop()
        disable_fd_passing(self._listening)
        self._listening.setblocking(False)
        loop.add_reader(self._listening.fileno(), self._accept)
        self._sweep_soon()

    def close(self) -> None:
        """Accept no more, and close every connection."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listening.fileno())
        self._listening.close()
        if self._sweep is not None:
            self._sweep.cancel()
        for uid, theirs in list(self._of_user.items()):
            for each in list(theirs):
                if isinstance(each, Connection):
                    each.abort()
                else:
                    self._drop(uid, each)
        os.close(self._spare)

    def _accept(self) -> None:
        """Accept one connection, or in a crowd what waits, for as long as that is
        fair. While more wait, the event loop calls again."""
        now = time.perf_counter()
        self._is_crowded = now - self._accepted < _CROWDED
        end = now + _ACCEPTING
        while now < end:
            try:
                # socket.accept() makes an object that would be thrown away here, at
                # the price of five more system calls.
                fd, _ = self._listening._accept()  # type: ignore[attr-defined]
            except BlockingIOError:
                return
            except OSError as err:
                if err.errno in _NO_DESCRIPTOR:
                    self._turn_away()
                elif err.errno not in _LOST:
                    _log.error("accept: %s", err)
                return
            self._accepted = time.perf_counter()
            accepted = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=fd)
            try:
                accepted.setblocking(False)
                self._queue(accepted)
            except OSError as err:
                _log.warning("a connection was dropped: %s", err)
                accepted.close()
            now = time.perf_counter()
            if not self._is_crowded:
                return

    def _turn_away(self) -> None:
        """Use the spare descriptor, as there is no other, to get rid of one
        connection."""
        self._warn(OTHERS, "out of file descriptors; a connection is turned away")
        os.close(self._spare)
        try:
            self._listening.accept()[0].close()
        except OSError:
            pass
        self._spare = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)

    def _queue(self, accepted: socket.socket) -> None:
        """Have a connection wait for its user's turn, or tell its client that there
        are too many."""
        pid, uid, gid = credentials(accepted)
        of_user = len(self._of_user.get(uid, ()))
        if (
            of_user >= self._limits.connections_per_user
            or self._server.reaper.is_behind(uid)
            or (self._count >= self._limits.connections and not self._displace(of_user))
        ):
            self._warn(uid, f"too many connections; uid {uid}, pid {pid} turned away")
            self._say_busy(accepted)
            self._server.reaper.close_connection(uid, accepted)
            return
        self._of_user.setdefault(uid, {})[accepted] = None
        self._count += 1
        if self._is_crowded:
            self._server.turns.ask(uid, lambda: self._admit(pid, uid, gid, accepted))
        else:
            self._admit(pid, uid, gid, accepted)

    def _admit(self, pid: int, uid: int, gid: int, accepted: socket.socket) -> None:
        """A turn to begin serving a connection, and to read what came by it.

        :param pid: of the client, as `uid` and `gid`.
        :param accepted: its socket.
        """
        if accepted.fileno() < 0:
            return  # closed meanwhile
        try:
            if self._is_crowded and self._is_over(accepted):
                self._drop(uid, accepted)
                return
            peer = with_account(uid, gid, groups(accepted), pid)
            connection = Connection(
                accepted, peer, self._service, self._lost, self._server
            )
        except OSError as err:
            _log.warning("a connection was dropped: %s", err)
            self._drop(uid, accepted)
            return
        theirs = self._of_user[uid]
        del theirs[accepted]
        theirs[connection] = None
        # A client sends its call right after connecting: read without waiting to be
        # told. The connection is counted by now, whatever comes of that.
        connection.readable()

    @staticmethod
    def _is_over(accepted: socket.socket) -> bool:
        """Whether the client has hung up and sent nothing: it need not be served."""
        try:
            return not accepted.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False

    def _drop(self, uid: int, accepted: socket.socket) -> None:
        self._forget(uid, accepted)
        self._server.reaper.close_connection(uid, accepted)

    def _forget(self, uid: int, which: socket.socket | Connection) -> None:
        theirs = self._of_user.get(uid, {})
        if which not in theirs:
            return  # it was forgotten when it was displaced
        del theirs[which]
        if not theirs:
            del self._of_user[uid]
        self._count -= 1

    def _displace(self, fewer: int) -> bool:
        """Make room for a user who has `fewer` connections than some other: of the
        user who has most, close the connection that is idle and the oldest.

        :returns: whether there is room now.
        """
        if not self._of_user:
            return False
        theirs = max(self._of_user.values(), key=len)
        if len(theirs) <= fewer:
            return False
        for connection in theirs:
            if isinstance(connection, Connection) and connection.is_idle:
                connection.abort()
                self._lost(connection)
                return True
        return False

    @staticmethod
    def _say_busy(accepted: socket.socket) -> None:
        try:
            accepted.send(_BUSY, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            pass

    def _lost(self, connection: Connection) -> None:
        self._forget(connection.peer.uid, connection)

    def _warn(self, uid: int, text: str) -> None:
        """Log what a client can cause at will, within the user's measure."""
        if self._server.may_log(uid):
            _log.warning("%s", text)

    def _sweep_soon(self) -> None:
        limits = self._limits
        shortest = min(
            limits.idle_connection_seconds, limits.stalled_connection_seconds
        )
        interval = max(shortest / 4, 0.1)
        self._sweep = asyncio.get_running_loop().call_later(interval, self._close_idle)

    def _close_idle(self) -> None:
        """Close connections that have kept the broker waiting for too long."""
        now = asyncio.get_running_loop().time()
        for theirs in list(self._of_user.values()):
            for connection in list(theirs):
                if isinstance(connection, Connection) and connection.is_overdue(
                    now, self._limits
                ):
                    connection.abort()
        for line in self._server.not_logged():
            _log.warning("%s", line)
        self._sweep_soon()
