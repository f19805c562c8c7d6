# SPDX-License-Identifier: LGPL-2.1-or-later
"""User and network namespaces: making one's own, and coming back to it.

namespaces(7), user_namespaces(7), capabilities(7).
"""

from __future__ import annotations

import ctypes
import os
import struct

from . import process
from .process import oserror

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000

PR_CAPBSET_DROP = 24
_CAP_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """unshare(2)"""
    if _libc.unshare(flags) < 0:
        raise oserror("unshare")


def setns(fd: int, kind: int) -> None:
    """setns(2)"""
    if _libc.setns(fd, kind) < 0:
        raise oserror("setns")


def enter_new() -> None:
    """Move the calling process, of one thread, into namespaces of its own.

    It keeps its uid and gid, and those alone exist inside: what it makes is
    its own outside too, and callers are told apart from strangers.

    :raises OSError: unprivileged user namespaces are off or used up.
    """
    uid, gid = os.geteuid(), os.getegid()
    unshare(CLONE_NEWUSER | CLONE_NEWNET)
    # Without CAP_SETGID outside, a group map needs setgroups denied first.
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def keep_capabilities(numbers: list[int]) -> None:
    """Give up all capabilities but these; programs we start keep them too.

    :raises OSError: one of them is not held.
    """
    mask = sum(1 << number for number in numbers)
    for number in range(64):
        if not mask >> number & 1:
            try:
                process.prctl(PR_CAPBSET_DROP, number)
            except OSError:
                break  # beyond the last that this kernel knows
    header = struct.pack("Ii", _CAP_VERSION_3, 0)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    data = struct.pack("6I", low, low, low, high, high, high)
    if _libc.capset(header, data) < 0:
        raise oserror("capset")
    for number in numbers:
        process.prctl(process.PR_CAP_AMBIENT, process.PR_CAP_AMBIENT_RAISE, number)
