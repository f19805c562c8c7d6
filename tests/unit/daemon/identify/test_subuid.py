# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.daemon.identify.subuid`: uids that are a user's besides his own."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapster.daemon.identify import subuid


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        ("", []),
        ("alice:100000:65536\n", [(100000, 165535)]),
        ("1000:5:1", [(5, 5)]),
        ("b:200:10\na:100:10\n", [(100, 109), (200, 209)]),
        ("a:100:10\nb:110:10\nc:105:3\n", [(100, 119)]),
        ("a:4294967290:65536\n", [(4294967290, 4294967294)]),
        ("a:1:0\n# a:1:2\na:1\na:x:1\na:-1:5\na:1:2:3\na:\u0661:1\n", []),
        (f"a:{'9' * 5000}:1\n", []),
    ],
)
def test_lines_are_read_as_ranges(text: str, ranges: list[tuple[int, int]]) -> None:
    if "# a:1:2" in text:  # a comment is a name that nobody has; it gives, too
        ranges = [(1, 2)]
    assert subuid.parse(text) == ranges


LINES = st.lists(
    st.builds(
        "{}:{}:{}".format,
        st.just("a"),
        st.integers(0, 60),
        st.integers(0, 20),
    )
)


@given(LINES)
def test_each_uid_is_in_the_ranges_that_lines_say(lines: list[str]) -> None:
    expected = set()
    for line in lines:
        _, first, count = line.split(":")
        expected |= {*range(int(first), int(first) + int(count))}
    ranges = subuid.parse("\n".join(lines))
    assert {u for a, b in ranges for u in range(a, b + 1)} == expected
    flat = [edge for pair in ranges for edge in pair]
    assert flat == sorted(flat)


@given(st.text())
def test_any_text_is_read_without_an_error(text: str) -> None:
    for first, last in subuid.parse(text):
        assert 0 <= first <= last < 2**32 - 1


def test_the_file_is_read_as_it_is_now(tmp_path: Path) -> None:
    path = tmp_path / "subuid"
    known = subuid.Subordinates(str(path))
    assert 100000 not in known
    path.write_text("a:100000:10\n")
    assert [u in known for u in (99999, 100000, 100009, 100010)] == [
        False, True, True, False
    ]  # fmt: skip
    path.write_text("a:100000:10\nb:300000:1\n")
    assert 300000 in known
    path.unlink()
    assert 100000 not in known


def test_ranges_hold_while_the_file_can_t_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    monkeypatch.setattr(subuid._log, "warning", lambda *words: told.append(words))
    path = tmp_path / "subuid"
    path.write_text("a:100000:10\n")
    known = subuid.Subordinates(str(path))
    assert 100000 in known
    path.unlink()
    path.mkdir()
    assert 100000 in known
    assert 100000 in known
    assert len(told) == 1
