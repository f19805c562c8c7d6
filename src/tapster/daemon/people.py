# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names for people to read: whose uid that is, and who runs a helper.

No request is decided by any of it.
"""

from __future__ import annotations

import os
import pwd
import threading
import time

from ..kernel import process
from ..model import Peer

_LAST_ID = 2**32 - 2
_DIGITS = 10  # of an id; int() has a limit of its own, which is an error
NOBODYS = 2**32 - 1  # (gid_t)-1: no group has it

_user_names: dict[int, tuple[float, str]] = {}
_USER_NAME_SECONDS = 60.0
_PATIENCE = 0.25  # seconds that all requests wait for a name
_IMPATIENCE = 0.02  # the same where NSS is slow
_LOOKUPS = 4  # under way at a time, each in a thread of its own

_under_way: set[int] = set()  # uids


def user_name(uid: int) -> str:
    """The account's name, or the number if there is none; kept for a minute.

    NSS may ask far away, and take a minute to learn that nobody answers: till then
    it is the last name, or the number. A user may have thousands of uids, as by
    subuid(5), and each could have all others wait.
    """
    now = time.monotonic()
    kept = _user_names.get(uid)
    if kept is not None and now - kept[0] < _USER_NAME_SECONDS:
        return kept[1]
    if uid not in _under_way and len(_under_way) < _LOOKUPS:
        found = _look_up(uid, _IMPATIENCE if _under_way else _PATIENCE)
        if found is not None:
            return found
    return kept[1] if kept is not None else str(uid)


def _look_up(uid: int, patience: float) -> str | None:
    """What a thread finds out, if it does so in time."""
    done = threading.Event()

    def work() -> None:
        _user_names[uid] = time.monotonic(), _account_name(uid)
        _under_way.discard(uid)
        done.set()

    if len(_user_names) > 4096:
        _user_names.clear()
    _under_way.add(uid)
    try:
        # One that waits for NSS must not keep us from ending.
        threading.Thread(target=work, name="user", daemon=True).start()
    except RuntimeError:  # none can be had now
        _under_way.discard(uid)
        return None
    return _user_names[uid][1] if done.wait(patience) else None


def _account_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OSError):
        return str(uid)


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
