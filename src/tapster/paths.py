# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where a broker's socket is: the daemon makes it there, and clients look there."""

from __future__ import annotations

import os
import stat

from tapster.errors import BrokerUnavailable

SOCKET_NAME = "io.tapster.Broker"
SYSTEM_DIRECTORY = "/run/tapster"
SYSTEM_SOCKET = f"{SYSTEM_DIRECTORY}/{SOCKET_NAME}"


def runtime_directory() -> str:
    """The directory in which the rootless broker has its directory `tapster`.

    It is `$XDG_RUNTIME_DIR`, or else `/run/user/UID`, or else `/tmp/tapster-UID`,
    and may not exist yet.

    :raises BrokerUnavailable: it is the one in /tmp, where all users may write, and
        it belongs to somebody else or is open to others.
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
    """Whether the directory exists. One that does is this user's own.

    :param forbidden: mode bits that it must not have, such as 0o077.
    :raises BrokerUnavailable: it exists, and belongs to somebody else, is no
        directory, or has one of these bits.
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
