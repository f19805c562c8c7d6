# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tasks that start at once: `asyncio.eager_task_factory`, and one for Python 3.11.

Most calls never wait for anything. Started eagerly, they are done before a task
has to be made for them, which saves two turns of the event loop in each attach.

Python has such a factory since 3.12. The one written here is for 3.11 alone, and
goes when `requires-python` in pyproject.toml is raised to 3.12.
"""

from __future__ import annotations

import asyncio
import sys

if sys.version_info >= (3, 12):
    factory = asyncio.eager_task_factory
else:
    import types
    from collections.abc import Coroutine, Generator
    from typing import Any

    @types.coroutine
    def _go_on(
        coroutine: Coroutine[Any, Any, Any], awaited: Any
    ) -> Generator[Any, Any, Any]:
        """Finish a coroutine that was started and now awaits `awaited`.

        The first yield is for `factory`: a generator that has not begun would let
        an early cancel() pass it by, and the coroutine never clear up.
        """
        failure: BaseException | None = None
        sent = None
        try:
            yield
        except asyncio.CancelledError as err:
            # A task cancels what it waits for; this one does not know it yet.
            if not (asyncio.isfuture(awaited) and awaited.cancel()):
                failure = err
        while True:
            if failure is None:
                try:
                    sent = yield awaited
                except BaseException as err:  # noqa: BLE001 - the coroutine's to handle
                    failure = err
            try:
                if failure is None:
                    awaited = coroutine.send(sent)
                else:
                    awaited = coroutine.throw(failure)
            except StopIteration as end:
                return end.value
            failure = None

    def factory(
        loop: asyncio.AbstractEventLoop,
        coroutine: Coroutine[Any, Any, Any] | Generator[Any, Any, Any],
        **options: Any,
    ) -> asyncio.Future[Any]:
        """Start a task at once. Code that runs before the task's first wait has no
        current task: asyncio.timeout() can't be used there.

        :param loop: the running event loop.
        :param coroutine: what the task does.
        :param options: `name` and `context` of the task, if it has to be made.
        """
        assert isinstance(coroutine, Coroutine)  # noqa: S101 - for the type checker
        try:
            awaited = coroutine.send(None)
        except (KeyboardInterrupt, SystemExit):
            raise
        except StopIteration as end:
            done = loop.create_future()
            done.set_result(end.value)
            return done
        except BaseException as err:  # noqa: BLE001 - for who awaits the task
            failed = loop.create_future()
            failed.set_exception(err)
            return failed
        rest = _go_on(coroutine, awaited)
        rest.send(None)
        return asyncio.Task(rest, loop=loop, **options)


def install(loop: asyncio.AbstractEventLoop) -> None:
    """Start the tasks of this loop eagerly from now on."""
    loop.set_task_factory(factory)  # type: ignore[arg-type,unused-ignore]
