# SPDX-License-Identifier: LGPL-2.1-or-later
"""Netlink messages, and the socket that carries them.

Why no library: the attach path is what this project is for. Four messages that `struct`
packs into one send cost a tenth of what they cost through the general encoder of
pyroute2. Formats: netlink(7), linux/netlink.h.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Sequence
from sys import byteorder
from typing import NamedTuple

NLMSG_ERROR = 2
NLMSG_DONE = 3

NLM_F_REQUEST = 0x01
NLM_F_ACK = 0x04
NLM_F_DUMP_INTR = 0x10
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_DUMP = 0x300
NLM_F_CREATE = 0x400
NLM_F_CAPPED = 0x100
NLM_F_ACK_TLVS = 0x200

NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF
NLMSGERR_ATTR_MSG = 1

NETLINK_NETFILTER = 12  # the protocol of nftables, its log and conntrack
SOL_NETLINK = 270
NETLINK_CAP_ACK = 10
NETLINK_EXT_ACK = 11
NETLINK_GET_STRICT_CHK = 12

HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_ATTR = struct.Struct("=HH")
RECEIVE_BYTES = 256 * 1024  # no message of the kernel's is larger
_DUMP_TRIES = 5


class NetlinkError(OSError):
    """The kernel refused one message; `operation` says which."""

    def __init__(self, error: int, operation: str, text: str = "") -> None:
        """
        :param error: the errno.
        :param operation: what the message was to do.
        :param text: the kernel's own words, if there are any.
        """
        super().__init__(error, os.strerror(error), operation)
        self.operation = operation
        self.text = text

    def __str__(self) -> str:
        reason = os.strerror(self.errno or 0)
        if self.text:
            reason = f"{reason}: {self.text}"
        return f"{self.operation}: {reason}"


class Request(NamedTuple):
    """One message without its header."""

    operation: str  # what it does, for the error
    type: int
    flags: int
    payload: bytes


class Reply(NamedTuple):
    """One message from the kernel without its header."""

    type: int
    payload: memoryview


def attr(kind: int, data: bytes) -> bytes:
    """Pack one attribute, padded to four bytes (NLA_ALIGN)."""
    length = 4 + len(data)
    return _ATTR.pack(length, kind) + data + bytes(-length & 3)


def attr_u8(kind: int, value: int) -> bytes:
    """Pack an attribute with a number of one byte."""
    return attr(kind, bytes((value,)))


def attr_u16(kind: int, value: int) -> bytes:
    """Pack an attribute with a number of two bytes."""
    return attr(kind, value.to_bytes(2, byteorder))


def attr_u32(kind: int, value: int) -> bytes:
    """Pack an attribute with a number of four bytes."""
    return attr(kind, value.to_bytes(4, byteorder))


def attr_str(kind: int, value: str) -> bytes:
    """Pack an attribute with a text, which ends in a NUL."""
    return attr(kind, value.encode() + b"\0")


def nested(kind: int, *attrs: bytes) -> bytes:
    """Pack an attribute with other attributes in it."""
    return attr(kind | NLA_F_NESTED, b"".join(attrs))


def attrs(
    payload: memoryview | bytes, offset: int = 0
) -> Iterator[tuple[int, memoryview]]:
    """Walk the attributes of a reply: kind and value of each. One that is too short or
    too long ends the walk.

    :param payload: of the reply, or the value of an attribute that has others in it.
    :param offset: where the first attribute begins, in bytes.
    """
    view = memoryview(payload)
    end = len(view)
    while offset + 4 <= end:
        length, kind = _ATTR.unpack_from(view, offset)
        if length < 4 or offset + length > end:
            return
        yield kind & NLA_TYPE_MASK, view[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def mac_bytes(mac: str) -> bytes:
    """The six bytes of ``aa:bb:cc:dd:ee:ff``.

    :raises ValueError: it is not written so.
    """
    raw = bytes.fromhex(mac.replace(":", ""))
    if len(raw) != 6 or raw.hex(":") != mac.lower():
        raise ValueError(f"not a MAC address: {mac!r}")
    return raw


def mac_text(raw: bytes | memoryview) -> str:
    """A MAC as it is usually written, in lower case."""
    return bytes(raw).hex(":")


def text(value: memoryview | None) -> str:
    """Read the text of an attribute, "" if it is missing."""
    return bytes(value).rstrip(b"\0").decode(errors="replace") if value else ""


def number(value: memoryview | None) -> int:
    """Read the number of an attribute, of any size, 0 if it is missing."""
    return int.from_bytes(value, byteorder) if value else 0


def messages(data: memoryview) -> Iterator[tuple[int, int, int, memoryview]]:
    """Walk the messages of one datagram: type, flags, sequence, payload of each."""
    offset, end = 0, len(data)
    while offset + 16 <= end:
        length, kind, flags, sequence, _port = HEADER.unpack_from(data, offset)
        if length < 16 or offset + length > end:
            return
        yield kind, flags, sequence, data[offset + 16 : offset + length]
        offset += (length + 3) & ~3


def _error_text(payload: memoryview, flags: int) -> str:
    """The text of an extended acknowledgement, "" if the kernel sent none."""
    if not flags & NLM_F_ACK_TLVS:
        return ""
    offset = 20  # errno and the header of the offending message
    if not flags & NLM_F_CAPPED:
        offset = 4 + ((number(payload[4:8]) + 3) & ~3)
    for kind, value in attrs(payload, offset):
        if kind == NLMSGERR_ATTR_MSG:
            return text(value)
    return ""


class NetlinkSocket:
    """A blocking socket in the namespace it was made in, for rtnetlink or another
    protocol that answers one message at a time.

    Not for use by two threads at once. `close()` closes its descriptor.
    """

    def __init__(self, protocol: int = socket.NETLINK_ROUTE) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol
        )
        for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK):
            try:
                self._socket.setsockopt(SOL_NETLINK, option, 1)
            except OSError:
                pass  # an old kernel sends less, and nothing that we need
        self._socket.bind((0, 0))
        self._buffer = bytearray(RECEIVE_BYTES)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> NetlinkSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def transact(self, requests: Sequence[Request]) -> list[Reply]:
        """Send requests in one batch and check every acknowledgement.

        The kernel works through the whole batch, whatever happens. So a batch may only
        have messages that do no harm after an earlier one has failed.

        :returns: what the kernel answered besides acknowledgements, in order.
        :raises NetlinkError: a message was refused; it says which one was the first.
        """
        first = self._sequence + 1
        batch = []
        for request in requests:
            self._sequence += 1
            batch.append(
                HEADER.pack(
                    16 + len(request.payload),
                    request.type,
                    request.flags | NLM_F_REQUEST | NLM_F_ACK,
                    self._sequence,
                    0,
                )
            )
            batch.append(request.payload + bytes(-len(request.payload) & 3))
        self._socket.sendall(b"".join(batch))
        return self._collect(first, requests)

    def _collect(self, first: int, requests: Sequence[Request]) -> list[Reply]:
        replies: list[Reply] = []
        failure: NetlinkError | None = None
        missing = len(requests)
        while missing:
            count = self._socket.recv_into(self._buffer)
            for kind, flags, sequence, payload in messages(
                memoryview(self._buffer)[:count]
            ):
                index = sequence - first
                if not 0 <= index < len(requests):
                    continue  # left over from a transaction that was interrupted
                if kind != NLMSG_ERROR:
                    replies.append(Reply(kind, memoryview(bytes(payload))))
                    continue
                missing -= 1
                error = -struct.unpack_from("=i", payload)[0]
                if error and failure is None:
                    failure = NetlinkError(
                        error, requests[index].operation, _error_text(payload, flags)
                    )
        if failure is not None:
            raise failure
        return replies

    def dump(self, request: Request) -> list[Reply]:
        """Run a dump request to its end, and again if it was interrupted.

        :raises NetlinkError: the kernel refused, or gave no consistent answer in
            several tries.
        """
        for _ in range(_DUMP_TRIES):
            replies = self._dump_once(request)
            if replies is not None:
                return replies
        raise NetlinkError(4, request.operation, "interrupted again and again")

    def _dump_once(self, request: Request) -> list[Reply] | None:
        self._sequence += 1
        self._socket.sendall(
            HEADER.pack(
                16 + len(request.payload),
                request.type,
                request.flags | NLM_F_REQUEST | NLM_F_DUMP,
                self._sequence,
                0,
            )
            + request.payload
        )
        replies: list[Reply] = []
        consistent = True
        while True:
            count = self._socket.recv_into(self._buffer)
            data = memoryview(bytes(memoryview(self._buffer)[:count]))
            for kind, flags, sequence, payload in messages(data):
                if sequence != self._sequence:
                    continue
                consistent = consistent and not flags & NLM_F_DUMP_INTR
                if kind == NLMSG_DONE:
                    return replies if consistent else None
                if kind == NLMSG_ERROR:
                    error = -struct.unpack_from("=i", payload)[0]
                    raise NetlinkError(
                        error, request.operation, _error_text(payload, flags)
                    )
                replies.append(Reply(kind, payload))
