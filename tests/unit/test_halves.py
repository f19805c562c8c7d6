# SPDX-License-Identifier: LGPL-2.1-or-later
"""tools/halves.py: every test file in one half, and both as long."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

import halves

FILES = st.lists(st.sampled_from([f"tests/unit/test_{n}.py" for n in range(30)]))
SECONDS = st.dictionaries(
    st.sampled_from([f"tests/unit/test_{n}.py" for n in range(30)]),
    st.floats(0, 100),
)


@given(FILES, SECONDS)
def test_each_file_is_in_one_half(files: list[str], known: dict[str, float]) -> None:
    first, second = halves.divide(set(files), known)
    assert sorted(first + second) == sorted(set(files))
    assert first == sorted(first)


@given(st.lists(st.floats(0, 100), min_size=1))
def test_the_halves_differ_by_less_than_the_longest_file(times: list[float]) -> None:
    known = {f"tests/unit/test_{n}.py": time for n, time in enumerate(times)}
    totals = [sum(known[file] for file in half) for half in halves.divide(known, known)]
    assert abs(totals[0] - totals[1]) <= max(times) + 1e-6


def test_guests_stay_together_as_they_share_an_image() -> None:
    files = [f"tests/guest/test_{n}.py" for n in range(5)] + ["tests/unit/test_a.py"]
    assert files[:5] in halves.divide(files, {})


def test_a_file_that_was_never_measured_counts_as_much_as_others() -> None:
    known = {"tests/unit/test_a.py": 2.0, "tests/unit/test_b.py": 4.0}
    divided = halves.divide([*known, "tests/unit/test_c.py"], known)
    assert ["tests/unit/test_b.py"] in divided


def test_a_test_s_file_is_found_in_a_report(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(
        "<testsuites><testsuite>"
        '<testcase classname="tests.unit.test_halves" name="a" time="0.25"/>'
        '<testcase classname="tests.unit.test_halves.TestB" name="c" time="1.5"/>'
        '<testcase classname="" name="tests.unit.test_gone" time="0.0"/>'
        "</testsuite></testsuites>"
    )
    assert halves.measured(report) == {"tests/unit/test_halves.py": 1.75}
