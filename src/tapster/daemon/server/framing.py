# SPDX-License-Identifier: LGPL-2.1-or-later
"""Varlink's framing: a message is a JSON object, up to a NUL byte.

Nothing here does I/O. Time is the caller's, in seconds.
"""

from __future__ import annotations

import json
from collections import deque

from asyncvarlink.types import JSONObject

MESSAGE_LIMIT = 16 * 1024  # bytes

_encoder = json.JSONEncoder(separators=(",", ":"))


class BadMessage(ValueError):
    """What a client sent is no message; the text says what the client did."""


def encode(message: JSONObject) -> bytes:
    """:returns: the message with its NUL, as it is sent."""
    return _encoder.encode(message).encode() + b"\0"


def decode(message: bytes) -> JSONObject:
    """
    :param message: without its NUL.
    :raises BadMessage: the message is no JSON object.
    """
    try:
        decoded = json.loads(message)
    except (ValueError, RecursionError):
        raise BadMessage("sent no JSON") from None
    if not isinstance(decoded, dict):
        raise BadMessage("sent no JSON object")
    return decoded


class Inbox:
    """What a client sent and nobody has looked at: messages, and a part of one."""

    def __init__(self) -> None:
        self._messages: deque[bytes] = deque()
        self._part = bytearray()  # what came since the last NUL
        self._part_since = 0.0

    def __len__(self) -> int:
        """How many whole messages there are."""
        return len(self._messages)

    def feed(self, data: bytes, now: float) -> None:
        """Add what was read, of which there is always less than MESSAGE_LIMIT.

        :raises BadMessage: a message is longer than MESSAGE_LIMIT.
        """
        first, *others = data.split(b"\0")
        if not self._part:
            self._part_since = now
        self._part += first
        if len(self._part) > MESSAGE_LIMIT:
            raise BadMessage("sent too large a message")
        if others:
            self._messages.append(bytes(self._part))
            self._part = bytearray(others.pop())
            self._part_since = now
            self._messages += others

    def take(self) -> bytes:
        """Remove the oldest whole message."""
        return self._messages.popleft()

    def is_part_older(self, moment: float) -> bool:
        """Whether the rest of a message has been waited for since before `moment`."""
        return bool(self._part) and self._part_since < moment

    def restart_part(self, now: float) -> None:
        """Wait for the rest of a message from now on: until now nobody read."""
        self._part_since = now

    def clear(self) -> None:
        """Forget the whole messages."""
        self._messages.clear()
