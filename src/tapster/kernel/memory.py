# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the C library's allocator keeps of memory that was given back: mallopt(3)."""

from __future__ import annotations

import ctypes

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # malloc.h
_LARGE = 128 * 1024  # bytes


def keep_little() -> None:
    """Of what a process needs for a moment only, or in threads that end.

    By default each thread begins a heap of its own, which is not wanted where one
    thread at a time runs Python; and after the first large piece that is freed others
    of its size are cut from the heap, which holes keep from shrinking. A C library
    that knows no mallopt() is left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
