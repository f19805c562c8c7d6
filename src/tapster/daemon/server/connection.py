# SPDX-License-Identifier: LGPL-2.1-or-later
"""One client's connection, from its first byte until it is lost.

Each call waits for its user's turn, one after the other; what a client sends ahead
is bounded, and a client that goes is noticed.
"""

from __future__ import annotations

import asyncio
import enum
import errno
import logging
import os
import socket
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from asyncvarlink import VarlinkInterfaceRegistry
from asyncvarlink.types import JSONObject

from ...errors import BrokerBusy
from ...model import Peer
from ...policy.config.load import Limits
from ...wire.errors import INTERFACE
from ...wire.interface import BrokerInterface, Service
from ...wire.refusals import to_wire
from ..fairness.pace import COSTS
from ..identify.caller import CALLER, Caller
from ..identify.peer import pidfd
from . import calls
from .framing import BadMessage, Inbox, decode, encode
from .hangup import HangupWatch, is_hung_up
from .passed_fds import PassedFds
from .server_state import ServerState
from .transport import Transport

_log = logging.getLogger(__name__)

CALL_LIMIT = 16  # calls that a client may be ahead before reading pauses
REPLY_LIMIT = 64  # replies that a client may leave unread

_ATTACH, _WATCH = f"{INTERFACE}.Attach", f"{INTERFACE}.Watch"
_COSTS = {f"{INTERFACE}.{name}": cost for name, cost in COSTS.items()}


class State(enum.Enum):
    """What a connection is at; `Connection` draws how it gets from one to another."""

    IDLE = enum.auto()  # all that was asked is done
    QUEUED = enum.auto()  # a message waits for its user's turn, or has it
    RUNNING = enum.auto()  # a call waits for something
    STREAMING = enum.auto()  # a call goes on until its client goes
    CLOSING = enum.auto()  # nothing more is done for the client
    LOST = enum.auto()  # the socket is closed


_NEXT = {
    State.IDLE: {State.QUEUED, State.CLOSING},
    State.QUEUED: {State.RUNNING, State.STREAMING, State.IDLE, State.CLOSING},
    State.RUNNING: {State.QUEUED, State.IDLE, State.CLOSING},
    State.STREAMING: {State.QUEUED, State.IDLE, State.CLOSING},
    State.CLOSING: {State.LOST},
    State.LOST: set[State](),
}


class Connection:
    """Serves one client, one call at a time.

    ::

              a message comes          its call has to wait
        IDLE ────────────────▶ QUEUED ──────────────────────▶ RUNNING
         ▲                      │  ▲                          STREAMING (Watch)
         │  no message is left  │  │  another message is there    │
         └──────────────────────┴──┴──────────────────────────────┘
                            the call is done

        each of these ── abort() ─▶ CLOSING ── next turn of the loop ─▶ LOST

    In IDLE and QUEUED what comes is read; in RUNNING and STREAMING reading is paused.
    It is paused in QUEUED, too, when a client is more than CALL_LIMIT calls ahead,
    until all of them are done. A client that sends no more still gets all its
    replies; then its connection is closed.
    """

    def __init__(
        self,
        connection: socket.socket,
        peer: Peer,
        service: Service,
        on_lost: Callable[[Connection], None],
        server: ServerState,
    ) -> None:
        """
        :param connection: accepted and non-blocking; closed when this is lost.
        :param peer: who is at its other end.
        :param service: does what calls ask for.
        :param on_lost: called once, when this is lost.
        :param server: what this has in common with the listener's other connections.
        """
        self.peer = peer
        self.accepted = time.clock_gettime(time.CLOCK_BOOTTIME)
        self.last_activity = asyncio.get_running_loop().time()
        self._server = server
        self._on_lost = on_lost
        self._interfaces = VarlinkInterfaceRegistry()
        self._interfaces.register_interface(BrokerInterface(service, peer))
        self._interfaces.register_interface(server.introspection)
        self._state = State.IDLE
        self._inbox = Inbox()
        self._is_read_due = False  # a turn to read has been asked for
        self._running: asyncio.Future[None] | None = None  # the call, if it waits
        self._passed_fds = PassedFds(server.reaper, peer.uid, connection)
        self._transport = Transport(connection, self, self._passed_fds)
        self._hangup = HangupWatch(connection)
        self._reference: weakref.ref[Caller] = weakref.ref(self)

    # States

    def _enter(self, state: State) -> None:
        """The only place where the state changes."""
        if state not in _NEXT[self._state] and state is not self._state:
            raise RuntimeError(f"{self._state.name} → {state.name}")
        self._state = state
        if state is State.IDLE:
            self._transport.resume()
        elif state is State.RUNNING or state is State.STREAMING:
            self._transport.pause()

    @property
    def _is_closing(self) -> bool:
        """Whether nothing more is done for the client."""
        return self._state is State.CLOSING or self._state is State.LOST

    @property
    def is_idle(self) -> bool:
        """Whether all that was asked is answered, and the answers are read."""
        idle = self._state is State.IDLE or self._state is State.CLOSING
        return idle and not self._transport.queued

    def is_overdue(self, now: float, limits: Limits) -> bool:
        """Whether this client has been waited for too long: to read its replies, for
        the rest of a message, or for a call.

        :param now: the event loop's time, in seconds.
        :param limits: how long is too long.
        """
        stalled = now - limits.stalled_connection_seconds
        if self._transport.queued and self._state is not State.STREAMING:
            return self._transport.queued_since < stalled
        if self._state is not State.IDLE:
            return False
        if self._inbox.is_part_older(stalled):
            return True
        return now - self.last_activity > limits.idle_connection_seconds

    def abort(self) -> None:
        """Close, whatever is queued. A call that runs is cancelled only if it is a
        stream, or waits in `until_gone`."""
        if self._is_closing:
            return
        stream = self._running if self._state is State.STREAMING else None
        self._enter(State.CLOSING)
        if stream is not None:
            # It would wait for its next event to see that nobody is there any
            # more, and count against its user's limit until then.
            stream.cancel()
        asyncio.get_running_loop().call_soon(self._lose)

    def _lose(self) -> None:
        self._enter(State.LOST)
        self._inbox.clear()
        self._hangup.cancel()
        self._transport.close()
        self._on_lost(self)

    def _close_if_done(self) -> None:
        """Close if the client sends no more, and has got all its replies."""
        if (
            self._transport.is_at_end
            and self._state is State.IDLE
            and not self._transport.queued
        ):
            self.abort()

    def _violation(self, what: str) -> None:
        if self._server.may_log(self.peer.uid):
            _log.warning("uid %d, pid %d %s", self.peer.uid, self.peer.pid, what)
        self.abort()

    # What a client sends

    def readable(self) -> None:
        """Something has come, which is read in a turn of its user's."""
        if not self._is_read_due:
            self._is_read_due = True
            self._server.turns.ask(self.peer.uid, self._read)

    def _read(self) -> asyncio.Future[None] | None:
        """A turn to read, and to serve a message that this completes.

        :returns: as `_serve`.
        """
        self._is_read_due = False
        if self._is_closing:
            return None
        data = self._transport.read()
        if self._passed_fds.are_too_many:
            self._violation("sent too many descriptors")
        elif data:
            self._receive(data)
        elif data is not None:
            self._close_if_done()
        if self._state is not State.IDLE or not self._inbox:
            return None
        self._enter(State.QUEUED)
        return self._serve()

    def _receive(self, data: bytes) -> None:
        self.last_activity = asyncio.get_running_loop().time()
        try:
            self._inbox.feed(data, self.last_activity)
        except BadMessage as err:
            self._violation(str(err))
            return
        if len(self._inbox) > CALL_LIMIT:
            self._transport.pause()

    # Calls

    def _serve(self) -> asyncio.Future[None] | None:
        """A turn for the next message.

        :returns: the call, if it waits and is no stream: see `fairness.turns.Work`.
        """
        if self._is_closing:
            return None
        try:
            call = decode(self._inbox.take())
        except BadMessage as err:
            self._violation(str(err))
            return None
        method = call.get("method")
        cost = _COSTS.get(method, 0) if isinstance(method, str) else 0
        if cost:
            loop, uid = asyncio.get_running_loop(), self.peer.uid
            wait = self._server.pace.wait(uid, cost, loop.time())
            if wait is None:
                self._reply_busy(call)
                self._call_ended()
                return None
            if wait:
                ask = self._server.turns.ask
                loop.call_later(wait, ask, uid, lambda: self._call(call))
                return None
        return self._call(call)

    def _reply_busy(self, call: JSONObject) -> None:
        if call.get("oneway") is not True:
            error = to_wire(BrokerBusy("too many requests", "try again later"))
            self._send(error.tojson(), [])

    def _call(self, call: JSONObject) -> asyncio.Future[None] | None:
        """A turn for a call.

        :returns: as `_serve`.
        """
        if self._is_closing:
            return None
        method = call.get("method")
        if method == _ATTACH and is_hung_up(self._transport.socket):
            self.abort()  # there is nobody to give a tap to
            return None
        token = CALLER.set(self._reference)  # a task that the call starts keeps it
        try:
            running = calls.begin(self._interfaces, call, self.peer.uid, self._send)
        except Exception as err:  # noqa: BLE001 - else it would be served for ever
            _log.error("unexpected error with uid %d", self.peer.uid, exc_info=err)
            self.abort()
            return None
        finally:
            CALLER.reset(token)
        if running is None or running.done():
            self._call_ended()
            return None
        self._running = running
        running.add_done_callback(self._call_ended)
        if method == _WATCH:
            self._follow_stream(running)
            return None
        if not self._is_closing:
            self._enter(State.RUNNING)
        return running

    def _follow_stream(self, stream: asyncio.Future[None]) -> None:
        if self._is_closing:
            stream.cancel()
            return
        self._enter(State.STREAMING)
        try:
            self._hangup.start(self.abort)
        except OSError as err:
            self._violation(f"has a stream that can't be watched: {err}")

    def _call_ended(self, _: asyncio.Future[None] | None = None) -> None:
        """Have the next message served in a turn of its own, or more of them read."""
        self._running = None
        if self._is_closing:
            return
        self.last_activity = asyncio.get_running_loop().time()
        self._hangup.stop()
        self._inbox.restart_part(self.last_activity)
        if self._inbox:
            self._enter(State.QUEUED)
            self._server.turns.ask(self.peer.uid, self._serve)
        else:
            self._enter(State.IDLE)
            self._close_if_done()

    # Replies

    def _send(self, reply: JSONObject, fds: list[int]) -> asyncio.Future[None] | None:
        """As `calls.Send`. Nothing is sent once the client is gone."""
        if self._is_closing:
            return None
        sent = self._transport.send(encode(reply), fds)
        if self._transport.queued > REPLY_LIMIT:
            self._violation("does not read its replies")
        return sent

    def drained(self) -> None:
        """All replies are sent."""
        self._close_if_done()

    def failed(self, error: OSError) -> None:
        """Reading or writing failed."""
        _log.debug("uid %d is gone: %s", self.peer.uid, error)
        self.abort()

    # Of the client whose call is running: `identify.caller.Caller`

    def pidfd(self) -> int:
        """As `identify.peer.pidfd`; asked for late, as few calls need one."""
        if self._state is State.LOST:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return pidfd(self._transport.socket)

    @contextmanager
    def until_gone(self, future: asyncio.Future[Any]) -> Iterator[None]:
        """As `Caller.until_gone`."""
        if self._is_closing:
            future.cancel()
            yield
        else:
            with self._hangup.until_gone(future, self.abort):
                yield
