# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which user a Unix socket belongs to: sock_diag(7), linux/unix_diag.h.

A socket with an abstract name has no file that would tell.
"""

from __future__ import annotations

import socket
import struct
import sys

from .netlink import NetlinkSocket, Request, attrs

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
# unix_diag_req: family, protocol, pad, states, inode, what to show, cookie
_REQUEST = struct.Struct("=BBHIIIII")
_MESSAGE = 16  # bytes of unix_diag_msg
_SHOW_NAME, _SHOW_UID = 1, 0x40  # UDIAG_SHOW_*; the second since Linux 5.3
_NAME, _UID = 0, 7  # UNIX_DIAG_*


def owners(name: bytes) -> set[int]:
    """The uids whose sockets have this name, in this network namespace.

    :param name: as it was given to bind(2). An abstract name begins with a NUL.
    :raises OSError: the kernel does not say.
    """
    request = _REQUEST.pack(
        socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, _SHOW_NAME | _SHOW_UID, 0, 0
    )
    found = set()
    with NetlinkSocket(_NETLINK_SOCK_DIAG) as netlink:
        replies = netlink.dump(
            Request("list Unix sockets", _SOCK_DIAG_BY_FAMILY, 0, request)
        )
    for reply in replies:
        told = {kind: bytes(value) for kind, value in attrs(reply.payload, _MESSAGE)}
        if told.get(_NAME) == name and len(told.get(_UID, b"")) == 4:
            found.add(int.from_bytes(told[_UID], sys.byteorder))
    return found
