# SPDX-License-Identifier: LGPL-2.1-or-later
"""`identify.caller`: a call finds its connection, and keeps none alive."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

from tapster.daemon.identify import caller


class Connection:
    """Stands for a real one."""


def test_there_is_no_caller_outside_of_a_call() -> None:
    assert caller.of_this_call() is None


def test_a_call_and_what_it_starts_find_the_connection() -> None:
    connection: Any = Connection()

    async def call() -> list[object]:
        found: list[object] = [caller.of_this_call()]
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: found.append(caller.of_this_call()))
        await asyncio.sleep(0)
        return found

    token = caller.CALLER.set(weakref.ref(connection))
    try:
        assert asyncio.run(call()) == [connection, connection]
    finally:
        caller.CALLER.reset(token)


def test_a_connection_is_not_kept_by_what_outlives_it() -> None:
    connection: Any = Connection()
    token = caller.CALLER.set(weakref.ref(connection))
    try:
        del connection
        gc.collect()
        assert caller.of_this_call() is None
    finally:
        caller.CALLER.reset(token)
