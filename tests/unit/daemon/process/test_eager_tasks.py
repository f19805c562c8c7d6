# SPDX-License-Identifier: LGPL-2.1-or-later
"""`daemon.process.eager_tasks`: tasks that start at once are tasks in all else.

Each test runs with the factory that the daemon uses on this Python: the project's
own on 3.11, the standard library's later.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from tapster.daemon.process import eager_tasks

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


@pytest.fixture
def run() -> Run:
    def run_it(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def with_factory() -> None:
            eager_tasks.install(asyncio.get_running_loop())
            # where calls come from in the daemon: no task is current
            done = asyncio.Event()

            def start() -> None:
                task = asyncio.ensure_future(main())
                tasks.append(task)
                task.add_done_callback(lambda _: done.set())

            tasks: list[asyncio.Future[None]] = []
            asyncio.get_running_loop().call_soon(start)
            async with asyncio.timeout(5):
                await done.wait()
            tasks[0].result()

        asyncio.run(with_factory())

    return run_it


def soon(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_task(coroutine)


def test_what_never_waits_is_done_at_once(run: Run) -> None:
    async def answer() -> int:
        return 42

    async def main() -> None:
        task = soon(answer())
        assert task.done()
        assert task.result() == 42
        assert await task == 42

    run(main)


def test_each_task_runs_until_it_waits_and_then_in_order(run: Run) -> None:
    log: list[str] = []

    async def worker(name: str) -> None:
        log.append(f"{name}1")
        await asyncio.sleep(0)
        log.append(f"{name}2")

    async def main() -> None:
        one, two = soon(worker("a")), soon(worker("b"))
        assert log == ["a1", "b1"]
        await asyncio.gather(one, two)
        assert log == ["a1", "b1", "a2", "b2"]

    run(main)


def test_a_result_and_an_exception_at_once(run: Run) -> None:
    async def fail() -> None:
        raise LookupError("at once")

    async def main() -> None:
        with pytest.raises(LookupError, match="at once"):
            await soon(fail())

    run(main)


def test_a_result_and_an_exception_later(run: Run) -> None:
    async def later(future: asyncio.Future[int]) -> int:
        return await future + 1

    async def main() -> None:
        loop = asyncio.get_running_loop()
        good, bad = loop.create_future(), loop.create_future()
        one, two = soon(later(good)), soon(later(bad))
        good.set_result(1)
        bad.set_exception(LookupError("later"))
        assert await one == 2
        with pytest.raises(LookupError, match="later"):
            await two

    run(main)


def test_a_task_may_wait_many_times(run: Run) -> None:
    async def count() -> int:
        total = 0
        for number in range(100):
            future = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(future.set_result, number)
            total += await future
        return total

    async def main() -> None:
        assert await soon(count()) == 4950

    run(main)


def test_threads_and_timeouts_work(run: Run) -> None:
    async def main() -> None:
        assert await soon(asyncio.to_thread(lambda: 7)) == 7
        never = asyncio.get_running_loop().create_future()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(never, 0.001)
        assert never.cancelled()

    run(main)


class Witness:
    """A coroutine that says what became of it."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.waits_for: asyncio.Future[None] | None = None

    async def go(self) -> None:
        self.log.append("started")
        self.waits_for = asyncio.get_running_loop().create_future()
        try:
            await self.waits_for
        except asyncio.CancelledError:
            self.log.append("cancelled")
            await asyncio.sleep(0)  # what closes things may have to wait, too
            self.log.append("cleared up")
            raise


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


@pytest.mark.parametrize("when", [0, 1, 5])
def test_cancelling_lets_a_task_clear_up(run: Run, when: int) -> None:
    """Also in the very turn in which it started."""
    witness = Witness()

    async def main() -> None:
        task = soon(witness.go())
        await turns(when)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert witness.log == ["started", "cancelled", "cleared up"]
        assert witness.waits_for is not None
        assert witness.waits_for.cancelled()

    run(main)


def test_cancel_reaches_what_is_waited_for(run: Run) -> None:
    witness = Witness()

    async def outer(inner: Awaitable[None]) -> None:
        await inner

    async def main() -> None:
        task = soon(outer(soon(witness.go())))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert witness.log == ["started", "cancelled", "cleared up"]

    run(main)


def test_cancel_may_be_refused(run: Run) -> None:
    async def stubborn() -> str:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            return "still here"
        return "never"

    async def main() -> None:
        task = soon(stubborn())
        task.cancel()
        assert await task == "still here"

    run(main)


def test_cancel_when_all_is_there_already(run: Run) -> None:
    """What is waited for is done: the wait is cancelled all the same."""

    async def wait(future: asyncio.Future[int]) -> int:
        return await future

    async def main() -> None:
        future = asyncio.get_running_loop().create_future()
        task = soon(wait(future))
        future.set_result(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main)


def test_an_installed_loop_starts_tasks_at_once() -> None:
    async def main() -> None:
        eager_tasks.install(asyncio.get_running_loop())

        async def answer() -> int:
            return 1

        assert asyncio.get_running_loop().create_task(answer()).done()

    asyncio.run(main())


def test_the_standard_library_s_factory_is_used_where_there_is_one() -> None:
    own = sys.version_info < (3, 12)
    standard = getattr(asyncio, "eager_task_factory", None)
    assert (standard is None) is own
    assert own or eager_tasks.factory is standard
