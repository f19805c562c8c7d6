# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read a file only if somebody else could: the broker's stand-in for setuid.

`qemu-bridge-helper` reads its files as the user who called it, so a file's
mode is a grant. The broker is one process for all users and never changes its
own identity; it has to work out what the kernel would have told the caller.

The path is walked one component at a time on O_PATH descriptors, which pin
what they name and open nothing: no FIFO is waited for, no device is started,
and nothing can be exchanged between a check and its use. Each directory must
let the caller search it, the file must let the caller read it; then exactly
that file is opened. Modes, owners and POSIX ACLs are weighed as the kernel
weighs them, symbolic links in sticky directories too.

A path may be the caller's own, where a file of theirs is included, so what it
costs has a limit, and a file system that could keep the broker waiting is known
as such (`mounts`) before it is asked for anything.

Two kinds of failure are kept apart. `OSError` is what the caller would have
met as well. `Undecidable` is the broker's own trouble, or a file it must not
touch: nobody knows what the caller would have read, so whoever asked has to
refuse. What is seen is the broker's own mount namespace and root directory,
and neither security modules nor the servers of network file systems are asked.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from typing import NamedTuple, NoReturn

from . import mounts

READ = 4
SEARCH = 1

# Errors of a lookup that do not depend on who looks.
_SAME_FOR_ALL = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}
_MAX_LINKS = 40  # the kernel's MAXSYMLINKS
_ALL_STEPS = (_MAX_LINKS + 1) * 4096  # what one path comes to, at PATH_MAX each
_STICKY_FOR_ALL = stat.S_ISVTX | stat.S_IWOTH
_PROTECTED_SYMLINKS = "/proc/sys/fs/protected_symlinks"
_DEV_NULL = os.makedev(1, 3)
_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

_ACL = "system.posix_acl_access"
_ACL_VERSION = 2
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 1, 2, 4, 8, 16, 32


class Reader(NamedTuple):
    """The identity whose right to read counts."""

    uid: int
    gid: int
    groups: frozenset[int]


class Undecidable(Exception):
    """Nobody knows what the reader would have seen; the message says why."""


class Contents(NamedTuple):
    data: bytes
    identity: tuple[int, int]  # device and inode
    is_directory: bool = False


class LookupBudget:
    """What the paths of one request may cost together, and what they met.

    :param steps: how many names may be looked up.
    """

    def __init__(self, steps: int) -> None:
        self._limit = self._left = steps
        self._mounts: set[int] = set()  # those that may be looked at

    def step(self) -> None:
        """:raise Undecidable: that was one name too many."""
        if self._left == 0:
            raise Undecidable(f"more than {self._limit} steps on the way")
        self._left -= 1

    def enter(self, fd: int, is_root: bool) -> None:
        """:raise Undecidable: what is there must not be looked at."""
        try:
            mount = mounts.mount_of(fd)
            if mount in self._mounts:
                return
            objection = None if is_root else mounts.why_not(mount)
        except OSError as error:
            _cannot("reach it", error)
        if objection is not None:
            raise Undecidable(objection)
        self._mounts.add(mount)


def read_as_user(
    path: bytes, reader: Reader, limit: int, budget: LookupBudget | None = None
) -> Contents:
    """What `reader` would read from `path`; a directory reads as empty.

    :param budget: what it may cost; None for as much as one path can.
    :raise OSError: the reader could not open it either.
    :raise Undecidable: a FIFO, a device, more than `limit` bytes, a file system
        that may hang, or the broker lacks a right that the reader has.
    """
    fd, st = _walk(path, reader, budget or LookupBudget(_ALL_STEPS))
    try:
        if not has_permission(fd, st, READ, reader):
            _fail(errno.EACCES)
        data = _contents(fd, st, limit)
        return Contents(data, (st.st_dev, st.st_ino), stat.S_ISDIR(st.st_mode))
    finally:
        os.close(fd)


def _contents(fd: int, st: os.stat_result, limit: int) -> bytes:
    """Read the object behind an O_PATH descriptor, if it is harmless to."""
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
        # Through /proc, because only that opens this very inode.
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
    """An O_PATH descriptor of what `path` leads `reader` to, which the caller
    closes, and its status."""
    if not path.startswith(b"/") or b"\0" in path:
        _fail(errno.ENOENT)
    links = 0
    todo = path.split(b"/")[::-1]
    here, st = _lookup(b"/", None, True, budget)
    try:
        while todo:
            name = todo.pop()
            if not stat.S_ISDIR(st.st_mode):
                _fail(errno.ENOTDIR)
            if name in (b"", b"."):
                continue
            if not has_permission(here, st, SEARCH, reader):
                _fail(errno.EACCES)
            there, found = _lookup(name, here, bool(todo), budget)
            if not stat.S_ISLNK(found.st_mode):
                os.close(here)
                here, st = there, found
                continue
            try:
                links += 1
                if links > _MAX_LINKS:
                    _fail(errno.ELOOP)
                if not todo:
                    _check_sticky(st, found, reader)
                target = _readlink(there)
            finally:
                os.close(there)
            todo += target.split(b"/")[::-1]
            if target.startswith(b"/"):
                os.close(here)
                here = -1
                here, st = _lookup(b"/", None, True, budget)
    except BaseException:
        if here >= 0:
            os.close(here)
        raise
    return here, st


def _lookup(
    name: bytes, directory: int | None, more: bool, budget: LookupBudget
) -> tuple[int, os.stat_result]:
    """Open one component, itself and not what it links to, as O_PATH.

    :return: the descriptor, which the caller closes, and its status.
    """
    budget.step()
    fd = _open(name, directory, more)
    try:
        budget.enter(fd, directory is None)
        return fd, os.fstat(fd)
    except BaseException as error:
        os.close(fd)
        if isinstance(error, OSError):
            _cannot("reach it", error)
        raise


def _open(name: bytes, directory: int | None, more: bool) -> int:
    """O_DIRECTORY makes an automount point mount; it is asked for where more of
    the path follows, and not insisted on, for the name may be a link."""
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
    """fs.protected_symlinks: in /tmp and its like only follow one's own links.

    As in the kernel this is for the last component, and for root as well.
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
        pass  # it has been the rule wherever nobody can say
    _fail(errno.EACCES)


def has_permission(fd: int, st: os.stat_result, want: int, reader: Reader) -> bool:
    """Whether `reader` has the right `want` (READ or SEARCH) to this inode.

    The kernel's order: the owner by the mode alone; an ACL only while the
    mode's group bits, which are its mask then, are not all off.

    :raise Undecidable: the ACL cannot be read.
    """
    if reader.uid == 0:
        return True
    mode = st.st_mode
    if st.st_uid == reader.uid:
        return bool(mode >> 6 & want)
    if mode & stat.S_IRWXG:
        acl = _read_acl(fd)
        if acl is not None:
            return acl_permits(acl, st.st_gid, want, reader)
    if st.st_gid == reader.gid or st.st_gid in reader.groups:
        mode >>= 3
    return bool(mode & want)


def _read_acl(fd: int) -> bytes | None:
    try:
        # An O_PATH descriptor has no attributes of its own to read.
        return os.getxattr(f"/proc/self/fd/{fd}", _ACL)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        raise Undecidable(f"its ACL cannot be read: {error.strerror}") from error


def acl_permits(acl: bytes, owner_gid: int, want: int, reader: Reader) -> bool:
    """Weigh a POSIX ACL, as its extended attribute holds it, for a non-owner.

    :raise Undecidable: it is not such an ACL.
    """
    if len(acl) % 8 != 4 or struct.unpack_from("<I", acl)[0] != _ACL_VERSION:
        raise Undecidable("its ACL makes no sense")
    entries = list(struct.iter_unpack("<HHI", acl[4:]))
    mask = next((perm for tag, perm, _ in entries if tag == _MASK), READ | SEARCH)
    in_group = False
    for tag, perm, id_ in entries:
        if tag == _USER and id_ == reader.uid:
            return bool(perm & mask & want)
        if tag in (_GROUP_OBJ, _GROUP):
            gid = owner_gid if tag == _GROUP_OBJ else id_
            if gid == reader.gid or gid in reader.groups:
                in_group = True
                if perm & want:
                    return bool(mask & want)
        elif tag == _OTHER:
            return not in_group and bool(perm & want)
        elif tag not in (_USER_OBJ, _USER, _MASK):
            raise Undecidable("its ACL makes no sense")
    raise Undecidable("its ACL makes no sense")


def _cannot(what: str, error: OSError) -> NoReturn:
    raise Undecidable(f"the broker cannot {what}: {error.strerror}") from error


def _fail(number: int) -> NoReturn:
    raise OSError(number, os.strerror(number))
