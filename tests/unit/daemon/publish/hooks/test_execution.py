# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hooks/execution.py`: what is read of a hook's output, and how it is fed.

How hooks start and are killed is shown by tests/kernel/test_hooks.py.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapster.daemon.publish.hooks import execution
from tapster.daemon.publish.hooks.execution import LINE, LINES, Lines
from tapster.errors import BrokerFailure


def lines_of(*data: bytes) -> tuple[list[str], str]:
    """The lines that are told of this output, and the last that says anything."""
    told: list[str] = []
    lines = Lines(told.append)
    for part in data:
        lines.feed(part)
    lines.finish()
    return told, lines.last


def test_output_is_told_in_whole_lines() -> None:
    assert lines_of(b"a\nb", b"c\n\n", b"d") == (["a", "bc", "d"], "d")
    assert lines_of() == ([], "")


def test_output_that_is_no_text_is_told_too() -> None:
    assert lines_of(b"\xff\x1b[2J\n")[0] == ["\\xff\x1b[2J"]


def test_lines_beyond_the_limit_are_counted() -> None:
    told, last = lines_of(b"x\n" * (LINES + 5) + b"last\n")
    assert told == ["x"] * LINES + ["... and 6 more lines"] and last == "last"


@given(st.lists(st.binary(max_size=4 * LINE), max_size=20))
def test_what_is_told_of_any_output_is_bounded(data: list[bytes]) -> None:
    told, last = lines_of(*data)
    assert len(told) <= LINES + 1
    assert all(len(line) <= 4 * LINE + 3 for line in [*told, last])
    assert "\n" not in "".join(told)


def test_a_line_without_an_end_is_not_kept() -> None:
    lines = Lines(lambda _: None)
    for _ in range(100):
        lines.feed(b"x" * 65536)
    assert len(lines._rest) <= LINE + 1


@pytest.mark.usefixtures("no_leaked_fd")
def test_a_pipe_that_is_too_small_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel makes such pipes for a user who has very many."""
    real = os.pipe2

    def small(flags: int) -> tuple[int, int]:
        ends = real(flags)
        fcntl.fcntl(ends[1], 1031, 4096)  # F_SETPIPE_SZ
        return ends

    monkeypatch.setattr(os, "pipe2", small)
    order = execution.Order("it", -1, "attach", {}, b"x" * 20_000, 1.0)
    nobody: Any = None
    with pytest.raises(BrokerFailure, match="does not take"):
        asyncio.run(execution.run(nobody, order, print))
