# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which file systems may be asked for anything, found out without asking them.

A user may mount a file system that the user's own program serves (FUSE), and so have
whoever looks at a file there wait for ever. A file in /proc may be made from a
process's memory, which may be mapped from such a file system. So the mount of a
descriptor is looked at before anything else, in the kernel's own tables alone.
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
    """The id of the mount that a descriptor, O_PATH or not, is on.

    :raises OSError: the kernel or the file system does not say.
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
    """Why nothing on a mount may be looked at; None if it may be.

    :raises OSError: the mounts cannot be listed.
    """
    return _table.why_not(mount)


class _Table:
    """The mounts of our namespace, listed again only when they have changed.

    Reading a list of some hundred mounts takes longer than all else in a decision;
    poll(2) on the file tells whether it has changed (proc_pid_mountinfo(5)). An answer
    may be kept by the mount's id: each mount asked about has an open descriptor on it,
    so while nothing has changed no other mount can get that id.
    """

    def __init__(self) -> None:
        self._fd = -1
        self._pid = 0
        self._poll: select.poll | None = None
        self._answers: dict[int, str | None] = {}

    def why_not(self, mount: int) -> str | None:
        if self._poll is None or self._pid != os.getpid():  # a fork has other mounts
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
