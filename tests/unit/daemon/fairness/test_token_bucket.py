# SPDX-License-Identifier: LGPL-2.1-or-later
"""`daemon.fairness.token_bucket`: the arithmetic of a bucket per user."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapster.daemon.fairness.token_bucket import TokenBuckets


def test_a_full_bucket_gives_its_burst_at_once_and_then_its_rate() -> None:
    buckets = TokenBuckets(rate=2, burst=3)
    waits = []
    for _ in range(5):
        waits.append(buckets.wait(1, 10.0))
        buckets.take(1, 1, 10.0)
    assert waits == [0, 0, 0, 0.5, 1.0]


def test_more_than_a_bucket_holds_may_be_taken_and_is_waited_for_afterwards() -> None:
    buckets = TokenBuckets(rate=1, burst=2)
    buckets.take(1, 25, 0.0)
    assert buckets.wait(1, 0.0) == 24
    assert buckets.wait(2, 0.0) == 0


@settings(deadline=None)
@given(now=st.floats(0, 1e7), burst=st.integers(1, 300), rate=st.floats(0.5, 1000))
def test_rounding_costs_nobody_a_token(now: float, burst: int, rate: float) -> None:
    buckets = TokenBuckets(rate, burst)
    for _ in range(burst):
        assert buckets.wait(1, now) == 0.0
        buckets.take(1, 1, now)
    assert buckets.wait(1, now) == pytest.approx(1 / rate, abs=1e-5)


def test_full_buckets_are_forgotten_except_those_to_keep() -> None:
    buckets = TokenBuckets(rate=1, burst=2)
    for uid in (1, 2, 3):
        buckets.take(uid, uid, 0.0)
    buckets.forget_full(2.5, keep={1})
    assert [uid for uid in (1, 2, 3) if uid in buckets] == [1, 3]
    assert len(buckets) == 2
