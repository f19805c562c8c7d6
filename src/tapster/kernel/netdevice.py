# SPDX-License-Identifier: LGPL-2.1-or-later
"""The ioctls of netdevice(7): one fact about a device by one short call.

rtnetlink tells more, and its answer takes ten times as long to read.
"""

from __future__ import annotations

import fcntl
import socket
import struct

SIOCGIFNAME, SIOCGIFMTU, SIOCGIFINDEX = 0x8910, 0x8921, 0x8933
_IFREQ = struct.Struct("16si20x")  # struct ifreq: name, and a number in the union


def index_of(sock: socket.socket, name: str) -> int:
    """The index of the device with that name, or alternative name.

    :param sock: any socket that was made in the device's namespace.
    :raises OSError: ENODEV: there is none.
    """
    return _ask(sock, SIOCGIFINDEX, name)[1]


def mtu_of(sock: socket.socket, name: str) -> int:
    """The MTU of the device with that name, in bytes.

    :param sock: any socket that was made in the device's namespace.
    :raises OSError: ENODEV: there is none.
    """
    return _ask(sock, SIOCGIFMTU, name)[1]


def name_of(sock: socket.socket, index: int) -> str:
    """The real name of the device with that index.

    :param sock: any socket that was made in the device's namespace.
    :raises OSError: ENODEV: there is none.
    """
    reply = fcntl.ioctl(sock, SIOCGIFNAME, _IFREQ.pack(b"", index))
    return bytes(_IFREQ.unpack(reply)[0]).rstrip(b"\0").decode(errors="replace")


def _ask(sock: socket.socket, request: int, name: str) -> tuple[bytes, int]:
    reply = fcntl.ioctl(sock, request, _IFREQ.pack(name.encode(), 0))
    raw, number = _IFREQ.unpack(reply)
    return bytes(raw), int(number)
