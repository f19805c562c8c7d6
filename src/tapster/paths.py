# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where a broker's socket is: what clients look for and the daemon makes."""

from __future__ import annotations

import os
import stat

from tapster.errors import BrokerUnavailable

SOCKET_NAME = "io.tapster.Broker"
SYSTEM_DIRECTORY = "/run/tapster"
SYSTEM_SOCKET = f"{SYSTEM_DIRECTORY}/{SOCKET_NAME}"


def runtime_directory() -> str:
    """Where the rootless broker's directory `tapster` is; it may not exist yet.

    `$XDG_RUNTIME_DIR`, or `/run/user/UID`, or `/tmp/tapster-UID`.

    :raises BrokerUnavailable: the last, in a place where all users may write, is
        there and is somebody else's or open to others.
    """
    path = os.environ.get("XDG_RUNTIME_DIR", "")
    if path.startswith("/"):
        return path
    uid = os.geteuid()
    path = f"/run/user/{uid}"
    try:
        status = os.lstat(path)
        if stat.S_ISDIR(status.st_mode) and status.st_uid == uid:
            return path
    except OSError:
        pass
    path = f"/tmp/tapster-{uid}"  # noqa: S108
    is_private(path, 0o077)
    return path


def is_private(path: str, forbidden: int) -> bool:
    """Whether the directory exists; if so it is ours and lacks these mode bits.

    :raises BrokerUnavailable: it is not.
    """
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise BrokerUnavailable(f"{path}: {error.strerror}") from None
    if (
        stat.S_ISDIR(status.st_mode)
        and status.st_uid == os.geteuid()
        and not status.st_mode & forbidden
    ):
        return True
    raise BrokerUnavailable(
        f"{path} is not a private directory of this user",
        "remove it, or set XDG_RUNTIME_DIR",
    )
