# SPDX-License-Identifier: LGPL-2.1-or-later
"""Notices that a client hangs up, without reading what it sent.

While a call runs nothing is read, so the end of what the client sends is not seen.
The kernel tells of a hang-up whatever was sent before it. A client that has only
shut down its own sending has not hung up: it waits for its reply.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def is_hung_up(connection: socket.socket) -> bool:
    """Whether the client has hung up by now."""
    poll = select.poll()
    poll.register(connection, 0)  # POLLHUP is always told
    return bool(poll.poll(0))


class HangupWatch:
    """Watches one socket, for as long as somebody wants to be told."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._epoll: select.epoll | None = None
        self._waiting: set[asyncio.Future[Any]] = set()  # see until_gone

    @property
    def is_watching(self) -> bool:
        return self._epoll is not None

    def start(self, on_hangup: Callable[[], object]) -> None:
        """Watch until `stop()`.

        :param on_hangup: called when the client hangs up.
        :raises OSError: for lack of descriptors.
        """
        if self._epoll is None:
            # An epoll of its own: the event loop's knows this socket as one to read
            # from, or not at all while reading is paused.
            epoll = select.epoll(1)
            epoll.register(self._socket, 0)  # EPOLLHUP is always told
            asyncio.get_running_loop().add_reader(epoll.fileno(), on_hangup)
            self._epoll = epoll

    def stop(self) -> None:
        """Watch no more."""
        if self._epoll is not None:
            asyncio.get_running_loop().remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None

    @contextmanager
    def until_gone(
        self, future: asyncio.Future[Any], on_hangup: Callable[[], object]
    ) -> Iterator[None]:
        """Watch until the block ends; `cancel()` cancels `future` before that.

        :param future: what the block waits for.
        :param on_hangup: called when the client hangs up.
        :raises OSError: for lack of descriptors.
        """
        self.start(on_hangup)
        self._waiting.add(future)
        try:
            yield
        finally:
            self._waiting.discard(future)
            if not self._waiting:
                self.stop()

    def cancel(self) -> None:
        """Stop, and cancel what is waited for: the client is gone."""
        self.stop()
        for future in list(self._waiting):
            future.cancel()
