# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names for people to read: whose uid that is, and who runs a helper.

Nothing is decided by any of it.
"""

from __future__ import annotations

import pwd
import time

from ..kernel import process

_user_names: dict[int, tuple[float, str]] = {}
_USER_NAME_SECONDS = 60.0


def user_name(uid: int) -> str:
    """The account's name, or the number if there is none; kept for a minute,
    as NSS may have to ask far away."""
    now = time.monotonic()
    kept = _user_names.get(uid)
    if kept is not None and now - kept[0] < _USER_NAME_SECONDS:
        return kept[1]
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    if len(_user_names) > 4096:
        _user_names.clear()
    _user_names[uid] = now, name
    return name


def holder_above(pid: int) -> int:
    """Who runs a helper: its parent, or, where QEMU ran it through a shell,
    the shell's."""
    above = process.parent(pid) or pid
    if process.command_name(above) == "sh":
        above = process.parent(above) or above
    return above
