# SPDX-License-Identifier: LGPL-2.1-or-later
"""User and network namespaces: making one's own, and coming back to it.

namespaces(7), user_namespaces(7), capabilities(7).
"""

from __future__ import annotations

import os

from .libc import call

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000


def unshare(flags: int) -> None:
    """unshare(2)

    :param flags: CLONE_NEW*, of the namespaces to be in new ones of.
    :raises OSError: the kernel refused.
    """
    call("unshare", flags)


def setns(fd: int, kind: int) -> None:
    """setns(2)

    :param fd: of a namespace; it stays open.
    :param kind: CLONE_NEW*, of that namespace.
    :raises OSError: the kernel refused.
    """
    call("setns", fd, kind)


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
