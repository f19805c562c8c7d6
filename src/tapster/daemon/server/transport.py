# SPDX-License-Identifier: LGPL-2.1-or-later
"""A connection's socket, beneath asyncvarlink's receiver.

It reads a little at a time, so that nobody waits for a client that never stops,
and is not kept by what closing a descriptor of a client's may take.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Protocol, cast

from asyncvarlink import FileDescriptorArray, VarlinkTransport

DESCRIPTOR_LIMIT = 8  # a connection; no call takes any


class Receiver(Protocol):
    """Who is told that something came, and what."""

    def readable(self) -> None: ...
    def descriptors_received(self, fds: list[int]) -> None: ...
    def message_received(
        self, data: bytes, fds: FileDescriptorArray | None
    ) -> None: ...


class Socket(socket.socket):
    """asyncio formats the descriptor each time it is not in the selector, and
    the usual text of a socket costs two system calls."""

    dispose: Callable[[int], None] | None = None

    def __repr__(self) -> str:
        return f"<socket {self.fileno()}>"

    def close(self) -> None:
        """The kernel closes what was sent to us and not received along with it."""
        if self.dispose is None or self.fileno() < 0:
            super().close()
            return
        try:
            self.shutdown(socket.SHUT_RDWR)  # the client need not wait for that
        except OSError:
            pass  # it is gone
        self.dispose(self.detach())


class Transport(VarlinkTransport):
    """Reads when its protocol says so, and once. asyncvarlink's own way, which tells
    which message a descriptor came with, goes on for as long as a client sends
    and lets nobody else have a turn; here no call takes descriptors."""

    _at_end = False
    _has_begun = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # As it soon will be, so that `read_now` need not wait for that; the loop is
        # told of the socket when it begins, if nothing has paused it by then.
        self._paused = False

    def _resume_reading(self) -> None:
        if self._has_begun:
            super()._resume_reading()
            return
        self._has_begun = True
        if not (self._closing or self._recvfd is None or self._paused):
            self._loop.add_reader(self._recvfd, self._handle_read)

    def _handle_read_socket(self) -> None:
        # Again in each turn of the loop until it is read, which is cheaper than to
        # have the kernel told twice.
        cast(Receiver, self._protocol).readable()

    def read(self) -> None:
        """Read what is there, a little of it at most."""
        if self._recvfd is None or self._closing or self._paused or self._at_end:
            return
        connection = cast(socket.socket, self._recvfd)
        receiver = cast(Receiver, self._protocol)
        fds: list[int] = []
        try:
            data, fds, _, _ = socket.recv_fds(
                connection, self.RECV_BUFFER_SIZE, DESCRIPTOR_LIMIT + 1
            )
        except BlockingIOError:
            return
        except OSError as err:
            self._close_receiver(err)
            return
        if fds:
            receiver.descriptors_received(fds)
        if data:
            receiver.message_received(data, None)
        else:
            self._at_end = True
            self._loop.remove_reader(connection)
            self._loop.call_soon(self._eof_received)

    def read_now(self) -> None:
        """Read what is there without waiting to be told that something is: a
        client sends its call right after connecting."""
        if self._recvfd is not None and not self._closing:
            self._handle_read_socket()

    def _connection_lost(self, exc: Exception | None = None) -> None:
        super()._connection_lost(exc)
        if self._recvfd is None and self._sendfd is None:
            # Refer to nobody any more, ourselves included: what a flood of
            # connections leaves behind is not to wait for a collection of garbage.
            for name in ("_handle_read", "_do_write", "_protocol"):
                self.__dict__.pop(name, None)
