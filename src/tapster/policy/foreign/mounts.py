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
import select
import sys

_MADE_WHEN_READ = frozenset({"proc", "sysfs"})
_ANSWERS = 4096  # that are kept: a user may have thousands of mounts

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
    return _table.why_not(mount)


class _Table:
    """The mounts of our namespace, listed again when they have changed: that is what
    poll(2) tells of the file (proc_pid_mountinfo(5)). A list of some hundred takes
    longer than all else that a decision does.

    What is looked up is the mount of a descriptor that is open, so while nothing
    has changed its id is no other mount's.
    """

    def __init__(self) -> None:
        self._fd = -1
        self._pid = 0
        self._poll: select.poll | None = None
        self._answers: dict[int, str | None] = {}

    def why_not(self, mount: int) -> str | None:
        if self._poll is None or self._pid != os.getpid():  # "self" is who opened it
            self._open()
        elif self._poll.poll(0):
            self._answers.clear()
        if mount not in self._answers:
            if len(self._answers) >= _ANSWERS:
                self._answers.clear()
            self._answers[mount] = self._find(mount)
        return self._answers[mount]

    def _open(self) -> None:
        fd = os.open("/proc/self/mountinfo", os.O_RDONLY)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._pid = fd, os.getpid()
        self._poll = select.poll()
        self._poll.register(fd, select.POLLPRI)
        self._answers.clear()

    def _find(self, mount: int) -> str | None:
        os.lseek(self._fd, 0, os.SEEK_SET)
        with open(self._fd, "rb", closefd=False) as file:
            for line in file:
                fields = line.decode("utf-8", "surrogateescape").rstrip("\n").split(" ")
                if fields[0] == str(mount):
                    kind, _, options = fields[fields.index("-", 6) + 1 :]
                    return _objection(kind, options)
        return "on a mount that is not listed"


_table = _Table()


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
