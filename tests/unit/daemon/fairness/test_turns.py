# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.daemon.fairness.turns`: who asks for much waits for himself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapster.daemon.fairness import turns as module
from tapster.daemon.fairness.turns import Turns

Done = list[tuple[int, int]]


def run(body: Callable[[Turns, Done], Awaitable[None]], running: int = 4) -> Done:
    done: Done = []

    async def whole() -> None:
        await asyncio.wait_for(body(Turns(running), done), 10)

    asyncio.run(whole())
    return done


def piece(done: Done, uid: int, number: int) -> Callable[[], None]:
    return lambda: done.append((uid, number))


@pytest.fixture
def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if each piece took all the time that there is in a turn of the loop."""
    monkeypatch.setattr(module, "SLICE", 0.0)
    yield


async def idle(turns: Turns) -> None:
    while len(turns):
        await asyncio.sleep(0)
    await asyncio.sleep(0)


def test_who_is_alone_waits_for_nobody() -> None:
    async def body(turns: Turns, done: Done) -> None:
        turns.ask(1, piece(done, 1, 0))
        assert done == [(1, 0)]
        await idle(turns)
        turns.ask(1, piece(done, 1, 1))
        assert done == [(1, 0), (1, 1)]

    run(body)


def test_users_take_turns(one_at_a_time: None) -> None:
    async def body(turns: Turns, done: Done) -> None:
        for number in range(50):
            turns.ask(1, piece(done, 1, number))
        turns.ask(2, piece(done, 2, 0))
        turns.ask(3, piece(done, 3, 0))
        turns.ask(2, piece(done, 2, 1))
        await idle(turns)

    done = run(body)
    assert done[0] == (1, 0)
    assert set(done[1:4]) == {(1, 1), (2, 0), (3, 0)}
    assert (2, 1) in done[:6]
    assert [number for uid, number in done if uid == 1] == list(range(50))


def test_one_piece_then_the_loop_has_its_turn(one_at_a_time: None) -> None:
    async def body(turns: Turns, done: Done) -> None:
        for number in range(10):
            turns.ask(1, piece(done, 1, number))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert 1 < len(done) < 5
        turns.ask(2, piece(done, 2, 0))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (2, 0) in done
        await idle(turns)

    run(body)


def test_several_pieces_if_they_are_quick() -> None:
    async def body(turns: Turns, done: Done) -> None:
        for number in range(10):
            turns.ask(1, piece(done, 1, number))
        loop_turns = 0
        while len(done) < 10:
            await asyncio.sleep(0)
            loop_turns += 1
        assert loop_turns < 5

    run(body)


def test_what_runs_on_is_limited_for_each_user() -> None:
    async def body(turns: Turns, done: Done) -> None:
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in range(6)]

        def begin(number: int) -> Callable[[], asyncio.Future[None]]:
            def work() -> asyncio.Future[None]:
                done.append((1, number))
                return futures[number]

            return work

        for number in range(6):
            turns.ask(1, begin(number))
        turns.ask(2, piece(done, 2, 0))
        for _ in range(5):
            await asyncio.sleep(0)
        assert [n for uid, n in done if uid == 1] == [0, 1, 2, 3]
        assert (2, 0) in done
        assert len(turns) == 2
        futures[2].set_result(None)
        for _ in range(5):
            await asyncio.sleep(0)
        assert [n for uid, n in done if uid == 1] == [0, 1, 2, 3, 4]
        for future in futures:
            if not future.done():
                future.set_result(None)
        await idle(turns)
        assert [n for uid, n in done if uid == 1] == list(range(6))
        assert not turns._running

    run(body)


def test_work_that_fails_stops_nobody() -> None:
    failures = []

    async def body(turns: Turns, done: Done) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: failures.append(context))

        def fail() -> None:
            raise RuntimeError("as may happen")

        turns.ask(1, piece(done, 1, 0))
        turns.ask(1, fail)
        turns.ask(1, piece(done, 1, 1))
        turns.ask(2, piece(done, 2, 0))
        await idle(turns)

    assert sorted(run(body)) == [(1, 0), (1, 1), (2, 0)]
    assert len(failures) == 1


@given(
    asked=st.lists(st.tuples(st.integers(1, 4), st.booleans(), st.booleans())),
    running=st.integers(1, 3),
)
def test_all_is_done_once_and_in_order(
    asked: list[tuple[int, bool, bool]], running: int
) -> None:
    async def body(turns: Turns, done: Done) -> None:
        loop = asyncio.get_running_loop()
        busy = dict.fromkeys(range(1, 5), 0)

        def begin(uid: int, number: int, lasts: bool) -> asyncio.Future[None] | None:
            done.append((uid, number))
            if not lasts:
                return None
            future = loop.create_future()
            busy[uid] += 1
            assert busy[uid] <= running

            def end() -> None:
                busy[uid] -= 1
                future.set_result(None)

            loop.call_soon(loop.call_soon, end)
            return future

        for number, (uid, lasts, pause) in enumerate(asked):
            turns.ask(uid, lambda u=uid, n=number, x=lasts: begin(u, n, x))  # type: ignore[misc]
            if pause:
                await asyncio.sleep(0)
        while len(turns) or any(busy.values()):
            await asyncio.sleep(0)

    done = run(body, running)
    assert len(done) == len(asked)
    for uid in range(1, 5):
        numbers = [number for who, number in done if who == uid]
        assert numbers == sorted(numbers)


def test_a_turn_of_the_loop_is_short() -> None:
    """Many pieces that take their time do not keep the loop."""

    async def body(turns: Turns, done: Done) -> None:
        def work() -> None:
            time.sleep(module.SLICE)
            done.append((1, 0))

        for _ in range(20):
            turns.ask(1, work)
        before = len(done)
        await asyncio.sleep(0)
        assert len(done) - before <= 2
        await idle(turns)

    run(body)
