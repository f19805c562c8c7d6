# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a broker wrote for the next one, read with suspicion.

A file may have been cut off, grown without end, be another's, or no file at all.
None of that may keep a broker from starting, as guests run that need one.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from typing import Any

LIMIT = 1 << 20  # bytes

# A FIFO must not be waited for, and a link not be followed.
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC


class Damaged(ValueError):
    """It is there, and is not what a broker wrote."""


def read(path: str, limit: int = LIMIT) -> str:
    """The text of a file that nobody but us and root could have written.

    :raises FileNotFoundError: there is none.
    :raises Damaged: it is another's, too long, no file, or can't be read.
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
    """The same, parsed.

    :raises FileNotFoundError: there is none.
    :raises Damaged: as `read`, or it is no JSON.
    """
    try:
        return json.loads(read(path, limit))
    except RecursionError:
        raise Damaged("nested too deeply") from None
    except ValueError as err:
        raise Damaged(str(err)) from err


def discard(path: str) -> None:
    """Remove whatever has that name, if that can be done; a link is not followed."""
    try:
        os.unlink(path)
    except (IsADirectoryError, PermissionError):
        shutil.rmtree(path, ignore_errors=True)
    except OSError:
        pass


def private_directory(path: str) -> None:
    """Make a directory that is ours alone, or see that it is.

    :raises OSError: it is another's, or no directory.
    """
    os.makedirs(path, mode=0o700, exist_ok=True)
    what = os.lstat(path)
    if not stat.S_ISDIR(what.st_mode):
        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    if what.st_uid not in (0, os.geteuid()):
        raise OSError(errno.EPERM, f"it belongs to uid {what.st_uid}", path)
    if what.st_mode & 0o077:
        os.chmod(path, 0o700)
