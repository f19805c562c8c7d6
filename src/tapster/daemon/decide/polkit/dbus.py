# SPDX-License-Identifier: LGPL-2.1-or-later
"""A connection to a D-Bus message bus, to call methods there.

The protocol is jeepney's, and nothing more of jeepney is used: its own asyncio
client can't pass descriptors, and ends when a reply comes to a call that was
cancelled in the same turn of the loop. This module imports jeepney, so it is
imported only where polkit is about to be asked.

Anybody on the system bus may send us signals, of up to 32 MiB. A message that is no
reply is skipped by its length and not parsed. The bus sees to it that replies come
only from those who were asked.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import struct
from array import array

from jeepney import (
    DBusAddress,
    HeaderFields,
    Message,
    MessageFlag,
    MessageType,
    new_method_call,
)
from jeepney.auth import BEGIN, Authenticator
from jeepney.bus import get_connectable_addresses

SYSTEM = "unix:path=/var/run/dbus/system_bus_socket"  # D-Bus specification
VARIABLE = "DBUS_SYSTEM_BUS_ADDRESS"
LARGEST = 64 * 1024  # bytes of a reply; a larger reply ends the connection

_BUS = DBusAddress(
    "/org/freedesktop/DBus", "org.freedesktop.DBus", "org.freedesktop.DBus"
)
_FIXED = 16  # bytes at the beginning of a message, which tell its length
_REPLIES = (MessageType.method_return.value, MessageType.error.value)
_ORDERS = {ord("l"): "<", ord("B"): ">"}
_CHUNK = 64 * 1024
_SHOWN = 300  # characters of an error's text


class BusError(Exception):
    """The bus is not there, or does not do what a bus does; the text says more."""


class Replies:
    """Finds the replies in the stream of bytes from a bus, and skips everything
    else. Pure: it is fed, and knows of no socket."""

    def __init__(self) -> None:
        self._unfinished = bytearray()
        self._to_skip = 0  # bytes of a message that are still to be skipped

    def feed(self, data: bytes) -> list[Message]:
        """Take what was received.

        :returns: the replies that are complete now.
        :raises ValueError: this is not D-Bus; nothing after it can be read.
        """
        skipped = min(self._to_skip, len(data))
        self._to_skip -= skipped
        buffer = self._unfinished
        buffer += memoryview(data)[skipped:]
        found = []
        while len(buffer) >= _FIXED:
            size = _size(buffer)
            if buffer[1] not in _REPLIES:
                self._to_skip = max(size - len(buffer), 0)
                del buffer[:size]
                continue
            if size > LARGEST:
                raise ValueError(f"a reply of {size} bytes")
            if len(buffer) < size:
                break
            found.append(_parse(bytes(buffer[:size])))
            del buffer[:size]
        return found


def _size(buffer: bytearray) -> int:
    """The length in bytes of the message that begins here, header and body."""
    order = _ORDERS.get(buffer[0])
    if order is None:
        raise ValueError(f"a message that begins with {buffer[0]:#x}")
    body, fields = struct.unpack_from(f"{order}I4xI", buffer, 4)
    return int(_FIXED + (fields + 7) // 8 * 8 + body)


def _parse(data: bytes) -> Message:
    try:
        return Message.from_buffer(data)
    except Exception as err:  # whatever jeepney raises
        raise ValueError(f"a reply that can't be read: {err!r}") from err


def address_of(wanted: str | None) -> str:
    """The address to use: the one that is given, or else the system bus's."""
    return wanted or os.environ.get(VARIABLE) or SYSTEM


async def connect(address: str) -> Bus:
    """A connection to the bus at a D-Bus address; `close()` closes it.

    :raises BusError: there is no bus, or it does not accept us.
    """
    try:
        sock = _connect(address)
    except (OSError, RuntimeError, ValueError) as err:
        raise BusError(f"no bus at {address}: {err}") from err
    try:
        await _authenticate(sock)
        bus = Bus(sock)
    except (OSError, ValueError) as err:
        sock.close()
        raise BusError(f"the bus at {address} refuses: {err}") from err
    except BaseException:
        sock.close()
        raise
    try:
        said = error_of(await bus.call(new_method_call(_BUS, "Hello")))
        if said is not None:
            raise BusError(f"the bus at {address} refuses: {said}")
    except BaseException:
        bus.close("it is not used")
        raise
    return bus


def error_of(reply: Message) -> str | None:
    """An error's name and text in one line; None if the reply is no error."""
    if reply.header.message_type is not MessageType.error:
        return None
    name = reply.header.fields.get(HeaderFields.error_name, "an error")
    text = " ".join(str(part) for part in reply.body)
    return " ".join(f"{name}: {text}".split())[:_SHOWN]


def _connect(address: str) -> socket.socket:
    """A socket to the first of some addresses where somebody listens.

    :raises OSError, RuntimeError, ValueError: nobody does, or there is no address.
    """
    failure: OSError | None = None
    for place in get_connectable_addresses(address):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # On a Unix socket this does not wait: it succeeds or fails.
            sock.setblocking(False)
            sock.connect(place)
            return sock
        except OSError as err:
            sock.close()
            failure = err
    raise failure or ValueError("no address")


async def _authenticate(sock: socket.socket) -> None:
    """:raises OSError, ValueError: the bus does not accept us."""
    loop = asyncio.get_running_loop()
    dialogue = Authenticator(enable_fds=True)
    for line in dialogue:
        await loop.sock_sendall(sock, line)
        answer = await loop.sock_recv(sock, 1024)
        if not answer:
            raise ConnectionResetError("it hung up")
        dialogue.feed(answer)
    await loop.sock_sendall(sock, BEGIN)


class Bus:
    """A connection that may be used by many calls at a time."""

    def __init__(self, sock: socket.socket) -> None:
        """
        :param sock: authenticated and non-blocking; closed with this.
        """
        self._socket = sock
        self._serials = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self._replies = Replies()
        self.closed = False
        asyncio.get_running_loop().add_reader(sock, self._read)

    def close(self, why: str) -> None:
        """Close it; whoever still waits for a reply gets a BusError with `why`."""
        if self.closed:
            return
        self.closed = True
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(BusError(why))
                # Nobody may wait for it any more: then asyncio would complain.
                future.exception()

    def call(self, message: Message) -> asyncio.Future[Message]:
        """Send a method call, with its descriptors.

        :returns: the reply, which may be an error; or a BusError, if the connection
            is lost. The caller need not wait for it, but must not cancel it: it is
            done when the call was answered.
        :raises BusError: it could not be sent.
        """
        serial = next(self._serials)
        self._send(message, serial)
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[serial] = future
        return future

    def tell(self, message: Message) -> None:
        """Send a method call that needs no reply. If that fails, the connection is
        closed."""
        message.header.flags |= MessageFlag.no_reply_expected
        try:
            self._send(message, next(self._serials))
        except BusError:
            pass  # whoever waits for a reply has been told

    def _send(self, message: Message, serial: int) -> None:
        if self.closed:
            raise BusError("the connection to the bus is closed")
        fds = array("i")
        data = message.serialise(serial, fds)
        try:
            sent = socket.send_fds(self._socket, [data], fds, socket.MSG_NOSIGNAL)
        except OSError as err:
            self.close(f"the bus takes nothing: {err}")
            raise BusError(f"the bus takes nothing: {err}") from err
        if sent < len(data):
            # Some hundred messages are unread: do not queue more of them here.
            self.close("the bus does not read")
            raise BusError("the bus does not read")

    def _read(self) -> None:
        """Read what there is, up to a limit; for the rest the loop calls again."""
        try:
            data = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError as err:
            self.close(f"the bus is gone: {err}")
            return
        if not data:
            self.close("the bus is gone")
            return
        try:
            replies = self._replies.feed(data)
        except ValueError as err:
            self.close(f"the bus sent what is not D-Bus: {err}")
            return
        for reply in replies:
            serial = reply.header.fields.get(HeaderFields.reply_serial)
            future = self._waiting.pop(serial, None)
            if future is not None and not future.done():
                future.set_result(reply)
