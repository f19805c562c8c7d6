# SPDX-License-Identifier: LGPL-2.1-or-later
"""Accounts, as NSS has them: names for people to read, and groups that a process
may have left; and who runs a helper."""

from __future__ import annotations

import os
import pwd
import threading
import time
from typing import NamedTuple

from ...kernel import process
from ...model import Peer
from .subuid import is_subordinate


class Account(NamedTuple):
    """A uid's name, None if it has none; and its groups, None if that is not known."""

    name: str | None
    groups: frozenset[int] | None


_LAST_ID = 2**32 - 2
_DIGITS = 10  # of an id; int() has a limit of its own, which is an error
INVALID_GID = 2**32 - 1  # (gid_t)-1: no group has it

_accounts: dict[int, tuple[float, Account]] = {}
_SECONDS = 60.0  # that they are good for
_PATIENCE = 0.25  # seconds that all requests wait for NSS
_IMPATIENCE = 0.02  # the same where it is slow
_LOOKUPS = 4  # under way at a time, each in a thread of its own

_under_way: set[int] = set()  # uids


def user_name(uid: int) -> str:
    """The account's name, or the number if there is none, or none is known."""
    return account_of(uid).name or str(uid)


def account_of(uid: int) -> Account:
    """What NSS has about a uid, kept for a minute.

    NSS may ask far away, and take a minute to learn that nobody answers: till then
    it is what was known last, or nothing. A user may have thousands of uids, as by
    subuid(5), and each could have all others wait.
    """
    now = time.monotonic()
    kept = _accounts.get(uid)
    if kept is not None and now - kept[0] < _SECONDS:
        return kept[1]
    if uid not in _under_way and len(_under_way) < _LOOKUPS:
        found = _look_up(uid, _IMPATIENCE if _under_way else _PATIENCE)
        if found is not None:
            return found
    return kept[1] if kept is not None else Account(None, None)


def _look_up(uid: int, patience: float) -> Account | None:
    """What a thread finds out, if it does so in time."""
    done = threading.Event()

    def work() -> None:
        _accounts[uid] = time.monotonic(), _ask(uid)
        _under_way.discard(uid)
        done.set()

    if len(_accounts) > 4096:
        _accounts.clear()
    _under_way.add(uid)
    try:
        # One that waits for NSS must not keep us from ending.
        threading.Thread(target=work, name="user", daemon=True).start()
    except RuntimeError:  # none can be had now
        _under_way.discard(uid)
        return None
    return _accounts[uid][1] if done.wait(patience) else None


def _ask(uid: int) -> Account:
    try:
        found = pwd.getpwuid(uid)
        return Account(found.pw_name, _groups_of(found))
    except KeyError:
        return Account(None, frozenset())
    except (OSError, ValueError):
        return Account(None, None)


def _groups_of(found: pwd.struct_passwd) -> frozenset[int]:
    return frozenset(os.getgrouplist(found.pw_name, found.pw_gid))


def peer_after_login(user: str) -> Peer | None:
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
            uid = int(user)
            subordinate = is_subordinate(uid)
            return Peer(uid, INVALID_GID, frozenset(), 0, subordinate=subordinate)
    return Peer(found.pw_uid, found.pw_gid, _groups_of(found), 0)


def vmm_of_helper(pid: int) -> int:
    """Who runs a helper: its parent, or, where QEMU ran it through a shell,
    the shell's."""
    above = process.parent(pid) or pid
    if process.command_name(above) == "sh":
        above = process.parent(above) or above
    return above
