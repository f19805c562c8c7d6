# SPDX-License-Identifier: LGPL-2.1-or-later
"""A connection's socket: reading in turns, and writing at once.

It reads a little at a time and only when its owner says so: nobody waits for a
client that never stops sending. It writes without waiting for the event loop
where nothing is queued: a reply saves a turn of the loop.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from dataclasses import dataclass
from typing import Protocol

from .passed_fds import PassedFds

READ_SIZE = 4096  # bytes at a time


class Owner(Protocol):
    """Who is told what happens to the socket."""

    def readable(self) -> None:
        """There is something to read. Said in each turn of the event loop until
        it is read, or reading is paused."""

    def drained(self) -> None:
        """Nothing is queued any more."""

    def failed(self, error: OSError) -> None:
        """Reading or writing failed: the client is gone."""


@dataclass(slots=True)
class _Queued:
    """A message that the socket has not taken, or the rest of one."""

    data: bytes
    fds: list[int]
    sent: asyncio.Future[None]


class Transport:
    """Reads and writes one accepted, non-blocking socket, and closes it."""

    def __init__(
        self, connection: socket.socket, owner: Owner, passed_fds: PassedFds
    ) -> None:
        """
        :param connection: the socket, which belongs to this from now on.
        :param owner: is told what happens; forgotten by `close()`.
        :param passed_fds: gets what descriptors the client sends.
        """
        self.socket = connection
        self._fd = connection.fileno()
        self._owner: Owner | None = owner
        self._passed_fds = passed_fds
        self._loop = asyncio.get_running_loop()
        self._is_reading = True  # not paused
        self._is_watched = False  # by the event loop, for something to read
        self._queue: deque[_Queued] = deque()
        self.queued_since = 0.0  # when the last message went, or the first came
        self.is_at_end = False  # the client sends no more
        # Watched from the next turn of the loop on, if nothing has paused it by
        # then: what has come by now can be read without being told.
        self._loop.call_soon(self._watch)

    # Reading

    def pause(self) -> None:
        """Read nothing until `resume()`."""
        self._is_reading = False
        self._unwatch()

    def resume(self) -> None:
        """Undo `pause()`, in the next turn of the loop."""
        if not self._is_reading:
            self._is_reading = True
            self._loop.call_soon(self._watch)

    def _watch(self) -> None:
        if (
            self._owner is not None
            and self._is_reading
            and not (self._is_watched or self.is_at_end)
        ):
            self._loop.add_reader(self._fd, self._owner.readable)
            self._is_watched = True

    def _unwatch(self) -> None:
        if self._is_watched:
            self._loop.remove_reader(self._fd)
            self._is_watched = False

    def read(self) -> bytes | None:
        """Read what is there, READ_SIZE bytes at most.

        :returns: b"": the client sends no more; None: nothing is there, or reading
            is paused.
        """
        if self._owner is None or not self._is_reading or self.is_at_end:
            return None
        try:
            room = self._passed_fds.room
            data, fds, _, _ = socket.recv_fds(self.socket, READ_SIZE, room)
        except BlockingIOError:
            return None
        except OSError as err:
            self._owner.failed(err)
            return None
        if fds:
            self._passed_fds.discard(fds)
        if not data:
            self.is_at_end = True
            self._unwatch()
        return data

    # Writing

    @property
    def queued(self) -> int:
        """How many messages the client has left unread."""
        return len(self._queue)

    def send(self, data: bytes, fds: list[int]) -> asyncio.Future[None] | None:
        """Send a message at once, or queue what the socket does not take.

        :param data: one message.
        :param fds: sent along; the caller closes them, but not before it is sent.
        :returns: None: it is sent, or never will be, as the client is gone;
            otherwise done when that is so.
        """
        if self._owner is None:
            return None
        if self._queue:
            return self._enqueue(data, fds)
        try:
            sent = self._write(data, fds)
        except BlockingIOError:
            return self._enqueue(data, fds)
        except OSError as err:
            self._owner.failed(err)
            return None
        if sent == len(data):
            return None
        return self._enqueue(data[sent:], [])

    def _write(self, data: bytes, fds: list[int]) -> int:
        if fds:
            return socket.send_fds(self.socket, [data], fds)
        return self.socket.send(data)

    def _enqueue(self, data: bytes, fds: list[int]) -> asyncio.Future[None]:
        if not self._queue:
            self.queued_since = self._loop.time()
            self._loop.add_writer(self._fd, self._flush)
        queued = _Queued(data, fds, self._loop.create_future())
        self._queue.append(queued)
        return queued.sent

    def _flush(self) -> None:
        """Send what the socket takes of the queue."""
        owner = self._owner
        while self._queue and owner is not None:
            first = self._queue[0]
            try:
                sent = self._write(first.data, first.fds)
            except BlockingIOError:
                return
            except OSError as err:
                owner.failed(err)
                return
            if sent < len(first.data):
                first.data, first.fds = first.data[sent:], []
                continue
            self._queue.popleft()
            self.queued_since = self._loop.time()
            _complete(first.sent)
        self._loop.remove_writer(self._fd)
        if owner is not None:
            owner.drained()

    # The end

    def close(self) -> None:
        """Close the socket, whatever is queued. May be called once."""
        self._owner = None  # in a circle, both would wait for the garbage collector
        self._unwatch()
        if self._queue:
            self._loop.remove_writer(self._fd)
        while self._queue:
            _complete(self._queue.popleft().sent)
        self._passed_fds.close(self.socket)


def _complete(sent: asyncio.Future[None]) -> None:
    if not sent.done():  # who waited for it may have been cancelled
        sent.set_result(None)
