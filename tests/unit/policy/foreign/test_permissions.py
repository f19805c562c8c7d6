# SPDX-License-Identifier: LGPL-2.1-or-later
"""POSIX ACLs are weighed as the kernel weighs them; for modes and owners see
`kernel/test_bridge_conf_differential.py`, which asks the kernel."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapster.policy.foreign.permissions import (
    READ,
    SEARCH,
    Reader,
    Undecidable,
    acl_permits,
)


def acl(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in entries)


NONE = 0xFFFFFFFF
BASE = [(1, 7, NONE), (2, 6, 1001), (4, 0, NONE), (8, 4, 2002), (16, 4, NONE)]


@pytest.mark.parametrize(
    ("reader", "want", "allowed"),
    [
        (Reader(1001, 1, frozenset()), READ, True),
        (Reader(1001, 1, frozenset()), SEARCH, False),
        (Reader(1002, 2002, frozenset()), READ, True),
        (Reader(1002, 1, frozenset({2002, 50})), READ, True),
        (Reader(1002, 50, frozenset()), READ, False),
        (Reader(1002, 1, frozenset()), READ, True),
    ],
)
def test_an_acl_is_weighed_as_the_kernel_weighs_it(
    reader: Reader, want: int, allowed: bool
) -> None:
    assert acl_permits(acl(*BASE, (32, 4, NONE)), 50, want, reader) == allowed


@given(st.binary() | st.binary().map(lambda b: b"\2\0\0\0" + b))
def test_a_broken_acl_is_undecidable_or_no_error(data: bytes) -> None:
    try:
        acl_permits(data, 50, READ, Reader(1001, 1, frozenset()))
    except Undecidable:
        pass
