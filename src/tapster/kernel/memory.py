# SPDX-License-Identifier: LGPL-2.1-or-later
"""How much freed memory the C library's allocator keeps: mallopt(3)."""

from __future__ import annotations

from .libc import libc

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # malloc.h
_LARGE = 128 * 1024  # bytes


def limit_malloc_arenas() -> None:
    """Make malloc return freed memory: one arena, and mmap for blocks over 128 KiB.

    By default each thread gets an arena of its own, which is no use where only one
    thread at a time runs Python. By default, too, malloc raises its mmap threshold
    when the first large block is freed; later blocks of that size come from the heap,
    and the holes that they leave keep it from shrinking. Nothing happens where the C
    library has no mallopt().
    """
    mallopt = getattr(libc, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
