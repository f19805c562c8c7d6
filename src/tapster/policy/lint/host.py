# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the checks have to know of this host: its users, groups and Linux bridges.

The checks themselves ask nothing but a `Host`, so that they can be tested without one.
"""

from __future__ import annotations

import functools
import grp
import os
import pwd
import re
from collections.abc import Callable
from typing import NamedTuple

from ..config.values import NSS, Names


class Host(NamedTuple):
    """Answers about a host."""

    names: Names
    has_user: Callable[[int], bool]
    has_group: Callable[[int], bool]
    # Whether anybody is in a group; None where that cannot be told.
    has_members: Callable[[int], bool | None]
    # Whether an interface is a Linux bridge; None where no interface has the name.
    is_bridge: Callable[[str], bool | None]


def this_host() -> Host:
    """The host that this runs on. No name is looked up twice: a directory is slow."""
    return Host(
        Names(once(NSS.uid), once(NSS.gid)),
        has_user,
        has_group,
        has_members,
        is_bridge,
    )


def once(resolve: Callable[[str], int]) -> Callable[[str], int]:
    """Remember the answers of a lookup, KeyError included."""

    @functools.cache
    def found(name: str) -> int | None:
        try:
            return resolve(name)
        except (KeyError, ValueError):
            return None

    def answer(name: str) -> int:
        number = found(name)
        if number is None:
            raise KeyError(name)
        return number

    return answer


def has_user(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def has_group(gid: int) -> bool:
    try:
        grp.getgrgid(gid)
    except KeyError:
        return False
    return True


def has_members(gid: int) -> bool | None:
    """Whether anybody is in a group; None if that cannot be told.

    A directory service may have members that it does not list: LDAP servers often
    keep their users from being enumerated.
    """
    try:
        if grp.getgrgid(gid).gr_mem or gid in primary_groups():
            return True
    except KeyError:
        return None
    return False if is_enumerable() else None


@functools.cache
def primary_groups() -> frozenset[int]:
    """The groups that are some user's primary group, as far as users are listed."""
    if not is_enumerable():
        return frozenset()
    return frozenset(user.pw_gid for user in pwd.getpwall())


@functools.cache
def is_enumerable() -> bool:
    """Whether this host lists all its users and groups."""
    try:
        with open("/etc/nsswitch.conf", encoding="utf-8", errors="replace") as file:
            return lists_all(file.read())
    except FileNotFoundError:
        return True  # files are the default
    except OSError:
        return False


def lists_all(nsswitch: str) -> bool:
    """Whether, by nsswitch.conf(5), users and groups are all in files."""
    for line in nsswitch.splitlines():
        database, colon, services = line.partition("#")[0].partition(":")
        if colon and database.strip() in ("passwd", "group", "initgroups"):
            names = re.sub(r"\[.*?\]", " ", services).split()
            if not {"files", "systemd"}.issuperset(names):
                return False
    return True


def is_bridge(name: str) -> bool | None:
    """Whether an interface is a Linux bridge; None if no interface has the name."""
    if "/" in name or "\0" in name or name in ("", ".", ".."):
        return None
    device = f"/sys/class/net/{name}"
    if not os.path.exists(device):
        return None
    return os.path.isdir(f"{device}/bridge")
