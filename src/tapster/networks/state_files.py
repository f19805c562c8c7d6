# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files that a broker writes for the next one: replaced whole, read with suspicion.

A file may have been cut off, have grown without end, belong to somebody else, or be
no file at all. None of that may keep a broker from starting: guests run that need
one.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from typing import Any

from .. import jsonutil

LIMIT = 1 << 20  # bytes

_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC


class Damaged(ValueError):
    """A file is there, and is not what a broker wrote."""


def read(path: str, limit: int = LIMIT) -> str:
    """Read a file that nobody but us and root can have written.

    :param path: of the file. A link is not followed, and a FIFO not waited for.
    :param limit: bytes that it may have.
    :raises FileNotFoundError: there is none.
    :raises Damaged: it is another user's, too long, no file, or can't be read.
    """
    try:
        fd = os.open(path, _FLAGS)
    except FileNotFoundError:
        raise
    except OSError as err:
        raise Damaged(err.strerror) from err
    try:
        what = os.fstat(fd)
        if not stat.S_ISREG(what.st_mode):
            raise Damaged("not a file")
        if what.st_uid not in (0, os.geteuid()):
            raise Damaged(f"it belongs to uid {what.st_uid}")
        if what.st_mode & 0o022:
            raise Damaged("others may write to it")
        with open(fd, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    except OSError as err:
        raise Damaged(err.strerror) from err
    finally:
        os.close(fd)
    if len(data) > limit:
        raise Damaged(f"longer than {limit} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as err:
        raise Damaged(str(err)) from err


def read_json(path: str, limit: int = LIMIT) -> Any:
    """Read a file as `read` does, and parse it.

    :raises FileNotFoundError: there is none.
    :raises Damaged: `read` raises it, or the text is no JSON.
    """
    try:
        return jsonutil.parse(read(path, limit))
    except jsonutil.JsonError as err:
        raise Damaged(str(err)) from err


def write(path: str, text: str, mode: int = 0o640) -> None:
    """Write a file of the broker's, in place. A link of that name is not followed.

    :param path: where; the new file's group is that of its directory if that has
        the set-group-ID bit.
    :param text: all that will be in it.
    :param mode: permissions of a new file.
    :raises OSError: it can't be written; it may be there in part.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(path, flags, mode)
    try:
        data = text.encode()
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)


def replace(path: str, text: str, mode: int = 0o640) -> None:
    """Write a file so that whoever reads it finds all of the old text or of the new.

    The new text is written to ``<path>.new`` first; a broker that dies in between
    leaves that behind.

    :param path: where.
    :param text: all that will be in it.
    :param mode: permissions of the file.
    :raises OSError: it can't be written; the old file is still there.
    """
    write(f"{path}.new", text, mode)
    os.replace(f"{path}.new", path)


def remove(path: str) -> None:
    """Remove a file, if there is one.

    :raises OSError: it is there and can't be removed.
    """
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def discard(path: str) -> None:
    """Remove whatever has this name, with all that is in it, if that can be done. A
    link is not followed."""
    try:
        os.unlink(path)
    except (IsADirectoryError, PermissionError):
        shutil.rmtree(path, ignore_errors=True)
    except OSError:
        pass


def private_directory(path: str) -> None:
    """Make a directory that only we can use, or see that one is.

    :raises OSError: it is another user's, or no directory, or can't be made.
    """
    os.makedirs(path, mode=0o700, exist_ok=True)
    what = os.lstat(path)
    if not stat.S_ISDIR(what.st_mode):
        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    if what.st_uid not in (0, os.geteuid()):
        raise OSError(errno.EPERM, f"it belongs to uid {what.st_uid}", path)
    if what.st_mode & 0o077:
        os.chmod(path, 0o700)
