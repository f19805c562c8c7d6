# SPDX-License-Identifier: LGPL-2.1-or-later
"""One connection to a broker: it sends calls, and receives replies and descriptors.

The protocol is Varlink: JSON and a NUL over a Unix socket, with descriptors by
SCM_RIGHTS. Only the standard library is used, and no event loop, as callers are
threads and short-lived commands, which want neither for a single tap.

Nothing here knows which broker it talks to, or what a NIC is.
"""

from __future__ import annotations

import errno
import json
import os
import socket as sockets
import sys
import time

from tapster.client.reply import INTERFACE, parse_reply
from tapster.errors import BrokerUnavailable, ProtocolError, RequestError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Any, Self

REPLY_LIMIT = 1 << 20  # bytes of one reply
FDS_LIMIT = 16  # descriptors of one reply: room to receive, and close, unexpected ones
TIMEOUT = 30.0  # seconds: the first attach to a network may have to start it

# What connect(2) fails with if no broker is there, or none that we may talk to.
_UNREACHABLE = (errno.ENOENT, errno.ENOTDIR, errno.ECONNREFUSED, errno.EACCES)


class Gone(BrokerUnavailable):
    """The broker closed the connection before the first byte of a reply."""


def open_socket(path: str, deadline: float) -> sockets.socket:
    """Connect to a socket; if the broker's backlog is full, wait for a place in it.

    :param path: of the socket.
    :param deadline: of `time.monotonic()`.
    :raises OSError: connect(2) failed.
    :raises BrokerUnavailable: the deadline has passed.
    """
    sock = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
    try:
        sock.settimeout(seconds_left(deadline))
        try:
            sock.connect(path)
        except BlockingIOError:
            _connect_in_line(sock, path, deadline)
        return sock
    except BaseException:
        sock.close()
        raise


def _connect_in_line(sock: sockets.socket, path: str, deadline: float) -> None:
    """Connect to a socket whose backlog is full, in a connect(2) that blocks.

    The kernel admits those who block there one by one. A client that tried again
    now and then instead would let all of them go first.
    """
    sock.settimeout(None)
    while True:
        left = seconds_left(deadline)
        # struct timeval has two longs; zero would mean no limit
        size = 8 if sys.maxsize > 1 << 32 else 4
        limit = (int(left), int(left % 1 * 1e6) or 1)
        words = [number.to_bytes(size, sys.byteorder) for number in limit]
        sock.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDTIMEO, b"".join(words))
        try:
            sock.connect(path)
            sock.getpeername()
            return
        except BlockingIOError:
            continue  # SO_SNDTIMEO has passed
        except OSError as error:
            # After a signal, Python returns as if connected; getpeername() then fails.
            if error.errno != errno.ENOTCONN:
                raise


def try_open_socket(path: str, deadline: float) -> sockets.socket | None:
    """As `open_socket()`, but None where the next place is to be tried."""
    try:
        return open_socket(path, deadline)
    except OSError as error:
        if error.errno in _UNREACHABLE:
            return None
        reason = error.strerror or error  # no errno: the path is too long
        raise BrokerUnavailable(f"no broker at {path}: {reason}") from None


def seconds_left(deadline: float) -> float:
    """Seconds until the deadline.

    :raises BrokerUnavailable: it has passed.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise BrokerUnavailable("the broker did not answer in time")
    return left


class Connection:
    """One connection to a broker, which carries one call at a time.

    A context manager. The connection is closed after any failure but an error
    reply, as nobody knows then what the next byte on it would mean.

    :param sock: a connected Unix stream socket, which this object owns from now on.
    :param timeout: seconds, for each call as a whole.
    :param rootless: whether the broker is the user's own.
    """

    def __init__(
        self, sock: sockets.socket, timeout: float = TIMEOUT, *, rootless: bool = False
    ) -> None:
        self.timeout = timeout
        self.rootless = rootless
        self._sock = sock
        self._buffer = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def fileno(self) -> int:
        """The socket's descriptor, to wait on. This object still owns it."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close the connection. May be called again."""
        self._sock.close()

    def call(
        self, method: str, parameters: dict[str, Any], fds: bool = False
    ) -> tuple[dict[str, Any], list[int]]:
        """Call a method and wait for its reply.

        :param method: its name; with the interface before it if that is not ours.
        :param parameters: what the method is given.
        :param fds: whether descriptors are expected. If so, the caller closes
            them. Otherwise, and after any error, none is left open.
        :returns: the parameters of the reply, and the descriptors.
        :raises RequestError: the broker said no.
        :raises BrokerUnavailable: the broker hung up, or the time was over.
        :raises ProtocolError: the reply makes no sense.
        """
        received: list[int] = []
        try:
            deadline = time.monotonic() + self.timeout
            self._send(method, parameters, deadline, more=False)
            reply, more = parse_reply(self._receive(deadline, received))
            if more:
                raise ProtocolError("the broker announced more replies than one")
            if fds:
                result, received = received, []
                return reply, result
            return reply, []
        except RequestError:
            raise
        except BaseException:
            self.close()
            raise
        finally:
            close_all(received)

    def stream(
        self, method: str, parameters: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        """Call a method that replies many times; yield the parameters of each reply.

        There is no limit on the wait for a reply. If the caller stops before the
        last one, the connection can't be used any more. It raises what `call()`
        does.

        :param method: its name, as for `call()`.
        :param parameters: what the method is given.
        """
        try:
            more = True
            self._send(method, parameters, time.monotonic() + self.timeout, more)
            while more:
                received: list[int] = []
                try:
                    message = self._receive(None, received)
                finally:
                    close_all(received)
                reply, more = parse_reply(message)
                yield reply
        except RequestError:
            raise
        except BaseException:
            self.close()
            raise

    def _send(
        self, method: str, parameters: dict[str, Any], deadline: float, more: bool
    ) -> None:
        if self._buffer:
            raise ProtocolError("the broker sent a reply that nobody asked for")
        name = method if "." in method else f"{INTERFACE}.{method}"
        call: dict[str, Any] = {"method": name, "parameters": parameters}
        if more:
            call["more"] = True
        try:
            self._sock.settimeout(seconds_left(deadline))
            self._sock.sendall(json.dumps(call).encode() + b"\0", sockets.MSG_NOSIGNAL)
        except BrokenPipeError:
            pass  # the broker hung up; it may have said why, which is still to be read
        except OSError as error:
            raise self._failed(error) from None

    def _receive(self, deadline: float | None, fds: list[int]) -> bytes:
        """One message without its NUL. Its descriptors are appended to `fds`."""
        searched = 0
        while (end := self._buffer.find(0, searched)) < 0:
            searched = len(self._buffer)
            if searched > REPLY_LIMIT:
                raise ProtocolError(f"the broker's reply exceeds {REPLY_LIMIT} bytes")
            try:
                self._sock.settimeout(
                    None if deadline is None else seconds_left(deadline)
                )
                data, ancillary, flags, _ = self._sock.recvmsg(
                    1 << 16, sockets.CMSG_SPACE(4 * FDS_LIMIT), sockets.MSG_CMSG_CLOEXEC
                )
            except OSError as error:
                raise self._failed(error) from None
            for level, kind, octets in ancillary:
                if (level, kind) == (sockets.SOL_SOCKET, sockets.SCM_RIGHTS):
                    whole = len(octets) - len(octets) % 4
                    fds += memoryview(octets[:whole]).cast("i")
            if flags & sockets.MSG_CTRUNC or len(fds) > FDS_LIMIT:
                raise ProtocolError("the broker sent too many file descriptors")
            if not data and not self._buffer:
                raise Gone("the broker hung up without an answer")
            if not data:
                raise ProtocolError("the broker hung up in the middle of its answer")
            self._buffer += data
        message = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return message

    def _failed(self, error: OSError) -> BrokerUnavailable:
        if isinstance(error, TimeoutError):
            return BrokerUnavailable(f"no answer of the broker in {self.timeout:g} s")
        text = f"the connection to the broker failed: {error.strerror or error}"
        if isinstance(error, ConnectionResetError | BrokenPipeError):
            return BrokerUnavailable(text) if self._buffer else Gone(text)
        return BrokerUnavailable(text)


def close_all(fds: list[int]) -> None:
    """Close descriptors that nobody wants."""
    for fd in fds:
        os.close(fd)
