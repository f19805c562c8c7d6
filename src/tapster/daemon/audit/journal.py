# SPDX-License-Identifier: LGPL-2.1-or-later
"""The journal's native protocol: a log record with fields of its own.

See https://systemd.io/JOURNAL_NATIVE_PROTOCOL, and systemd.exec(5) for
JOURNAL_STREAM. An entry that can't be sent at once is not sent: the broker does not
wait for a log.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Mapping

SOCKET = "/run/systemd/journal/socket"
_LENGTH = struct.Struct("<Q")
NOW = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


def is_journal(fd: int, stream: str | None) -> bool:
    """Whether a descriptor leads to the journal.

    :param fd: the descriptor.
    :param stream: $JOURNAL_STREAM, "device:inode" of what the service was started
        with as its standard error; it may have been replaced since.
    """
    device, _, inode = (stream or "").partition(":")
    if not (device.isdecimal() and inode.isdecimal()):
        return False
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == (int(device), int(inode))


def serialize(fields: Mapping[str, str]) -> bytes:
    """One entry, as the journal reads it. A value with line ends is preceded by its
    length, so that nothing in it can pass for another field."""
    parts: list[bytes] = []
    for name, value in fields.items():
        key, data = name.encode("ascii"), value.encode("utf-8", "backslashreplace")
        if b"\n" in data:
            parts += (key, b"\n", _LENGTH.pack(len(data)), data, b"\n")
        else:
            parts += (key, b"=", data, b"\n")
    return b"".join(parts)


class Journal:
    """Sends entries to the journal. `close()` closes the socket."""

    def __init__(self, path: str = SOCKET) -> None:
        self._path = path
        # Not connected: journald may be restarted.
        self._socket = socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
        )

    def send(self, fields: Mapping[str, str]) -> bool:
        """Send an entry.

        :returns: False if nothing was sent: journald does not run, its queue is full,
            or the entry is too large for a datagram.
        """
        try:
            self._socket.sendto(serialize(fields), NOW, self._path)
        except OSError:
            return False
        return True

    def close(self) -> None:
        self._socket.close()
