# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who is at the other end of a socket: the kernel's word (unix(7)), and what NSS and
/etc/subuid add to it."""

from __future__ import annotations

import errno
import socket
import struct

from ...model import Peer
from .accounts import account_of
from .subuid import is_subordinate

# asm-generic/socket.h; not in Python's socket module
SO_PEERGROUPS = 59
SO_PEERPIDFD = 77  # since Linux 6.5
_UCRED = struct.Struct("iII")  # struct ucred: pid, uid, gid
_INT = struct.Struct("i")
_GROUPS = 64  # at first; the kernel says when it is too few


def credentials(connection: socket.socket) -> tuple[int, int, int]:
    """Pid, uid and gid of the process that called connect(2), as it was then.

    :raises OSError: this is not a connected Unix socket.
    """
    pid, uid, gid = _UCRED.unpack(
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    )
    return pid, uid, gid


def identify(connection: socket.socket) -> Peer:
    """The process that called connect(2), as it was then, with its account.

    :raises OSError: this is not a connected Unix socket.
    """
    pid, uid, gid = credentials(connection)
    return with_account(uid, gid, groups(connection), pid)


def with_account(uid: int, gid: int, supplementary: frozenset[int], pid: int) -> Peer:
    """Build the `Peer`: kernel credentials plus what NSS and /etc/subuid add (account
    groups, whether the uid is subordinate).

    :param uid: of the process.
    :param gid: of the process.
    :param supplementary: groups of the process.
    :param pid: of the process.
    """
    name, account_groups = account_of(uid)
    subordinate = name is None and is_subordinate(uid)
    return Peer(uid, gid, supplementary | {gid}, pid, account_groups, subordinate)


def pidfd(connection: socket.socket) -> int:
    """A pidfd of the process that called connect(2), whoever has its pid now. The
    caller closes it.

    :raises OSError: ENOPROTOOPT: the kernel has no such option. Any other error
        means that the process is gone; which one depends on the kernel.
    """
    raw = connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD, _INT.size)
    number: int = _INT.unpack(raw)[0]
    return number


def groups(connection: socket.socket) -> frozenset[int]:
    """The supplementary groups of the process that called connect(2), as they were
    then."""
    size = _GROUPS
    while True:
        try:
            raw = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, size * 4)
        except OSError as err:
            if err.errno == errno.ERANGE and size < 65536:  # NGROUPS_MAX
                size *= 8
                continue
            raise
        return frozenset(struct.unpack(f"{len(raw) // 4}I", raw))
