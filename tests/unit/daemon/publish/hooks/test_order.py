# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hooks/order.py`: what has to be over before a beginning, and before an end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from support.builders import make_nic
from tapster.daemon.publish.hooks import payload
from tapster.daemon.publish.hooks.order import HookOrder, Lifetime
from tapster.daemon.publish.hooks.pending import PendingEnd

BRIDGE = "tapbr1"


def of_guest(number: int, name: str = "web", **fields: Any) -> Lifetime:
    nic = make_nic(number, name=name, bridge=BRIDGE, **fields)
    return Lifetime(PendingEnd(nic.ifname, payload.of_nic(nic)))


def of_network(bridge: str = BRIDGE) -> Lifetime:
    about = {**dict.fromkeys(payload.OF_NETWORK), "bridge": bridge, "uid": None}
    return Lifetime(PendingEnd(bridge, about))


class World:
    """Something that runs for lifetimes until it is told to end."""

    def __init__(self) -> None:
        self.order = HookOrder()
        self.gates: list[asyncio.Event] = []

    def run(self, lifetime: Lifetime) -> asyncio.Event:
        """Run something for a lifetime; the next of its key has to wait for it."""
        gate = asyncio.Event()

        async def work() -> None:
            await gate.wait()

        self.order.start_in_turn(work(), lifetime)
        self.gates.append(gate)
        return gate

    def end_all(self) -> None:
        for gate in self.gates:
            gate.set()


Story = Callable[[World], Awaitable[None]]


def played(story: Story) -> Callable[[], None]:
    """A test that is a coroutine, in a world of its own."""

    def run() -> None:
        async def play() -> None:
            world = World()
            await story(world)
            world.end_all()
            await world.order.wait_for_all(1.0)
            assert not world.order._tasks and not world.order._last

        asyncio.run(play())

    run.__name__, run.__doc__ = story.__name__, story.__doc__
    return run


async def waits(waiting: Awaitable[None], gate: asyncio.Event) -> bool:
    """Whether that goes on only when the gate is opened."""
    task = asyncio.ensure_future(waiting)
    for _ in range(5):
        await asyncio.sleep(0)
    if task.done():
        return False
    gate.set()
    await task
    return True


@played
async def test_a_beginning_waits_for_the_last_of_its_name(world: World) -> None:
    gate = world.run(of_guest(1))
    for other in (of_guest(2, "db"), of_guest(2, uid=1001)):
        assert not await waits(world.order.wait_to_begin(other), gate)
    assert await waits(world.order.wait_to_begin(of_guest(2)), gate)


@played
async def test_a_guests_beginning_waits_for_its_networks(world: World) -> None:
    gate = world.run(of_network())
    assert await waits(world.order.wait_to_begin(of_guest(1)), gate)


@played
async def test_an_end_waits_for_what_else_runs_for_its_device(world: World) -> None:
    gate, mine = world.run(of_guest(1)), of_guest(1)
    assert not await waits(world.order.wait_to_end(of_guest(2, "db")), gate)
    assert await waits(world.order.wait_to_end(mine), gate)


@played
async def test_an_end_waits_for_its_own_beginning(world: World) -> None:
    lifetime, gate = of_guest(1), asyncio.Event()
    lifetime.begun = asyncio.ensure_future(_until(gate))
    assert await waits(world.order.wait_to_end(lifetime), gate)
    assert not await waits(world.order.wait_to_end(lifetime), gate)


async def _until(gate: asyncio.Event) -> None:
    await gate.wait()


@played
async def test_a_networks_end_waits_for_its_guests_alone(world: World) -> None:
    elsewhere = world.run(of_network("tapbr2"))
    assert not await waits(world.order.wait_to_end(of_network()), elsewhere)
    gate = world.run(of_guest(1))
    assert await waits(world.order.wait_to_end(of_network()), gate)


@played
async def test_what_fails_keeps_nobody_waiting(world: World) -> None:
    async def fail() -> None:
        raise ValueError("nobody foresaw it")

    world.order.start_in_turn(fail(), of_guest(1))
    await world.order.wait_to_begin(of_guest(2))
    await world.order.wait_for_device(of_guest(1).device)


@played
async def test_what_is_cancelled_is_over(world: World) -> None:
    world.run(of_guest(1))
    await world.order.wait_for_all(0.01)
    world.order.cancel_all()
    await world.order.wait_for_all(1.0)
    await world.order.wait_to_begin(of_guest(2))


def test_a_network_of_all_users_is_everybodys() -> None:
    assert of_network().uid == -1 and of_guest(1, uid=1001).uid == 1001


@pytest.mark.parametrize("bridge", [BRIDGE, "tapbr2"])
def test_a_lifetime_knows_its_device_and_its_bridge(bridge: str) -> None:
    network = of_network(bridge)
    assert network.is_network and network.device == network.bridge == bridge
    guest = of_guest(1)
    assert not guest.is_network and guest.bridge == BRIDGE != guest.device
