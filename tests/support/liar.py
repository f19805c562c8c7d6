# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process that says of itself what is not so."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

_SCRIPT = """
import ctypes, struct
fields = open("/proc/self/stat").read().rpartition(")")[2].split()
stat = lambda number: int(fields[number - 3])  # as proc(5) numbers them
libc = ctypes.CDLL(None)
libc.mmap.restype = libc.sbrk.restype = ctypes.c_void_p
begin = libc.mmap(None, ctypes.c_size_t({size}), 3, 0x4022, -1, 0)  # of zeros
layout = struct.pack(  # struct prctl_mm_map
    "11QQIi",
    *(stat(number) for number in (26, 27, 45, 46, 47)),  # code, data, heap
    *(libc.sbrk(0), stat(28)),  # stack
    *(begin, begin + {size}),  # the command line
    *(begin, begin + {size}),  # the environment
    *(0, 0, -1),
)
print(libc.prctl(35, 14, layout, len(layout), 0), flush=True)  # PR_SET_MM_MAP
input()
"""


@contextmanager
def claiming_to_be_large(size: int) -> Iterator[int]:
    """A process that says that its command line and its environment are large.

    :param size: bytes of each.
    :returns: its pid.
    """
    with subprocess.Popen(
        [sys.executable, "-c", _SCRIPT.format(size=size)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            assert running.stdout is not None
            if running.stdout.readline() != "0\n":
                pytest.skip("this kernel has no PR_SET_MM_MAP")
            yield running.pid
        finally:
            running.kill()
