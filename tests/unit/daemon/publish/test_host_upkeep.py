# SPDX-License-Identifier: LGPL-2.1-or-later
"""`publish/host_upkeep.py`: what is done to the host for networks that are up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import IPv4Network
from types import SimpleNamespace
from typing import Any

import pytest

from tapster.daemon.publish import host_upkeep
from tapster.daemon.publish.host_upkeep import HostUpkeep
from tapster.kernel import rtnetlink
from tapster.kernel.nft import NftError
from tapster.model import Egress, Mode, NetworkDefinition

OURS, HOSTS, LINK_LOCAL = (
    IPv4Network(text) for text in ("10.70.1.0/24", "192.0.2.0/24", "169.254.0.0/16")
)


class World:
    """A host, as `HostContext` has it; and who is told of networks."""

    def __init__(self) -> None:
        self.used = [(1, OURS), (2, HOSTS), (2, LINK_LOCAL)]  # of the kernel
        self.told: list[str] = []
        self.texts: list[str] = []  # for nftables
        self.is_refusing = False  # nftables
        self.up: list[Any] = []
        host: Any = SimpleNamespace(
            netlink=None, nft=self, ip_forwarding=self, routing=True
        )
        self.host = host
        self.upkeep = HostUpkeep(host, self.up, lambda _, text: self.told.append(text))

    def run(self, what: str, text: str) -> None:
        if self.is_refusing:
            raise NftError(what, "refused")
        self.texts.append(text)

    def enable(self) -> None:
        self.told.append("forwarding on")

    def restore(self) -> None:
        self.told.append("forwarding as before")

    def add_network(self, mode: Mode = Mode.NAT, egress: Egress = Egress.ANY) -> None:
        definition = NetworkDefinition("lab", mode=mode, egress=egress)
        network = SimpleNamespace(
            definition=definition, bridge_index=1, subnet4=OURS, collision=None
        )

        def look_for_collision(used: list[tuple[int, IPv4Network]]) -> bool:
            before = network.collision
            rivals = [n for i, n in used if i != 1 and n.overlaps(OURS)]
            network.collision = rivals[0] if rivals else None
            return bool(before != network.collision)

        network.look_for_collision = look_for_collision
        self.up.append(network)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(rtnetlink, "used_networks", lambda _: iter(made.used))
    monkeypatch.setattr(host_upkeep, "_GATHER", 0.01)
    monkeypatch.setattr(host_upkeep, "_SUSTAIN", 0.01)
    return made


def played(world: World, begin: Callable[[], None]) -> None:
    """Have timers that were begun go off, once at least."""

    async def play() -> None:
        begin()
        await asyncio.sleep(0.05)
        world.upkeep.cancel()

    asyncio.run(play())


def test_guests_of_the_internet_alone_do_not_reach_the_hosts_networks(
    world: World,
) -> None:
    world.add_network(egress=Egress.INTERNET)
    world.upkeep.close_host_networks()
    (text,) = world.texts
    assert "192.0.2.0/24" in text
    assert str(OURS) not in text and str(LINK_LOCAL) not in text
    world.upkeep.close_host_networks()  # nothing has changed
    assert world.texts == [text]
    world.used.append((3, IPv4Network("198.51.100.0/24")))
    world.upkeep.close_host_networks()
    assert "198.51.100.0/24" in world.texts[1]


def test_guests_that_reach_anything_need_no_closed_networks(world: World) -> None:
    world.add_network(egress=Egress.ANY)
    world.upkeep.close_host_networks()
    assert world.texts == []


def test_networks_that_nftables_refused_are_closed_the_next_time(world: World) -> None:
    world.add_network(egress=Egress.INTERNET)
    world.is_refusing = True
    world.upkeep.close_host_networks()
    world.is_refusing = False
    world.upkeep.close_host_networks()
    assert len(world.texts) == 1


def test_a_collision_is_told_when_it_comes_and_when_it_goes(world: World) -> None:
    world.add_network()
    rival = (3, IPv4Network("10.70.0.0/16"))
    world.used.append(rival)
    played(world, world.upkeep.look_soon)
    world.used.remove(rival)
    played(world, world.upkeep.look_soon)
    played(world, world.upkeep.look_soon)
    assert world.told == [
        "its subnet 10.70.1.0/24 is now also 10.70.0.0/16 of this host",
        "its subnet 10.70.1.0/24 is its own again",
    ]


def test_nothing_is_looked_at_without_networks(world: World) -> None:
    async def play() -> None:
        world.upkeep.look_soon()
        world.upkeep.sustain_soon()
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(play())
    assert world.upkeep._looking is None and world.upkeep._sustaining is None


def test_forwarding_is_kept_on_for_a_network_with_nat(world: World) -> None:
    world.add_network()
    played(world, world.upkeep.sustain_soon)
    assert len(world.told) > 1 and set(world.told) == {"forwarding on"}


def test_forwarding_is_no_matter_of_an_isolated_network(world: World) -> None:
    world.add_network(Mode.ISOLATED)
    played(world, world.upkeep.sustain_soon)
    assert world.told == []


def test_the_host_gets_back_what_no_network_needs(world: World) -> None:
    world.add_network()
    world.upkeep.restore()
    assert world.told == [] and world.host.routing
    world.up[0].definition = NetworkDefinition("lab", mode=Mode.ISOLATED)
    world.upkeep.restore()
    assert world.told == ["forwarding as before"] and world.host.routing
    world.up.clear()
    world.upkeep.restore()
    assert len(world.texts) == 1 and not world.host.routing
