# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files as root's broker will look at them: read, and who else may write to them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from ...errors import ConfigError
from ..config.files import opened_directory, opened_file
from .findings import Finding, Severity

_BY_ROOT = "a broker that runs as root refuses it"


def read_file(path: str, owner_only: bool) -> bytes:
    """Read a file as the broker would.

    :param owner_only: refuse what others than root can write to.
    :raises ConfigError: it is refused, or cannot be read, or is not there.
    """
    directory = os.path.dirname(path) or "."
    try:
        with opened_directory(directory, None, os.O_PATH, owner_only) as parent:
            if parent is None:
                raise FileNotFoundError(2, os.strerror(2))
            with (
                opened_file(path, parent, owner_only) as (fd, _),
                open(fd, "rb", closefd=False) as file,
            ):
                return file.read()
    except OSError as err:
        raise ConfigError(f"{path}: {err.strerror}") from err


def other_owner(path: str, severity: Severity) -> Iterator[Finding]:
    """Why root's broker would refuse a file: others than root may write to it."""
    try:
        status = os.stat(path)
    except OSError:
        return
    if status.st_uid != 0:
        text = f"it belongs to uid {status.st_uid}, not to root"
        hint = f"chown root {path}"
    elif status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        text = f"others may write to it (mode {stat.S_IMODE(status.st_mode):04o})"
        hint = f"chmod go-w {path}"
    else:
        return
    yield Finding(severity, "refused-file", f"{text}: {_BY_ROOT}", path, hint=hint)
