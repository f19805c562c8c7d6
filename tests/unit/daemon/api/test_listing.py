# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.daemon.api.listing`: which NICs, networks and forwards a caller is shown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from support.builders import make_nic, make_peer
from tapster.daemon.api import listing
from tapster.daemon.api.listing import Listing
from tapster.daemon.nics.nic import Nic
from tapster.daemon.publish.forward_table import Row
from tapster.kernel import rtnetlink
from tapster.model import Forward, Mode, NetworkDefinition, Peer, Port, Scope
from tapster.policy.config.current import CurrentConfig
from tapster.policy.config.load import Config
from tapster.policy.core.decide import Decision
from tapster.policy.core.rulebook import Target
from tapster.wire import objects as wire

ALICE, BOB, ROOT = 1000, 1001, 0
DEFAULT = NetworkDefinition("default", Mode.NAT)
LAB = NetworkDefinition("lab", Mode.ISOLATED, scope=Scope.SHARED)
LAN = NetworkDefinition("lan", Mode.BRIDGE, bridge="br0", scope=Scope.SHARED)


class Running(SimpleNamespace):
    """A network that is up."""

    def __init__(self, definition: NetworkDefinition, uid: int | None) -> None:
        owner = "shared" if uid is None else uid
        separator = "." if uid is None else "-"
        super().__init__(
            definition=definition,
            name=definition.name,
            key=f"{definition.name}{separator}{owner}",
            uid=uid,
            bridge=f"tapbr-{owner}",
            mtu=1500,
            subnet4=None,
            subnet6=None,
            collision=None,
            differs=lambda _: [],
        )


@dataclass
class World:
    """What there is, and what the rules allow."""

    nics: list[Nic] = field(default_factory=list)
    running: list[Running] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    usable: list[NetworkDefinition] = field(default_factory=lambda: [DEFAULT])
    managed: set[str | None] = field(default_factory=set)  # networks of all users
    asked: list[str] = field(default_factory=list)  # of the kernel

    def listing(self) -> Listing:
        everything: Any = self
        networks = {d.name: d for d in (DEFAULT, LAB, LAN)}
        return Listing(
            "system",
            CurrentConfig(Config(networks=networks)),
            everything,
            everything,
            everything,
            everything,
            everything,
            everything,
            everything,
        )

    # The ledger

    def __iter__(self) -> Any:
        return iter(self.nics)

    def count(self, uid: int, network: str) -> int:
        return sum((n.uid, n.network) == (uid, network) for n in self.nics)

    # RunningNetworks

    def get(self, key: str) -> Running | None:
        return next((r for r in self.running if r.key == key), None)

    def all(self) -> list[Running]:
        return self.running

    # Bridges

    def find(self, name: str) -> Any:
        return None

    # ForwardRequests

    def visible_to(self, peer: Peer, sees: Callable[[Target], bool]) -> list[Row]:
        return self.rows

    # Judge and Visibility

    def usable_networks(self, peer: Peer) -> list[tuple[NetworkDefinition, Decision]]:
        return [(d, Decision(True, "", max_nics=4)) for d in self.usable]

    def usable_bridges(self, peer: Peer, bridges: list[str]) -> list[str]:
        return bridges

    async def of_others(self, peer: Peer) -> Callable[[Target], bool]:
        return lambda target: peer.is_root or target.network in self.managed


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()

    def links(_: Any) -> list[Any]:
        made.asked.append("links")
        names = {"br0": "bridge", "tapbr1": "bridge", "eth0": "veth"}
        return [
            SimpleNamespace(ifindex=-n, name=name, kind=kind)
            for n, (name, kind) in enumerate(names.items())
        ]

    def get_link(_: Any, ifindex: int, *, counters: bool) -> None:
        made.asked.append(f"link {ifindex}")

    monkeypatch.setattr(rtnetlink, "links", links)
    monkeypatch.setattr(rtnetlink, "get_link", get_link)
    monkeypatch.setattr(listing, "user_name", lambda uid: f"user{uid}")
    return made


def networks(world: World, uid: int) -> dict[str, wire.NetworkInfo]:
    """By bridge, or by name if there is none."""
    told = asyncio.run(world.listing().networks(make_peer(uid)))
    return {info.bridge or info.name: info for info in told}


@pytest.mark.parametrize(
    ("uid", "managed", "names"),
    [
        (ALICE, set(), ["tapstern1"]),
        (BOB, set(), ["tapstern2"]),
        (ALICE, {"default"}, ["tapstern1", "tapstern2"]),
        (ROOT, set(), ["tapstern1", "tapstern2"]),
    ],
)
def test_a_caller_is_shown_its_own_nics_and_those_it_manages(
    world: World, uid: int, managed: set[str | None], names: list[str]
) -> None:
    world.nics = [make_nic(1, uid=ALICE), make_nic(2, uid=BOB)]
    world.managed = managed
    told = asyncio.run(world.listing().nics(make_peer(uid)))
    assert [nic.ifname for nic in told] == names


@pytest.mark.parametrize(
    ("count", "asked"), [(2, ["link 1", "link 2"]), (17, ["links"])]
)
def test_many_nics_are_looked_up_at_once(
    world: World, count: int, asked: list[str]
) -> None:
    world.nics = [make_nic(n) for n in range(1, count + 1)]
    asyncio.run(world.listing().nics(make_peer(ALICE)))
    assert world.asked == asked


def test_a_usable_network_is_shown_before_it_is_up(world: World) -> None:
    shown = networks(world, ALICE)["default"]
    assert (shown.state, shown.uid, shown.max_nics, shown.nics) == ("down", None, 4, 0)


def test_a_running_network_is_its_users_own_instance(world: World) -> None:
    world.running = [Running(DEFAULT, ALICE), Running(DEFAULT, BOB)]
    (shown,) = networks(world, ALICE).values()
    assert (shown.state, shown.uid, shown.user) == ("up", ALICE, "user1000")


def test_another_users_instance_is_shown_to_who_manages_it(world: World) -> None:
    world.running = [Running(DEFAULT, ALICE), Running(DEFAULT, BOB)]
    world.managed = {"default"}
    shown = networks(world, ALICE)
    assert list(shown) == ["tapbr-1000", "tapbr-1001"]
    assert shown["tapbr-1001"].max_nics is None


def test_a_network_on_a_bridge_that_is_not_there_is_down(world: World) -> None:
    world.usable = [LAN]
    shown = networks(world, ALICE)["br0"]
    assert (shown.state, shown.notes) == ("down", ["there is no bridge br0"])


@pytest.mark.parametrize(("uid", "count"), [(ALICE, 1), (BOB, 2), (ROOT, 3)])
def test_nics_of_a_network_are_the_callers_and_for_root_everybodys(
    world: World, uid: int, count: int
) -> None:
    world.usable, world.running = [LAB], [Running(LAB, None)]
    owners = [ALICE, BOB, BOB]
    world.nics = [
        make_nic(n, uid=owner, network="lab") for n, owner in enumerate(owners)
    ]
    (shown,) = networks(world, uid).values()
    assert shown.nics == count


def test_forwards_of_a_network_are_not_other_users(world: World) -> None:
    rows = [("default", ALICE, 1), ("default", BOB, 2), ("default", None, 3),
            ("lab", ALICE, 4)]  # fmt: skip
    world.rows = [
        Row(network, uid, Forward(Port("tcp", port, port), "web", 80))
        for network, uid, port in rows
    ]
    (shown,) = networks(world, ALICE).values()
    assert shown.forwards == ["tcp/1 web:80", "tcp/3 web:80"]


def test_a_caller_is_told_what_it_may_use(world: World) -> None:
    world.nics = [make_nic(1), make_nic(2), make_nic(3, uid=BOB)]
    told = world.listing().info(make_peer(ALICE))
    assert told["networks"] == [wire.Network("default", "nat", 4, 2)]
    assert told["bridges"] == ["br0"]  # neither ours nor what is no bridge
