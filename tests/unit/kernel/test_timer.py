# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.kernel.timer`: it ends at its time, once, and not before."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator

import pytest

from tapster.kernel.timer import Timer

SOON = 0.01  # seconds


@pytest.fixture
def timer() -> Iterator[Timer]:
    made = Timer()
    yield made
    made.close()


def ended(timer: Timer, timeout: float = 0.0) -> bool:
    return bool(select.select([timer], [], [], timeout)[0])


def test_a_timer_that_is_not_set_never_ends(timer: Timer) -> None:
    assert not ended(timer)
    timer.clear()


def test_timer_ends_on_time_and_not_before(timer: Timer) -> None:
    moment = time.monotonic() + SOON
    timer.set(moment)
    assert ended(timer, 10)
    assert time.monotonic() >= moment


@pytest.mark.parametrize("moment", [-1.0, 0.0, 1e-12])
def test_timer_set_to_the_past_ends_at_once(timer: Timer, moment: float) -> None:
    timer.set(moment)
    assert ended(timer, 10)


def test_timer_that_is_set_again_forgets_the_first_time(timer: Timer) -> None:
    timer.set(0.0)
    timer.set(time.monotonic() + 3600)
    assert not ended(timer, SOON)


def test_timer_that_was_cleared_can_be_set_again(timer: Timer) -> None:
    timer.set(0.0)
    assert ended(timer, 10)
    timer.clear()
    assert not ended(timer)
    timer.set(0.0)
    assert ended(timer, 10)


def test_timer_closed_twice_closes_its_descriptor_once(timer: Timer) -> None:
    timer.close()
    assert timer.fileno() == -1
    timer.close()
