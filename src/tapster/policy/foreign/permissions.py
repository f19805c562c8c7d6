# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether another user may read a file or search a directory, as the kernel says it.

The broker runs as one user and answers for all of them, so it cannot find out by
trying. It weighs owner, mode and POSIX ACL as the kernel does (acl(5)).
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from typing import NamedTuple

READ = 4
SEARCH = 1

_ACL = "system.posix_acl_access"
_ACL_VERSION = 2
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 1, 2, 4, 8, 16, 32


class Reader(NamedTuple):
    """The user whose right to read counts."""

    uid: int
    gid: int
    groups: frozenset[int]


class Undecidable(Exception):
    """The broker cannot tell what the reader would have seen; the message says why."""


def has_permission(fd: int, st: os.stat_result, want: int, reader: Reader) -> bool:
    """Whether a user may read or search what a descriptor leads to.

    The kernel's order: for the owner the mode alone counts; an ACL counts only if the
    mode has a group bit, since these bits are the ACL's mask then.

    :param fd: an O_PATH descriptor of it.
    :param st: its status.
    :param want: READ or SEARCH.
    :param reader: whose right it is.
    :raises Undecidable: the ACL cannot be read.
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
        # getxattr(2) takes no O_PATH descriptor, but takes its path in /proc.
        return os.getxattr(f"/proc/self/fd/{fd}", _ACL)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        raise Undecidable(f"its ACL cannot be read: {error.strerror}") from error


def acl_permits(acl: bytes, owner_gid: int, want: int, reader: Reader) -> bool:
    """Weigh a POSIX ACL for a user who does not own the file.

    :param acl: the extended attribute that holds it.
    :param owner_gid: the file's group.
    :param want: READ or SEARCH.
    :param reader: whose right it is.
    :raises Undecidable: it is not such an ACL.
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
