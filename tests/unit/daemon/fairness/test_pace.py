# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.daemon.fairness.pace`: who is faster waits for it, and nobody else does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapster.daemon.fairness.pace import COSTS, LONGEST, Pace
from tapster.policy.config.load import Limits
from tapster.wire.interface import BrokerInterface


def test_a_burst_then_the_rate() -> None:
    pace = Pace(10, 5)
    assert [pace.wait(1, 1, 100.0) for _ in range(7)] == pytest.approx(
        [0, 0, 0, 0, 0, 0.1, 0.2]
    )
    assert pace.wait(1, 1, 100.3) == pytest.approx(0.0)
    assert pace.wait(1, 1, 200.0) == 0


def test_others_have_their_own() -> None:
    pace = Pace(1, 1)
    assert pace.wait(1, 1, 0.0) == 0
    assert pace.wait(1, 1, 0.0) == 1
    assert pace.wait(2, 1, 0.0) == 0


def test_root_and_what_costs_nothing_never_wait() -> None:
    pace = Pace(1, 1)
    assert {pace.wait(0, 25, 0.0) for _ in range(100)} == {0.0}
    assert {pace.wait(1, 0, 0.0) for _ in range(100)} == {0.0}
    assert len(pace) == 0


def test_who_would_wait_too_long_is_refused_and_pays_nothing() -> None:
    pace = Pace(1, 1)
    waits = [pace.wait(1, 1, 0.0) for _ in range(20)]
    assert waits[:11] == [*range(11)]
    assert set(waits[11:]) == {None}
    assert pace.wait(1, 1, 1.0) == LONGEST


def test_what_costs_more_than_a_bucket_holds_can_be_had() -> None:
    pace = Pace(1, 2)
    assert pace.wait(1, 25, 0.0) == 0
    assert pace.wait(1, 1, 0.0) is None
    assert pace.wait(1, 1, 20.0) == pytest.approx(4.0)


def test_memory_is_bounded_by_who_is_at_it() -> None:
    pace = Pace(10, 10, users=100)
    for uid in range(1, 10_000):
        pace.wait(uid, 1, uid * 0.01)
    assert len(pace) <= 111


@given(
    rate=st.integers(1, 1000),
    burst=st.integers(1, 1000),
    steps=st.lists(st.tuples(st.floats(0, 2), st.sampled_from([1.0, 5.0, 25.0]))),
)
def test_never_more_than_burst_and_rate(
    rate: int, burst: int, steps: list[tuple[float, float]]
) -> None:
    pace = Pace(rate, burst)
    now = spent = 0.0
    for pause, cost in steps:
        now += pause
        wait = pace.wait(1, cost, now)
        if wait is not None:
            spent += cost
            assert spent <= burst + rate * (now + wait) + cost + 1e-6


def test_every_call_that_costs_is_one() -> None:
    for name in COSTS:
        assert hasattr(BrokerInterface, name)


def test_no_honest_use_waits_by_default() -> None:
    """200 attaches at a time."""
    limits = Limits()
    pace = Pace(limits.requests_per_second, limits.requests_at_once)
    assert {pace.wait(1000, 1, 0.0) for _ in range(200)} == {0.0}
    assert limits.connections_per_user > 200
