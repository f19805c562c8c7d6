# SPDX-License-Identifier: LGPL-2.1-or-later
"""Functions of the C library that Python has none for, and their errno."""

from __future__ import annotations

import ctypes
import os
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
# A syscall(2) may return more than an int holds.
libc.syscall.restype = ctypes.c_long


def oserror(operation: str) -> OSError:
    """The calling thread's errno as an exception that names the call."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), operation)


def call(name: str, *arguments: Any) -> int:
    """Call a function that returns a negative number when it fails.

    :param name: of the function, which is in the message of a failure, too.
    :param arguments: as ctypes takes them.
    :returns: what the function returned.
    :raises OSError: it failed.
    """
    result: int = getattr(libc, name)(*arguments)
    if result < 0:
        raise oserror(name)
    return result
