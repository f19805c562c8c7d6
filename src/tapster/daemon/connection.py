# SPDX-License-Identifier: LGPL-2.1-or-later
"""One client's connection: asyncvarlink behind limits of our own.

asyncvarlink keeps as much as a client sends without a NUL, takes descriptors
nobody asked for, and stops reading while a call runs. Here a message has an
end, descriptors are counted and closed, and a client that goes is noticed.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import select
import socket
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from asyncvarlink import (
    FileDescriptorArray,
    VarlinkInterfaceRegistry,
    VarlinkInterfaceServerProtocol,
    VarlinkMethodCall,
    VarlinkTransport,
)
from asyncvarlink.serviceinterface import VarlinkServiceInterface
from asyncvarlink.types import JSONObject

from ..errors import BrokerFailure
from ..model import Peer
from ..version import __version__
from ..wire.errors import to_wire
from ..wire.interface import BrokerInterface, Service
from .caller import CALLER, Caller
from .peer import pidfd

_log = logging.getLogger(__name__)

MESSAGE_LIMIT = 64 * 1024  # bytes
DESCRIPTOR_LIMIT = 8  # a connection; no call takes any
CALL_LIMIT = 16  # calls a client may be ahead before we stop reading
REPLY_LIMIT = 64  # replies a client may leave unread

_encoder = json.JSONEncoder(separators=(",", ":"))


def _encode(obj: JSONObject) -> bytes:
    """One message, as asyncvarlink would write it."""
    return _encoder.encode(obj).encode() + b"\0"


class _Socket(socket.socket):
    """asyncio formats the descriptor each time it is not in the selector, and
    the usual text of a socket costs two system calls."""

    def __repr__(self) -> str:
        return f"<socket {self.fileno()}>"


class _Transport(VarlinkTransport):
    """Reads once a turn of the event loop. asyncvarlink's own way, which tells
    which message a descriptor came with, goes on for as long as a client sends
    and lets nobody else have a turn; here no call takes descriptors."""

    MAX_RECV_FDS = DESCRIPTOR_LIMIT + 1

    def _handle_read_socket(self) -> None:
        self._sock_receive_fds(self.RECV_BUFFER_SIZE)

    def read_now(self) -> None:
        """Read what is there without waiting to be told that something is: a
        client sends its call right after connecting."""
        if self._recvfd is not None and not self._closing:
            self._handle_read_socket()


class Connection(VarlinkInterfaceServerProtocol):
    """Serves one peer. Not to be used again once it is lost."""

    def __init__(
        self, peer: Peer, service: Service, on_lost: Callable[[Connection], None]
    ) -> None:
        registry = VarlinkInterfaceRegistry()
        registry.register_interface(BrokerInterface(service, peer))
        registry.register_interface(
            VarlinkServiceInterface(
                vendor="tapster",
                product="tapsterd",
                version=__version__,
                url="https://varlink.org",
                registry=registry,
            )
        )
        super().__init__(registry)
        self.peer = peer
        self.accepted = time.clock_gettime(time.CLOCK_BOOTTIME)
        self.last_activity = asyncio.get_running_loop().time()
        self.calls = 0  # running now
        self._on_lost = on_lost
        self._unfinished = 0  # bytes since the last NUL
        self._descriptors = 0
        self._sending = 0  # messages in the transport's queue
        self._streams: set[asyncio.Future[None]] = set()
        self._waiting: set[asyncio.Future[Any]] = set()  # see until_gone
        self._hangup: select.epoll | None = None
        self._reference: weakref.ref[Caller] = weakref.ref(self)
        self._base: _Transport | None = None
        self._socket: socket.socket | None = None

    def attach_socket(self, connection: socket.socket) -> None:
        """Take over an accepted, non-blocking socket: it is closed with this."""
        connection = _Socket(fileno=connection.detach())
        # Python's own idea of it matters too: a dup() passes it on to the file
        # description, and so to all its descriptors.
        connection.setblocking(False)
        self._base = _Transport(
            asyncio.get_running_loop(),
            connection,
            connection,
            self,
            boundary_predictor=None,
        )
        self._socket = connection
        # After the two turns that the transport has asked for to begin with.
        asyncio.get_running_loop().call_soon(self._base.read_now)

    def abort(self) -> None:
        """Close now, whatever is queued."""
        if self._base is not None:
            self._base.abort()

    def message_received(self, data: bytes, fds: FileDescriptorArray | None) -> None:
        self.last_activity = asyncio.get_running_loop().time()
        if fds is not None:
            # The transport closes them when this returns: nobody refers to them.
            self._descriptors += len(fds)
            if self._descriptors > DESCRIPTOR_LIMIT:
                self._violation("sent too many descriptors")
                return
        first_end = data.find(b"\0")
        if (
            self._unfinished + (len(data) if first_end < 0 else first_end)
            > MESSAGE_LIMIT
        ):
            self._violation("sent too large a message")
            return
        last_end = data.rfind(b"\0")
        self._unfinished = (
            len(data) - last_end - 1
            if last_end >= 0
            else (self._unfinished + len(data))
        )
        try:
            super().message_received(data, None)
        except (ValueError, RecursionError):
            self._violation("sent no JSON")
        if len(self._consumer_queue) > CALL_LIMIT and self._transport is not None:
            self._transport.pause_reading()  # until the queue is empty

    def error_received(
        self, err: Exception, data: bytes, fds: FileDescriptorArray | None
    ) -> None:
        self._violation("sent no JSON object")

    def _violation(self, what: str) -> None:
        _log.warning("uid %d, pid %d %s", self.peer.uid, self.peer.pid, what)
        self.abort()

    def request_received(
        self, obj: JSONObject, fds: FileDescriptorArray | None
    ) -> asyncio.Future[None] | None:
        future: asyncio.Future[None] | None = super().request_received(obj, fds)
        if future is not None:
            self.calls += 1
            future.add_done_callback(self._call_ended)
            if obj.get("more"):
                try:
                    self._watch_hangup()
                except OSError as err:
                    self._violation(f"has a stream that can't be watched: {err}")
        return future

    def call_received(
        self, call: VarlinkMethodCall, fds: FileDescriptorArray | None
    ) -> asyncio.Future[None] | None:
        token = CALLER.set(self._reference)  # a task that this starts keeps it
        try:
            future: asyncio.Future[None] | None = super().call_received(call, fds)
        finally:
            CALLER.reset(token)
        if future is not None and call.more:
            self._streams.add(future)
            future.add_done_callback(self._streams.discard)
        return future

    def _on_receiver_completes(
        self,
        backpressure_fut: asyncio.Future[None],
        oneway: bool,
        call_fut: asyncio.Future[None],
    ) -> None:
        if call_fut.cancelled():  # by connection_lost: there is nobody to answer
            backpressure_fut.set_result(None)
        else:
            super()._on_receiver_completes(backpressure_fut, oneway, call_fut)

    def _call_ended(self, _: asyncio.Future[None]) -> None:
        self.calls -= 1
        self.last_activity = asyncio.get_running_loop().time()

    # A client that goes during a call

    def pidfd(self) -> int:
        """As `daemon.peer.pidfd`; asked for late, as few calls need one."""
        if self._socket is None:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return pidfd(self._socket)

    @contextmanager
    def until_gone(self, future: asyncio.Future[Any]) -> Iterator[None]:
        """As `daemon.caller.Caller`."""
        if self._base is None or self._base.is_closing():
            future.cancel()  # calls that were sent ahead run all the same
        else:
            self._watch_hangup()
        self._waiting.add(future)
        try:
            yield
        finally:
            self._waiting.discard(future)
            if not self._waiting and not self._streams:
                self._end_hangup()

    def _watch_hangup(self) -> None:
        """While a call runs the transport does not read, and would not see its
        client go. A hangup is told without reading, whatever was sent before it;
        that a client has only shut down its own sending is none.

        :raises OSError: for lack of descriptors.
        """
        if self._hangup is None and self._socket is not None:
            hangup = select.epoll(1)
            hangup.register(self._socket, 0)  # EPOLLHUP always is
            asyncio.get_running_loop().add_reader(hangup.fileno(), self.abort)
            self._hangup = hangup

    def _end_hangup(self) -> None:
        if self._hangup is not None:
            asyncio.get_running_loop().remove_reader(self._hangup.fileno())
            self._hangup.close()
            self._hangup = None

    def send_message(
        self, obj: JSONObject, fds: list[int] | None = None, autoclose: bool = True
    ) -> asyncio.Future[None]:
        """Send at once where nothing is queued, instead of a turn of the event
        loop later; what the socket does not take goes the transport's way."""
        if self._sending or self._base is None or self._base.is_closing():
            return self._queue_message(super().send_message(obj, fds, autoclose))
        data = _encode(obj)
        try:
            sent = self._send(data, fds)
        except BlockingIOError:
            return self._queue_message(super().send_message(obj, fds, autoclose))
        except OSError as err:
            _log.debug("uid %d is gone: %s", self.peer.uid, err)
            self.abort()
            sent = len(data)
        if fds and autoclose:
            for fd in fds:
                os.close(fd)
        if sent < len(data):
            return self._queue_message(self._base.send_message(data[sent:]))
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    def _send(self, data: bytes, fds: list[int] | None) -> int:
        assert self._socket is not None  # noqa: S101 - there is one with _base
        flags = socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT
        if fds:
            return socket.send_fds(self._socket, [data], fds, flags)
        return self._socket.send(data, flags)

    def _queue_message(self, future: asyncio.Future[None]) -> asyncio.Future[None]:
        self._sending += 1
        future.add_done_callback(self._unqueue_message)
        if self._sending > REPLY_LIMIT:
            self._violation("does not read its replies")
        return future

    def _unqueue_message(self, _: asyncio.Future[None]) -> None:
        self._sending -= 1

    def handle_call_exception(self, exc: BaseException, oneway: bool) -> None:
        """Log in full what nobody foresaw; tell the caller nothing of it."""
        if isinstance(exc, asyncio.CancelledError):
            return
        _log.error("unexpected error in a call of uid %d", self.peer.uid, exc_info=exc)
        raise to_wire(
            BrokerFailure("internal error", "the broker's log has the reason")
        )

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        # A stream without end would wait for its next event to see that nobody
        # is there any more, and count against its user's limit until then.
        for future in (*self._streams, *self._waiting):
            future.cancel()
        self._end_hangup()
        self._on_lost(self)
