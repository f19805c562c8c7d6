# SPDX-License-Identifier: LGPL-2.1-or-later
"""One client's connection: asyncvarlink behind limits of our own.

asyncvarlink keeps as much as a client sends without a NUL, takes descriptors
nobody asked for, reads all messages before the first is done, and stops reading
while a call runs. Here a message has an end, descriptors are counted and closed
elsewhere, each call waits for its user's turn, and a client that goes is noticed.
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
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from asyncvarlink import (
    FileDescriptorArray,
    VarlinkInterfaceRegistry,
    VarlinkInterfaceServerProtocol,
    VarlinkMethodCall,
)
from asyncvarlink.types import JSONObject

from ...errors import BrokerBusy, BrokerFailure
from ...model import Peer
from ...policy.config.load import Limits
from ...wire.errors import INTERFACE, to_wire
from ...wire.interface import BrokerInterface, Service
from ..fairness.pace import COSTS
from ..identify.caller import CALLER, Caller
from ..identify.peer import pidfd
from .passed_fds import may_come
from .shared import Shared
from .transport import DESCRIPTOR_LIMIT, Socket, Transport

_log = logging.getLogger(__name__)

MESSAGE_LIMIT = 16 * 1024  # bytes
CALL_LIMIT = 16  # calls a client may be ahead before we stop reading
REPLY_LIMIT = 64  # replies a client may leave unread

_ATTACH, _WATCH = f"{INTERFACE}.Attach", f"{INTERFACE}.Watch"
_COSTS = {f"{INTERFACE}.{name}": cost for name, cost in COSTS.items()}

_encoder = json.JSONEncoder(separators=(",", ":"))


def _encode(obj: JSONObject) -> bytes:
    """One message, as asyncvarlink would write it."""
    return _encoder.encode(obj).encode() + b"\0"


class Connection(VarlinkInterfaceServerProtocol):
    """Serves one peer. Not to be used again once it is lost."""

    def __init__(
        self,
        peer: Peer,
        service: Service,
        on_lost: Callable[[Connection], None],
        shared: Shared | None = None,
    ) -> None:
        """:param shared: the listener's; None is for a connection alone."""
        self._shared = shared or Shared(Limits())
        registry = VarlinkInterfaceRegistry()
        registry.register_interface(BrokerInterface(service, peer))
        registry.register_interface(self._shared.introspection)
        super().__init__(registry)
        self.peer = peer
        self.accepted = time.clock_gettime(time.CLOCK_BOOTTIME)
        self.last_activity = asyncio.get_running_loop().time()
        self.calls = 0  # running now
        self._on_lost = on_lost
        self._messages: deque[bytes] = deque()  # that nobody has looked at
        self._is_served = False  # one of them is, or waits for it
        self._wants_turn = False  # to read
        self._has_turn = False
        self._part = bytearray()  # of a message: what came since the last NUL
        self._part_since = 0.0  # when that began
        self._descriptors = 0
        self._sending = 0  # messages in the transport's queue
        self._sending_since = 0.0  # when the last of them went, or the first came
        self._streams: set[asyncio.Future[None]] = set()
        self._waiting: set[asyncio.Future[Any]] = set()  # see until_gone
        self._hangup: select.epoll | None = None
        self._reference: weakref.ref[Caller] = weakref.ref(self)
        self._base: Transport | None = None
        self._socket: socket.socket | None = None

    def attach_socket(self, connection: Socket) -> None:
        """Take over an accepted, non-blocking socket: it is closed with this."""
        if may_come(connection):
            disposal, uid = self._shared.disposal, self.peer.uid
            connection.dispose = lambda fd: disposal.close(uid, (fd,))
        self._base = Transport(
            asyncio.get_running_loop(),
            connection,
            connection,
            self,
            boundary_predictor=None,
        )
        self._socket = connection
        self.connection_made(self._base)  # as the transport does, a turn later

    def read_now(self) -> None:
        """Read, and serve, what has come by now."""
        if self._base is not None:
            self._base.read_now()

    def abort(self) -> None:
        """Close now, whatever is queued."""
        if self._base is not None:
            self._base.abort()

    # What a client sends

    def readable(self) -> None:
        """Something has come, which is read in a turn of its user's."""
        if not self._wants_turn:
            self._wants_turn = True
            self._shared.turns.ask(self.peer.uid, self._read)

    def _read(self) -> asyncio.Future[None] | None:
        """A turn to read, and to serve a message that this completes.

        :returns: as `_serve`.
        """
        self._wants_turn = False
        if self._is_lost() or self._base is None:
            return None
        self._has_turn = True
        self._base.read()
        self._has_turn = False
        if self._is_served or not self._messages:
            return None
        self._is_served = True
        return self._serve()

    def descriptors_received(self, fds: list[int]) -> None:
        """Get rid of them; closing them is nothing to wait for."""
        self._shared.disposal.close(self.peer.uid, fds)
        self._descriptors += len(fds)
        if self._descriptors > DESCRIPTOR_LIMIT:
            self._violation("sent too many descriptors")

    def message_received(self, data: bytes, fds: FileDescriptorArray | None) -> None:
        """Take messages apart. They are read when it is their turn."""
        if self._is_lost():
            return
        self.last_activity = asyncio.get_running_loop().time()
        first, *others = data.split(b"\0")
        if not self._part:
            self._part_since = self.last_activity
        self._part += first
        if len(self._part) > MESSAGE_LIMIT:  # others are shorter than what is read
            self._violation("sent too large a message")
            return
        if others:
            self._messages.append(bytes(self._part))
            self._part_since = self.last_activity
            self._part = bytearray(others.pop())
            self._messages += others
        if len(self._messages) > CALL_LIMIT and self._transport is not None:
            self._transport.pause_reading()  # until there are none
        self._serve_next()

    def _is_lost(self) -> bool:
        return self._base is None or self._base.is_closing()

    def _serve_next(self) -> None:
        """Have the next message served, one at a time, or more of them read."""
        if self._is_served or self._has_turn:
            return
        if self._messages:
            self._is_served = True
            self._shared.turns.ask(self.peer.uid, self._serve)
        else:
            if self._transport is not None:
                self._transport.resume_reading()
            self._maybe_close_if_idle()

    def _serve(self) -> asyncio.Future[None] | None:
        """A turn for the next message.

        :returns: what is running on, unless that is a stream.
        """
        if self._is_lost():
            self._messages.clear()
            return None
        try:
            call = json.loads(self._messages.popleft())
        except (ValueError, RecursionError):
            self._violation("sent no JSON")
            return None
        if not isinstance(call, dict):
            self._violation("sent no JSON object")
            return None
        method = call.get("method")
        cost = _COSTS.get(method, 0) if isinstance(method, str) else 0
        if cost:
            loop = asyncio.get_running_loop()
            wait = self._shared.pace.wait(self.peer.uid, cost, loop.time())
            if wait is None:
                self._refuse_as_busy(call)
                return self._served(None)
            if wait:
                ask, uid = self._shared.turns.ask, self.peer.uid
                loop.call_later(wait, ask, uid, lambda: self._call(call))
                return None
        return self._call(call)

    def _call(self, call: JSONObject) -> asyncio.Future[None] | None:
        if self._is_lost():
            return None
        if call.get("method") == _ATTACH and self._is_hung_up():
            self.abort()  # there is nobody to give it to
            return None
        try:
            running = self._served(self.request_received(call, None))
        except Exception as err:  # noqa: BLE001 - else it would be served for ever
            _log.error("unexpected error with uid %d", self.peer.uid, exc_info=err)
            self.abort()
            return None
        return None if call.get("method") == _WATCH else running

    def _is_hung_up(self) -> bool:
        """Whether the client is gone, as far as can be seen without reading."""
        if self._socket is None:
            return True
        poll = select.poll()
        poll.register(self._socket, 0)  # POLLHUP always is
        return bool(poll.poll(0))

    def _served(
        self, running: asyncio.Future[None] | None
    ) -> asyncio.Future[None] | None:
        if running is not None and not running.done():
            if self._transport is not None:
                self._transport.pause_reading()
            running.add_done_callback(self._served)
            return running
        self._is_served = False
        if self._part:  # the rest of it was for us to read until now
            self._part_since = asyncio.get_running_loop().time()
        self._serve_next()
        return None

    def _refuse_as_busy(self, call: JSONObject) -> None:
        if call.get("oneway") is not True:
            self.send_error(to_wire(BrokerBusy("too many requests", "try again later")))

    def _maybe_close_if_idle(self) -> None:
        """After the last message of a client that sends no more; asyncvarlink
        forgets those that wait."""
        if not self._messages and not self._is_served:
            super()._maybe_close_if_idle()

    @property
    def is_idle(self) -> bool:
        """Nothing has been asked that is not answered."""
        return not (self.calls or self._is_served or self._streams or self._sending)

    def is_overdue(self, now: float, limits: Limits) -> bool:
        """Whether we have waited for this client for too long: for it to read
        its replies, for the rest of a message, or for a call."""
        stalled = now - limits.stalled_connection_seconds
        if self._sending and not self._streams:
            return self._sending_since < stalled
        if self.calls or self._is_served:
            return False
        if self._part and self._part_since < stalled:
            return True
        return now - self.last_activity > limits.idle_connection_seconds

    def _violation(self, what: str) -> None:
        if self._shared.may_log(self.peer.uid):
            _log.warning("uid %d, pid %d %s", self.peer.uid, self.peer.pid, what)
        self.abort()

    def request_received(
        self, obj: JSONObject, fds: FileDescriptorArray | None
    ) -> asyncio.Future[None] | None:
        future: asyncio.Future[None] | None = super().request_received(obj, fds)
        if future is not None:
            self.calls += 1
            future.add_done_callback(self._call_ended)
            if self._streams:
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
        if future is not None and call.method == _WATCH:
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
        if self._is_lost():
            future.cancel()
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
        if self._hangup is None and self._socket is not None and not self._is_lost():
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
        if not self._sending:
            self._sending_since = asyncio.get_running_loop().time()
        self._sending += 1
        future.add_done_callback(self._unqueue_message)
        if self._sending > REPLY_LIMIT:
            self._violation("does not read its replies")
        return future

    def _unqueue_message(self, _: asyncio.Future[None]) -> None:
        self._sending -= 1
        self._sending_since = asyncio.get_running_loop().time()

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
        self._messages.clear()
        # A stream without end would wait for its next event to see that nobody
        # is there any more, and count against its user's limit until then.
        for future in (*self._streams, *self._waiting):
            future.cancel()
        self._end_hangup()
        self._on_lost(self)
        # In circles with it, this would be in memory until somebody looks for those.
        self._base = self._socket = None
