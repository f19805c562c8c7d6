# SPDX-License-Identifier: LGPL-2.1-or-later
"""`audit.deadlines`: what is due is done at its time and in its order, and the time
does not depend on when it was asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tapster.daemon.audit.deadlines import Deadlines

pytestmark = pytest.mark.usefixtures("no_leaked_fd")


def run(body: Callable[[Deadlines], Awaitable[None]]) -> None:
    async def whole() -> None:
        deadlines = Deadlines()
        try:
            await body(deadlines)
        finally:
            deadlines.close()

    asyncio.run(whole())


def test_deadlines_are_never_early_and_in_their_order() -> None:
    async def body(deadlines: Deadlines) -> None:
        loop = asyncio.get_running_loop()
        start, ended = loop.time(), list[tuple[int, bool]]()

        async def wait(number: int, moment: float) -> None:
            await deadlines.until(moment)
            ended.append((number, loop.time() >= moment))

        times = (0.03, 0.0, 0.0105, 0.02, -1.0, 0.0104)
        await asyncio.gather(*(wait(n, start + t) for n, t in enumerate(times)))
        assert sorted(ended[:2]) == [(1, True), (4, True)]
        assert ended[2:] == [(5, True), (2, True), (3, True), (0, True)]

    run(body)


def test_the_fraction_of_a_millisecond_tells_nothing() -> None:
    """asyncio.sleep() ends a whole number of milliseconds after it began. Of many
    waits that began anywhere within one, the best ends closer than that."""

    async def body(deadlines: Deadlines) -> None:
        loop = asyncio.get_running_loop()
        late = []
        for number in range(60):
            moment = loop.time() + 0.0051 + number * 0.00003
            await deadlines.until(moment)
            late.append(loop.time() - moment)
        assert min(late) >= 0
        assert sorted(late)[len(late) // 4] < 0.0005

    run(body)


def test_a_wait_that_is_cancelled_ends_no_other() -> None:
    async def body(deadlines: Deadlines) -> None:
        loop = asyncio.get_running_loop()
        first = asyncio.ensure_future(deadlines.until(loop.time() + 0.01))
        second = asyncio.ensure_future(deadlines.until(loop.time() + 0.012))
        await asyncio.sleep(0)
        first.cancel()
        await second
        assert first.cancelled()

    run(body)


def test_a_call_that_fails_keeps_no_other_from_being_made() -> None:
    async def body(deadlines: Deadlines) -> None:
        loop = asyncio.get_running_loop()
        failures = list[Any]()
        loop.set_exception_handler(lambda _, context: failures.append(context))
        moment = loop.time() + 0.005
        deadlines.call_at(moment, lambda: 1 // 0)
        await deadlines.until(moment)
        assert len(failures) == 1

    run(body)


def test_deadlines_that_were_closed_may_be_used_again() -> None:
    async def body(deadlines: Deadlines) -> None:
        loop = asyncio.get_running_loop()
        lost = asyncio.ensure_future(deadlines.until(loop.time() + 60))
        await asyncio.sleep(0)
        deadlines.close()
        await deadlines.until(loop.time() + 0.005)
        lost.cancel()

    run(body)
