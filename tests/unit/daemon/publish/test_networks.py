# SPDX-License-Identifier: LGPL-2.1-or-later
"""`publish/networks.py`: when networks start and stop, and who is told of it.

Nothing is made here: a test says when a network has come up. What a network does to
the host is shown by tests/kernel/test_network.py and test_network_restart.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tapster.daemon.publish import networks as networks_module
from tapster.daemon.publish.networks import RunningNetworks
from tapster.errors import BrokerFailure
from tapster.model import Mode, NetworkDefinition
from tapster.networks.managed_network import ManagedNetwork
from tapster.policy.config.current import CurrentConfig
from tapster.policy.config.load import BrokerSettings, Config

ISOLATED = NetworkDefinition("lab", mode=Mode.ISOLATED)
UID = 1000


class FakeNetwork:
    """A `ManagedNetwork` of which nothing is in the kernel."""

    made: list[FakeNetwork]
    failure: Exception | None  # of the next `up`
    gate: asyncio.Event  # `up` waits for it

    def __init__(self, host: object, definition: NetworkDefinition, uid: int) -> None:
        self.definition = definition
        self.name = definition.name
        self.key = f"{definition.name}-{uid}"
        self.bridge = f"tapbr{len(self.made)}"
        self.bridge_index = len(self.made) + 1
        self.is_up = False
        self.made.append(self)

    async def up(self) -> None:
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        self.is_up = True

    async def down(self) -> None:
        self.is_up = False

    def differs(self, wanted: NetworkDefinition) -> list[str]:
        return [] if wanted.subnet == self.definition.subnet else ["subnet"]

    def change(self, wanted: NetworkDefinition) -> list[str]:
        changed = [] if wanted.rate == self.definition.rate else ["rate"]
        self.definition = wanted
        return changed


class World:
    """What `RunningNetworks` is given; it listens, too."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.used: set[str] = set()  # bridges with NICs
        self.restored = 0  # times that forwarding was given back
        self.current = CurrentConfig(make_config(ISOLATED))
        host = SimpleNamespace(ip_forwarding=self, routing=False, netlink=None)
        ledger = SimpleNamespace(is_used=self.used.__contains__)
        self.networks = RunningNetworks(
            cast(Any, host), cast(Any, ledger), self.current, self
        )

    def restore(self) -> None:
        self.restored += 1

    async def start(self) -> ManagedNetwork:
        return await self.networks.bring_up(ISOLATED, UID)

    def network_up(self, network: ManagedNetwork) -> None:
        self.told.append(f"{network.bridge} up")

    def network_down(self, network: ManagedNetwork) -> None:
        self.told.append(f"{network.bridge} down")

    def network_noted(self, network: ManagedNetwork, text: str) -> None:
        self.told.append(f"{network.bridge} {text}")

    def network_changed(
        self, network: ManagedNetwork, changed: Collection[str]
    ) -> None:
        self.told.append(f"{network.bridge} changed {', '.join(changed)}")


def make_config(*definitions: NetworkDefinition) -> Config:
    """The grace of networks is none."""
    return Config(
        broker=BrokerSettings(network_grace_seconds=0.0),
        networks={definition.name: definition for definition in definitions},
    )


Story = Callable[[World], Awaitable[None]]


def played(story: Story) -> Callable[[pytest.MonkeyPatch], None]:
    """A test that is a coroutine, in a world of its own."""

    def run(monkeypatch: pytest.MonkeyPatch) -> None:
        async def play() -> None:
            FakeNetwork.made, FakeNetwork.failure = [], None
            FakeNetwork.gate = asyncio.Event()
            FakeNetwork.gate.set()
            world = World()
            await story(world)
            world.networks.cancel()

        monkeypatch.setattr(networks_module, "ManagedNetwork", FakeNetwork)
        asyncio.run(play())

    run.__name__, run.__doc__ = story.__name__, story.__doc__
    return run


async def turns() -> None:
    """Let timers of no time, and what they start, run."""
    for _ in range(10):
        await asyncio.sleep(0)


@played
async def test_requests_at_the_same_time_start_one_network(world: World) -> None:
    FakeNetwork.gate.clear()
    first, second = (asyncio.ensure_future(world.start()) for _ in range(2))
    await turns()
    assert world.networks.ready(ISOLATED, UID) is None and world.told == []
    FakeNetwork.gate.set()
    assert await first is await second
    assert len(FakeNetwork.made) == 1 and world.told == ["tapbr0 up"]
    assert world.networks.ready(ISOLATED, UID) is await first
    assert world.networks.on_bridge("tapbr0") is await first
    assert world.networks.on_bridge("br0") is None


@played
async def test_each_user_has_a_network_of_its_own(world: World) -> None:
    mine, other = await world.start(), await world.networks.bring_up(ISOLATED, 1001)
    assert world.networks.all() == [mine, other]


@played
async def test_a_network_that_does_not_come_up_is_not_there(world: World) -> None:
    FakeNetwork.failure = OSError("no bridge")
    with pytest.raises(BrokerFailure, match="lab did not come up"):
        await world.start()
    assert world.networks.all() == [] and world.told == [] and world.restored == 1


@played
async def test_a_network_without_nics_stops_after_its_grace(world: World) -> None:
    network = await world.start()
    world.networks.schedule_down(network)
    assert world.networks.all() == [network]
    await asyncio.sleep(0.01)
    assert world.networks.all() == [] and world.told == ["tapbr0 up", "tapbr0 down"]
    assert world.networks.on_bridge("tapbr0") is None


@played
async def test_a_network_that_gets_a_nic_stays(world: World) -> None:
    network = await world.start()
    world.networks.schedule_down(network)
    world.used.add(network.bridge)
    await asyncio.sleep(0.01)
    assert world.networks.all() == [network]
    world.networks.schedule_down(network)
    await asyncio.sleep(0.01)
    assert world.networks.all() == [network]


@played
async def test_a_network_that_is_asked_for_again_is_not_stopped(world: World) -> None:
    network = await world.start()
    world.networks.schedule_down(network)
    assert world.networks.ready(ISOLATED, UID) is network
    await asyncio.sleep(0.01)
    assert world.networks.all() == [network]


@played
async def test_an_outdated_network_is_replaced_if_it_has_no_nic(world: World) -> None:
    old = await world.start()
    subnet = cast(Any, "10.9.0.0/24")
    wanted = NetworkDefinition("lab", mode=Mode.ISOLATED, subnet=subnet)
    world.used.add(old.bridge)
    assert world.networks.ready(wanted, UID) is old
    world.used.clear()
    assert world.networks.ready(wanted, UID) is None
    new = await world.networks.bring_up(wanted, UID)
    assert world.networks.all() == [new] and new is not old
    assert world.told[:3] == ["tapbr0 up", "tapbr0 down", "tapbr1 up"]


@played
async def test_the_host_is_not_restored_while_a_network_starts(world: World) -> None:
    network = await world.start()
    FakeNetwork.gate.clear()
    other = asyncio.ensure_future(world.networks.bring_up(ISOLATED, 1001))
    await turns()
    before = world.restored
    await world.networks.take_down(network)
    assert world.restored == before
    FakeNetwork.gate.set()
    await other
    assert world.restored == before + 1


@played
async def test_a_network_follows_the_configuration(world: World) -> None:
    network = await world.start()
    wanted = NetworkDefinition("lab", mode=Mode.ISOLATED, rate=cast(Any, "1M"))
    world.current.replace(make_config(wanted))
    assert world.networks.follow_configuration() == [f"{network.key}: changed rate"]
    assert world.told == ["tapbr0 up", "tapbr0 changed rate"]
    world.current.replace(make_config())
    (line,) = world.networks.follow_configuration()
    assert line == f"{network.key}: removed when its last guest has gone"
