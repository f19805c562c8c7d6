# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read a file only if another user could: the broker's stand-in for setuid.

`qemu-bridge-helper` reads its files as the user who called it, so a file's mode is a
grant. The broker is one process for all users and never changes its own identity; it
works out what the kernel would have told the caller (`permissions`).

The path is walked one component at a time on O_PATH descriptors. Such a descriptor
pins what it names and opens nothing: no FIFO is waited for, no device is started, and
nothing can be exchanged between a check and its use. The caller must be able to search
each directory and to read the file; then exactly that file is opened. Symbolic links
in sticky directories are followed as the kernel follows them.

A path may be the caller's own, where a caller's file is included. So the number of
lookups is limited, and a file system that could keep the broker waiting is recognized
(`mounts`) before it is asked for anything.

There are two kinds of failure. `OSError` is what the caller would have met as well.
`Undecidable` is the broker's own trouble, or a file that it must not touch: what the
caller would have read is unknown, so the request has to be refused. Files are looked
up in the broker's own mount namespace and root directory. Security modules and the
servers of network file systems are not asked.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import NamedTuple, NoReturn

from . import mounts
from .permissions import READ, SEARCH, Reader, Undecidable, has_permission

# Errors of a lookup that do not depend on who looks.
_SAME_FOR_ALL = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}
_MAX_LINKS = 40  # the kernel's MAXSYMLINKS
_ALL_LOOKUPS = (_MAX_LINKS + 1) * 4096  # what one path comes to, at PATH_MAX each
_STICKY_FOR_ALL = stat.S_ISVTX | stat.S_IWOTH
_PROTECTED_SYMLINKS = "/proc/sys/fs/protected_symlinks"
_DEV_NULL = os.makedev(1, 3)
_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Contents(NamedTuple):
    data: bytes
    identity: tuple[int, int]  # device and inode
    is_directory: bool = False


class LookupBudget:
    """How many names the paths of one request may have looked up together.

    It also remembers which mounts were found harmless, so that each is asked once.

    :param lookups: how many.
    """

    def __init__(self, lookups: int) -> None:
        self._limit = self._left = lookups
        self._harmless: set[int] = set()  # ids of mounts

    def spend(self) -> None:
        """:raises Undecidable: that was one name too many."""
        if self._left == 0:
            raise Undecidable(f"more than {self._limit} steps on the way")
        self._left -= 1

    def check_mount(self, fd: int, is_root: bool) -> None:
        """Check that what a descriptor leads to may be asked for anything.

        :param is_root: it is the root directory, which always may.
        :raises Undecidable: it must not, or cannot be told.
        """
        try:
            mount = mounts.mount_of(fd)
            if mount in self._harmless:
                return
            objection = None if is_root else mounts.why_not(mount)
        except OSError as error:
            _cannot("reach it", error)
        if objection is not None:
            raise Undecidable(objection)
        self._harmless.add(mount)


def read_as_user(
    path: bytes, reader: Reader, limit: int, budget: LookupBudget | None = None
) -> Contents:
    """Read what `reader` would read from `path`; a directory reads as empty.

    :param path: absolute.
    :param reader: the user as whom it is read.
    :param limit: the most bytes that it may have.
    :param budget: how many names may be looked up; None: as many as one path can have.
    :raises OSError: the reader could not open it either.
    :raises Undecidable: it is a FIFO, a device, larger than `limit` or on a file
        system that may hang; or the broker lacks a right that the reader has.
    """
    fd, st = _walk(path, reader, budget or LookupBudget(_ALL_LOOKUPS))
    try:
        if not has_permission(fd, st, READ, reader):
            _fail(errno.EACCES)
        data = _contents(fd, st, limit)
        return Contents(data, (st.st_dev, st.st_ino), stat.S_ISDIR(st.st_mode))
    finally:
        os.close(fd)


def _contents(fd: int, st: os.stat_result, limit: int) -> bytes:
    """Read the object behind an O_PATH descriptor, if reading it has no effects."""
    if stat.S_ISDIR(st.st_mode):
        return b""
    if stat.S_ISCHR(st.st_mode) and st.st_rdev == _DEV_NULL:
        return b""
    if stat.S_ISSOCK(st.st_mode):
        _fail(errno.ENXIO)
    if not stat.S_ISREG(st.st_mode):
        raise Undecidable("neither a regular file nor a directory")
    if st.st_size > limit:
        raise Undecidable("too large")
    data = b""
    size = min(max(st.st_size, 4096), limit) + 1
    try:
        # By its path in /proc, which alone opens this very inode.
        file = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK)
        try:
            while len(data) <= limit and (piece := os.read(file, size)):
                data += piece
        finally:
            os.close(file)
    except OSError as error:
        _cannot("read it", error)
    if len(data) > limit:
        raise Undecidable("too large")
    return data


def _walk(
    path: bytes, reader: Reader, budget: LookupBudget
) -> tuple[int, os.stat_result]:
    """Follow a path as `reader` would.

    :returns: an O_PATH descriptor of what it leads to, which the caller closes, and
        its status.
    """
    if not path.startswith(b"/") or b"\0" in path:
        _fail(errno.ENOENT)
    links = 0
    names = path.split(b"/")[::-1]  # the next one last
    here, st = _lookup(b"/", None, True, budget)
    try:
        while names:
            name = names.pop()
            if not stat.S_ISDIR(st.st_mode):
                _fail(errno.ENOTDIR)
            if name in (b"", b"."):
                continue
            if not has_permission(here, st, SEARCH, reader):
                _fail(errno.EACCES)
            there, found = _lookup(name, here, bool(names), budget)
            if stat.S_ISLNK(found.st_mode):
                links += 1
                # The kernel protects the last component of a path alone.
                directory = None if names else st
                target = _link_target(there, found, links, directory, reader)
                names += target.split(b"/")[::-1]
                if not target.startswith(b"/"):
                    continue
                there, found = _lookup(b"/", None, True, budget)
            os.close(here)
            here, st = there, found
    except BaseException:
        os.close(here)
        raise
    return here, st


def _link_target(
    fd: int,
    link: os.stat_result,
    links: int,
    directory: os.stat_result | None,
    reader: Reader,
) -> bytes:
    """Where a symbolic link leads, if the reader may follow it. Closes it.

    :param fd: the link itself, opened with O_PATH.
    :param link: its status.
    :param links: how many have been followed on this path, this one included.
    :param directory: status of the directory that it is in, if that may forbid it.
    :param reader: who follows it.
    """
    try:
        if links > _MAX_LINKS:
            _fail(errno.ELOOP)
        if directory is not None:
            _check_sticky(directory, link, reader)
        return _readlink(fd)
    finally:
        os.close(fd)


def _lookup(
    name: bytes, directory: int | None, more: bool, budget: LookupBudget
) -> tuple[int, os.stat_result]:
    """Open one component as O_PATH: itself, not what it links to.

    :param directory: a descriptor of the directory; None for the root directory.
    :param more: whether more of the path follows.
    :returns: the descriptor, which the caller closes, and its status.
    """
    budget.spend()
    fd = _open(name, directory, more)
    try:
        budget.check_mount(fd, directory is None)
        return fd, os.fstat(fd)
    except BaseException as error:
        os.close(fd)
        if isinstance(error, OSError):
            _cannot("reach it", error)
        raise


def _open(name: bytes, directory: int | None, more: bool) -> int:
    """Open a component of which nothing has been checked.

    O_DIRECTORY has an automount point mount its file system. It is tried where more of
    the path follows, but not insisted on: the name may be a link.
    """
    try:
        if more:
            try:
                return os.open(name, _PATH | os.O_DIRECTORY, dir_fd=directory)
            except NotADirectoryError:
                pass
        return os.open(name, _PATH, dir_fd=directory)
    except OSError as error:
        if error.errno in _SAME_FOR_ALL:
            raise
        _cannot("reach it", error)


def _readlink(fd: int) -> bytes:
    try:
        return os.readlink(b"", dir_fd=fd)
    except OSError as error:
        _cannot("follow it", error)


def _check_sticky(
    directory: os.stat_result, link: os.stat_result, reader: Reader
) -> None:
    """Apply fs.protected_symlinks: in /tmp and its like, links of others than the
    reader and the directory's owner are not followed. The rule is for root, too.

    :raises OSError: the link must not be followed.
    """
    if link.st_uid in (reader.uid, directory.st_uid):
        return
    if directory.st_mode & _STICKY_FOR_ALL != _STICKY_FOR_ALL:
        return
    try:
        with open(_PROTECTED_SYMLINKS, "rb") as setting:
            if setting.read().strip() == b"0":
                return
    except OSError:
        pass  # where the setting cannot be read, the rule is taken to hold
    _fail(errno.EACCES)


def _cannot(what: str, error: OSError) -> NoReturn:
    raise Undecidable(f"the broker cannot {what}: {error.strerror}") from error


def _fail(number: int) -> NoReturn:
    raise OSError(number, os.strerror(number))
