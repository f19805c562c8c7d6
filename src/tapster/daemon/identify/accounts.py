# SPDX-License-Identifier: LGPL-2.1-or-later
"""What NSS knows of accounts: their names, for people to read, and their groups,
which a process may have left. NSS may be slow, and no request waits long for it."""

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
    """A uid's name, None if it has none or none is known; and its groups, None if
    they are not known."""

    name: str | None
    groups: frozenset[int] | None


_LAST_ID = 2**32 - 2
_DIGITS = 10  # of an id; int() raises ValueError where there are thousands
INVALID_GID = 2**32 - 1  # (gid_t)-1: no group has it

_SECONDS = 60.0  # that what NSS said is kept
_PATIENCE = 0.25  # seconds to wait for NSS; all requests wait meanwhile
_IMPATIENCE = 0.02  # seconds to wait while NSS has not answered an earlier question
_LOOKUPS = 4  # under way at a time, each in a thread of its own

_accounts: dict[int, tuple[float, Account]] = {}  # by uid; with when NSS said it
_under_way: set[int] = set()  # uids that NSS is asked about


def user_name(uid: int) -> str:
    """The account's name; the number if it has none, or none is known."""
    return account_of(uid).name or str(uid)


def account_of(uid: int) -> Account:
    """What NSS knows of a uid, kept for a minute.

    NSS may ask another host, and take a minute to find out that it does not answer:
    until then this is what was known last, or nothing. A user may have thousands of
    uids by subuid(5), so the number of lookups at a time is limited, too: each could
    make all other requests wait.
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
    """Have a thread ask NSS.

    :param patience: seconds to wait for it.
    :returns: what it found out; None if that takes longer.
    """
    done = threading.Event()

    def work() -> None:
        _accounts[uid] = time.monotonic(), _ask(uid)
        _under_way.discard(uid)
        done.set()

    if len(_accounts) > 4096:
        _accounts.clear()
    _under_way.add(uid)
    try:
        # A daemon thread: one that waits for NSS does not keep the broker from ending.
        threading.Thread(target=work, name="user", daemon=True).start()
    except RuntimeError:  # no thread can be had now
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
    """Who a user would be after logging in. This `Peer` has no process, so no request
    is its own. NSS may take its time.

    :param user: a name or a number.
    :returns: None if there is no such user.
    """
    try:
        found = pwd.getpwnam(user)
    except (KeyError, ValueError):
        if not (user.isascii() and user.isdecimal() and len(user) <= _DIGITS):
            return None
        if int(user) > _LAST_ID:
            return None
        try:
            found = pwd.getpwuid(int(user))
        except KeyError:  # a uid without an account, which rules may be about
            uid = int(user)
            subordinate = is_subordinate(uid)
            return Peer(uid, INVALID_GID, frozenset(), 0, subordinate=subordinate)
    return Peer(found.pw_uid, found.pw_gid, _groups_of(found), 0)


def vmm_of_helper(pid: int) -> int:
    """The process that runs a bridge helper: the helper's parent; or, where QEMU ran
    it through a shell, the shell's parent.

    :param pid: the helper's.
    """
    above = process.parent(pid) or pid
    if process.command_name(above) == "sh":
        above = process.parent(above) or above
    return above
