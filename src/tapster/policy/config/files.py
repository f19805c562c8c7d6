# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files that decide, read only if nobody but root could have written them.

Whoever can write such a file decides who gets what. Owner and mode are those of the
opened descriptor, never of the path: a moment later the path may lead elsewhere.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from ...errors import ConfigError

MAIN = "tapster.toml"
DROP_INS = "conf.d"

# Do not wait for a FIFO's writer, and do not acquire a controlling terminal.
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def read_files(directory: str, owner_only: bool) -> list[tuple[str, str]]:
    """Path and text of `tapster.toml`, then of `conf.d/*.toml` in name order.

    :param directory: of the configuration; it need not exist.
    :param owner_only: refuse what others than root can write to.
    :raises ConfigError: one of them is refused, or cannot be read.
    """
    found: list[tuple[str, str]] = []
    with opened_directory(directory, None, os.O_PATH, owner_only) as fd:
        if fd is None:
            return found
        if _is_there(os.path.join(directory, MAIN), fd):
            found.append(_read(directory, MAIN, fd, owner_only))
        path = os.path.join(directory, DROP_INS)
        with opened_directory(path, fd, os.O_RDONLY, owner_only) as drop_ins:
            if drop_ins is None:
                return found
            found += [
                _read(path, name, drop_ins, owner_only)
                for name in sorted(os.listdir(drop_ins))
                if name.endswith(".toml") and not name.startswith(".")
            ]
    return found


def _is_there(path: str, parent: int | None) -> bool:
    """Whether a name exists. A link that leads nowhere does: the file that it was
    meant to lead to may deny something.

    :raises ConfigError: that cannot be told.
    """
    name = path if parent is None else os.path.basename(path)
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    except OSError as err:
        raise ConfigError(f"{path}: {err.strerror}") from err
    return True


@contextmanager
def opened_directory(
    path: str, parent: int | None, flags: int, owner_only: bool
) -> Iterator[int | None]:
    """A directory's descriptor, until the block ends; None if it does not exist.

    :param path: of the directory, for messages too.
    :param parent: a descriptor of the directory that it is in; None to open the path.
    :param flags: of open(2), besides O_DIRECTORY and O_CLOEXEC.
    :param owner_only: refuse it if others than root can write to it.
    :raises ConfigError: it is refused, or cannot be opened.
    """
    name = path if parent is None else os.path.basename(path)
    fd = None
    try:
        fd = os.open(name, flags | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)
    except OSError as err:
        if err.errno != errno.ENOENT or _is_there(path, parent):
            raise ConfigError(f"{path}: {err.strerror}") from err
    try:
        if fd is not None:
            _check(os.fstat(fd), path, owner_only)
        yield fd
    finally:
        if fd is not None:
            os.close(fd)


@contextmanager
def opened_file(
    path: str, parent: int, owner_only: bool, *, follow: bool = True
) -> Iterator[tuple[int, os.stat_result]]:
    """A regular file's descriptor and status, until the block ends.

    :param path: of the file; its last part is opened, all of it is for messages.
    :param parent: a descriptor of its directory.
    :param owner_only: refuse it if others than root can write to it.
    :param follow: whether it may be reached by a symbolic link of that name.
    :raises ConfigError: it is refused.
    :raises OSError: it cannot be opened.
    """
    flags = _FILE if follow else _FILE | os.O_NOFOLLOW
    fd = os.open(os.path.basename(path), flags, dir_fd=parent)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{path}: not a regular file")
        _check(status, path, owner_only)
        yield fd, status
    finally:
        os.close(fd)


def _read(directory: str, name: str, parent: int, owner_only: bool) -> tuple[str, str]:
    path = os.path.join(directory, name)
    try:
        with (
            opened_file(path, parent, owner_only) as (fd, _),
            open(fd, "rb", closefd=False) as file,
        ):
            return path, file.read().decode()
    except OSError as err:
        raise ConfigError(f"{path}: {err.strerror}") from err
    except UnicodeDecodeError as err:
        raise ConfigError(f"{path}: not UTF-8") from err


def signature(status: os.stat_result) -> tuple[int, ...]:
    """Differs if a file is another one, or has been written to since."""
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _check(status: os.stat_result, path: str, owner_only: bool) -> None:
    if not owner_only:
        return
    # Our own user's will not do: dnsmasq, which talks to guests, may run as that user.
    if status.st_uid != 0:
        raise ConfigError(
            f"{path}: belongs to uid {status.st_uid}, not to root",
            f"chown root {path}",
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mode = stat.S_IMODE(status.st_mode)
        raise ConfigError(
            f"{path}: others than root may write to it (mode {mode:04o})",
            f"chmod go-w {path}",
        )
