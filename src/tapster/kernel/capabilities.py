# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a process may do, and how it gives that up: capabilities(7).

Everything here changes the calling thread, and what it starts afterwards. Call it while
the process has one thread.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Collection

from . import process
from .libc import call

CHOWN = 0
DAC_READ_SEARCH = 2
KILL = 5
SETGID = 6
SETUID = process.CAP_SETUID
SETPCAP = 8
NET_BIND_SERVICE = process.CAP_NET_BIND_SERVICE
NET_ADMIN = process.CAP_NET_ADMIN
NET_RAW = process.CAP_NET_RAW
SYS_PTRACE = 19

_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_AMBIENT_CLEAR_ALL = 4
_VERSION_3 = 0x20080522


def mask(numbers: Collection[int]) -> int:
    """The bit mask of a set of capabilities."""
    return sum(1 << number for number in set(numbers))


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2), of the calling thread.

    :param effective: bit mask of the set that is in force.
    :param permitted: bit mask of the set that may be in force.
    :param inheritable: bit mask of the set that a program we start can have.
    :raises OSError: the kernel refused.
    """
    sets = effective, permitted, inheritable
    low, high = ([each >> shift & 0xFFFFFFFF for each in sets] for shift in (0, 32))
    header = struct.pack("Ii", _VERSION_3, 0)
    call("capset", header, struct.pack("6I", *low, *high))


def bound(numbers: Collection[int]) -> bool:
    """Keep programs that are started from now on from getting any other capability.

    :returns: False if we may not do that, without CAP_SETPCAP.
    """
    for number in range(64):
        if number in numbers:
            continue
        try:
            process.prctl(_PR_CAPBSET_DROP, number)
        except OSError as err:
            if err.errno == errno.EPERM:
                return False
            break  # beyond the last that this kernel knows
    return True


def keep(numbers: Collection[int], programs: Collection[int] = ()) -> None:
    """Have these capabilities and no others, for good.

    :param numbers: CAP_*; each must be held.
    :param programs: those of them that a program has which we start, although it is
        not root.
    :raises OSError: one of them is not held.
    """
    capset(mask(numbers), mask(numbers), mask(programs))
    process.prctl(process.PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL)
    for number in programs:
        process.prctl(process.PR_CAP_AMBIENT, process.PR_CAP_AMBIENT_RAISE, number)
