# SPDX-License-Identifier: LGPL-2.1-or-later
"""`daemon.fairness.slots`: one user's hooks never keep all slots from others."""

from __future__ import annotations

import asyncio

from tapster.daemon.fairness.slots import FairSlots


async def turns(number: int = 20) -> None:
    """Let everybody go on who can."""
    for _ in range(number):
        await asyncio.sleep(0)


async def hold(slots: FairSlots, uid: int, log: list[int], go: asyncio.Event) -> None:
    async with slots.slot(uid):
        log.append(uid)
        await go.wait()


def start(
    number: int, *uids: int
) -> tuple[list[asyncio.Future[None]], list[int], asyncio.Event]:
    slots, go = FairSlots(lambda: number), asyncio.Event()
    log: list[int] = []
    held: list[asyncio.Future[None]] = [
        asyncio.ensure_future(hold(slots, u, log, go)) for u in uids
    ]
    return held, log, go


def test_one_user_leaves_slots_to_others() -> None:
    async def story() -> None:
        held, log, go = start(4, 1, 1, 1, 1, 1, 2, 2)
        await turns()
        assert log == [1, 1, 1, 2]
        go.set()
        await asyncio.gather(*held)
        assert sorted(log) == [1] * 5 + [2] * 2

    asyncio.run(story())


def test_users_are_served_in_turn() -> None:
    async def story() -> None:
        held, log, go = start(1, 1, 1, 1, 2, 2, 3)
        await turns()
        go.set()
        await asyncio.gather(*held)
        assert log == [1, 1, 2, 3, 1, 2]

    asyncio.run(story())


def test_a_waiter_that_gives_up_keeps_nobody_waiting() -> None:
    async def story() -> None:
        held, log, go = start(1, 1, 2, 3)
        await turns()
        for number in (1, 0):  # one that waits, and the one that is served
            held[number].cancel()
        await turns()
        assert log == [1, 3]
        go.set()
        await asyncio.gather(*held, return_exceptions=True)

    asyncio.run(story())
