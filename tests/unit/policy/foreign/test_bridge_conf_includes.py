# SPDX-License-Identifier: LGPL-2.1-or-later
"""How much of bridge.conf and its includes one request may read."""

from __future__ import annotations

import pytest

from tapster.policy.foreign import bridge_conf_includes
from tapster.policy.foreign.access import Contents
from tapster.policy.foreign.bridge_conf_includes import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_FILES,
    MAX_LINES,
    IncludeReader,
)
from tapster.policy.foreign.permissions import Undecidable


def reader(data: bytes = b"") -> IncludeReader:
    return IncludeReader(lambda path, _: Contents(data, (1, len(path))))


def test_each_file_is_read_with_what_the_others_left() -> None:
    limits = []

    def load(_path: bytes, limit: int) -> Contents:
        limits.append(limit)
        return Contents(b"x" * 1000, (1, 1))

    files = IncludeReader(load)
    files.load(b"/m")
    files.load(b"/x")
    assert limits == [MAX_BYTES, MAX_BYTES - 1000]


def test_files_are_counted_even_those_that_are_missing() -> None:
    def load(_path: bytes, _limit: int) -> Contents:
        raise FileNotFoundError

    files = IncludeReader(load)
    for _ in range(MAX_FILES):
        with pytest.raises(FileNotFoundError):
            files.load(b"/gone")
    with pytest.raises(Undecidable, match="1024 files"):
        files.load(b"/gone")


def test_lines_of_all_files_are_counted_together() -> None:
    files = reader(b"\n" * (MAX_LINES // 2 - 1))
    files.load(b"/m")
    files.load(b"/x")
    with pytest.raises(Undecidable, match="16384 lines"):
        files.load(b"/y")


def test_a_file_may_come_twice_but_not_within_itself() -> None:
    files = reader()
    for _ in range(2):
        files.enter((1, 1))
        assert files.depth == 1
        files.leave()
    files.enter((1, 1))
    files.enter((1, 2))
    with pytest.raises(Undecidable, match="includes itself"):
        files.enter((1, 1))


def test_includes_are_so_deep_and_no_deeper() -> None:
    files = reader()
    for inode in range(MAX_DEPTH):
        files.enter((1, inode))
    with pytest.raises(Undecidable, match=f"{MAX_DEPTH} files deep"):
        files.enter((1, MAX_DEPTH))
    assert files.depth == bridge_conf_includes.MAX_DEPTH
