# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names for people to read: whose uid that is, and who runs a helper.

No request is decided by any of it.
"""

from __future__ import annotations

import os
import pwd
import time

from ..kernel import process
from ..model import Peer

_LAST_ID = 2**32 - 2
_DIGITS = 10  # of an id; int() has a limit of its own, which is an error
NOBODYS = 2**32 - 1  # (gid_t)-1: no group has it

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


def account(user: str) -> Peer | None:
    """Who a user would be after logging in, by name or number; None: nobody. It
    has no process, so no request is its own. NSS may take its time."""
    try:
        found = pwd.getpwnam(user)
    except (KeyError, ValueError):
        if not (user.isascii() and user.isdecimal() and len(user) <= _DIGITS):
            return None
        if int(user) > _LAST_ID:
            return None
        try:
            found = pwd.getpwuid(int(user))
        except KeyError:  # rules may be about it all the same
            return Peer(int(user), NOBODYS, frozenset(), 0)
    groups = os.getgrouplist(found.pw_name, found.pw_gid)
    return Peer(found.pw_uid, found.pw_gid, frozenset(groups), 0)


def holder_above(pid: int) -> int:
    """Who runs a helper: its parent, or, where QEMU ran it through a shell,
    the shell's."""
    above = process.parent(pid) or pid
    if process.command_name(above) == "sh":
        above = process.parent(above) or above
    return above
