# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which file systems may be asked at all, found out without asking them.

A user may mount a file system that a program of its own serves (FUSE), and have
whoever looks at a file there wait for ever. A file in /proc may be made from a
process's memory, and that be mapped from such a file system. So what a descriptor
is in comes first, and only the kernel's own tables are asked for it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys

_MADE_WHEN_READ = frozenset({"proc", "sysfs"})

# statx(2). Every file system answers for itself unless it is told not to sync.
_AT_EMPTY_PATH = 0x1000
_AT_STATX_DONT_SYNC = 0x4000
_STATX_MNT_ID = 0x1000
_MNT_ID = slice(144, 152)
_statx = ctypes.CDLL(None, use_errno=True).statx


def mount_of(fd: int) -> int:
    """The id of the mount that a descriptor, O_PATH or not, leads into.

    :raises OSError: the kernel, or the file system, does not tell.
    """
    buffer = ctypes.create_string_buffer(256)
    flags = _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC
    number = 0
    if _statx(fd, b"", flags, _STATX_MNT_ID, buffer) < 0:
        number = ctypes.get_errno()
    elif not int.from_bytes(buffer.raw[:4], sys.byteorder) & _STATX_MNT_ID:
        number = errno.ENOSYS  # before Linux 5.8
    if number:
        raise OSError(number, os.strerror(number))
    return int.from_bytes(buffer.raw[_MNT_ID], sys.byteorder)


def why_not(mount: int) -> str | None:
    """Why nothing of a mount may be looked at; None if it may.

    :raises OSError: the mounts cannot be listed.
    """
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            fields = line.decode("utf-8", "surrogateescape").rstrip("\n").split(" ")
            if fields[0] == str(mount):
                kind, _, options = fields[fields.index("-", 6) + 1 :]
                return _objection(kind, options)
    return "on a mount that is not listed"


def _objection(kind: str, options: str) -> str | None:
    if kind in _MADE_WHEN_READ:
        return f"on {kind}, where files are made when they are read"
    if kind.partition(".")[0] in ("fuse", "fuseblk"):
        owners = [
            o.partition("=")[2] for o in options.split(",") if o[:8] == "user_id="
        ]
        if owners not in (["0"], [str(os.geteuid())]):
            return "on a file system that a user serves"
    return None
