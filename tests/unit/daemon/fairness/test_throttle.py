# SPDX-License-Identifier: LGPL-2.1-or-later
"""`daemon.fairness.throttle`: what is not logged is counted, in bounded memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tapster.daemon.fairness.throttle import OTHERS, Throttle


def test_a_burst_is_admitted_and_then_so_many_a_second() -> None:
    throttle = Throttle(burst=3, rate=2)
    assert [throttle.admits(1, 0.0) for _ in range(5)] == [True] * 3 + [False] * 2
    assert [throttle.admits(1, 1.0) for _ in range(3)] == [True, True, False]
    assert throttle.admits(2, 1.0)
    assert throttle.collect() == [(1, 3)]
    assert throttle.collect() == []
    assert [throttle.admits(1, 100.0) for _ in range(4)] == [True] * 3 + [False]


def test_buckets_are_bounded_and_the_others_share_one() -> None:
    throttle = Throttle(burst=2, rate=1, users=4)
    admitted = [throttle.admits(uid, 0.0) for uid in range(100)]
    assert admitted == [True] * 6 + [False] * 94
    assert len(throttle) == 5
    assert throttle.collect() == [(OTHERS, 94)]
    # Those that have been calm for long make room.
    assert throttle.admits(7, 10.0) and throttle.admits(8, 10.0)
    assert len(throttle) <= 5


@given(st.lists(st.tuples(st.integers(0, 20), st.floats(0, 5)), max_size=300))
def test_every_line_is_admitted_or_counted(asked: list[tuple[int, float]]) -> None:
    throttle = Throttle(burst=2, rate=0.5, users=3)
    now, admitted = 0.0, 0
    for uid, later in asked:
        now += later / 10
        admitted += throttle.admits(uid, now)
        assert len(throttle) <= 4
    counted = sum(count for _, count in throttle.collect())
    assert admitted + counted == len(asked)
