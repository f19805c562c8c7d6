# SPDX-License-Identifier: LGPL-2.1-or-later
"""Accepts connections, and goes on accepting whatever clients do.

A shortage of descriptors is met with a spare one: the connection that can't be
served is taken and closed, instead of waiting in the queue and waking us for
ever. Nobody has more than his share of connections, and none for nothing.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import socket
from collections import Counter
from collections.abc import Callable

from ..model import Peer
from ..policy.config import Limits
from ..wire.errors import INTERFACE
from ..wire.interface import Service
from .connection import Connection
from .peer import identify

_log = logging.getLogger(__name__)

_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)


class Listener:
    """Serves one listening socket. `close()` closes it and every connection."""

    def __init__(
        self, listening: socket.socket, service: Service, limits: Limits
    ) -> None:
        self._listening = listening
        self._service = service
        self._limits = limits
        self._connections: set[Connection] = set()
        self._of_user: Counter[int] = Counter()
        self._spare = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self._sweep: asyncio.TimerHandle | None = None
        self.on_lost: Callable[[Peer], None] = lambda _: None

    def __len__(self) -> int:
        return len(self._connections)

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._listening.setblocking(False)
        loop.add_reader(self._listening.fileno(), self._accept)
        self._sweep_soon()

    def close(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listening.fileno())
        self._listening.close()
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in list(self._connections):
            connection.abort()
        os.close(self._spare)

    def _accept(self) -> None:
        """Take one connection; for the next the loop calls again, after others
        have had their turn."""
        try:
            accepted, _ = self._listening.accept()
        except BlockingIOError:
            return
        except OSError as err:
            if err.errno in _NO_DESCRIPTOR:
                self._turn_away()
            elif err.errno not in (errno.ECONNABORTED, errno.EINTR, errno.EPROTO):
                _log.error("accept: %s", err)
            return
        try:
            self._admit(accepted)
        except OSError as err:
            _log.warning("a connection was dropped: %s", err)
            accepted.close()

    def _turn_away(self) -> None:
        """Out of descriptors: use the spare one to get rid of one connection."""
        _log.error("out of file descriptors; a connection is turned away")
        os.close(self._spare)
        try:
            self._listening.accept()[0].close()
        except OSError:
            pass
        self._spare = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)

    def _admit(self, accepted: socket.socket) -> None:
        peer = identify(accepted)
        limits = self._limits
        if (
            len(self._connections) >= limits.connections
            or self._of_user[peer.uid] >= limits.connections_per_user
        ):
            _log.warning(
                "too many connections; uid %d, pid %d turned away", peer.uid, peer.pid
            )
            self._say_busy(accepted)
            accepted.close()
            return
        accepted.setblocking(False)
        connection = Connection(peer, self._service, self._lost)
        connection.attach_socket(accepted)
        self._connections.add(connection)
        self._of_user[peer.uid] += 1

    @staticmethod
    def _say_busy(accepted: socket.socket) -> None:
        reply = {
            "error": f"{INTERFACE}.BrokerBusy",
            "parameters": {
                "message": "too many connections",
                "hint": "try again later",
            },
        }
        try:
            accepted.send(json.dumps(reply).encode() + b"\0", socket.MSG_DONTWAIT)
        except OSError:
            pass

    def _lost(self, connection: Connection) -> None:
        if connection in self._connections:
            self._connections.discard(connection)
            self._of_user[connection.peer.uid] -= 1
            if not self._of_user[connection.peer.uid]:
                del self._of_user[connection.peer.uid]
            self.on_lost(connection.peer)

    def _sweep_soon(self) -> None:
        interval = max(self._limits.idle_connection_seconds / 4, 0.1)
        self._sweep = asyncio.get_running_loop().call_later(interval, self._close_idle)

    def _close_idle(self) -> None:
        """Close connections that neither ask nor are being answered."""
        now = asyncio.get_running_loop().time()
        for connection in list(self._connections):
            quiet = now - connection.last_activity
            if not connection.calls and quiet > self._limits.idle_connection_seconds:
                connection.abort()
        self._sweep_soon()
