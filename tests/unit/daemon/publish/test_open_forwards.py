# SPDX-License-Identifier: LGPL-2.1-or-later
"""`publish/open_forwards.py`: which forwards are open, and what nftables is told."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from support.builders import make_nic
from tapster.daemon.nics.nic import Nic
from tapster.daemon.publish import forward_table, open_forwards
from tapster.daemon.publish.forward_table import ForwardTable, Row
from tapster.daemon.publish.open_forwards import OpenForwards
from tapster.kernel.nft import NftError
from tapster.model import Forward, Mode, NetworkDefinition, Port, Reservation
from tapster.policy.config.current import CurrentConfig
from tapster.policy.config.load import Config


def port(number: int) -> Port:
    return Port("tcp", number, number)


class World:
    """A table, with everything around it that has no kernel."""

    def __init__(self, path: Path) -> None:
        self.nics: list[Nic] = []  # the ledger
        self.mode = Mode.NAT  # of the network that is up
        self.told: list[str] = []  # to nftables: what for
        self.texts: list[str] = []  # and the statements
        self.is_refusing = False  # nftables
        self.taken: set[int] = set()  # ports that other programs have
        self.current = CurrentConfig(Config())
        self.table = ForwardTable(str(path / "forwards.json"))
        self.opened = OpenForwards(
            self.table,
            cast(Any, self.nics),
            cast(Any, self),
            cast(Any, self),
            self.current,
        )

    def network_of(self, nic: Nic) -> Any:
        """As `RunningNetworks`."""
        definition = NetworkDefinition(nic.network or "", mode=self.mode)
        return SimpleNamespace(definition=definition)

    def run(self, what: str, text: str) -> None:
        """As `Nft`."""
        if self.is_refusing:
            raise NftError(what, "refused")
        self.told.append(what)
        self.texts.append(text)

    def hold(self, wanted: Port) -> list[Any]:
        if wanted.first in self.taken:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        return [SimpleNamespace(close=lambda: None)]

    def configure(self, definition: NetworkDefinition) -> None:
        self.current.replace(Config(networks={definition.name: definition}))
        self.opened.follow_configuration()

    def add(self, number: int = 8080, uid: int = 1000) -> Row:
        row = Row("default", uid, Forward(port(number), "web", 80))
        self.table.insert_held(row)
        self.opened.open_for_any_guest(row)
        return row

    def attach(self, **fields: Any) -> Nic:
        nic = make_nic(**{"name": "web", **fields})
        self.nics.append(nic)
        self.opened.guest_attached(nic)
        return nic

    def end(self, nic: Nic) -> None:
        self.nics.remove(nic)
        self.opened.guest_gone(nic)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(tmp_path)
    monkeypatch.setattr(forward_table, "hold", made.hold)
    monkeypatch.setattr(open_forwards, "forget_flows", lambda _: None)
    yield made
    made.opened.close()


OPEN, SHUT = "open tcp/8080 web:80", "shut tcp/8080 web:80"


def test_forward_follows_its_guest_to_a_new_address(world: World) -> None:
    row = world.add()
    assert world.told == []
    nic = world.attach(ipv4="10.70.1.2")
    assert world.told == [OPEN] and "10.70.1.2 . 80" in world.texts[-1]
    world.end(nic)
    assert world.told == [OPEN, SHUT] and row.nic is None
    world.attach(ipv4="10.70.1.9")
    assert world.told == [OPEN, SHUT, OPEN]
    assert "10.70.1.9 . 80" in world.texts[-1]


def test_forward_is_open_at_once_if_its_guest_is_there(world: World) -> None:
    nic = world.attach()
    assert world.add().nic is nic and world.told == [OPEN]


def test_forward_leads_nowhere_on_a_network_without_a_way_in(world: World) -> None:
    world.mode = Mode.ISOLATED
    world.attach()
    assert world.add().nic is None and world.told == []


def test_forward_that_nftables_refuses_stays_shut(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.is_refusing = True
    world.attach()
    assert world.add().nic is None and OPEN in caplog.text


def test_users_forward_waits_while_a_program_has_its_port(world: World) -> None:
    world.taken.add(8080)
    row = world.add()
    world.end(world.attach())
    assert row.nic is None and world.told == []
    world.taken.clear()
    assert row.nic is None
    nic = world.attach()
    assert row.nic is nic


def test_forward_that_is_deleted_is_shut_first(world: World) -> None:
    world.attach()
    row = world.add()
    world.opened.delete(row)
    assert world.told == [OPEN, SHUT] and len(world.table) == 0


def test_statements_open_forwards_without_telling_nftables(world: World) -> None:
    row = world.add()
    nic = make_nic(name="web")
    text = world.opened.statements([nic])
    assert "add element" in text and row.nic is nic and world.told == []
    assert world.opened.statements([nic]) == ""


CONFIGURED = NetworkDefinition("default", forward=(Forward(port(8080), "web", 80),))


def test_forwards_of_the_configuration_come_and_go_with_it(world: World) -> None:
    world.attach(uid=4711)
    world.configure(CONFIGURED)
    assert world.told == [OPEN]
    world.configure(CONFIGURED)
    assert world.told == [OPEN]
    world.configure(NetworkDefinition("default"))
    assert world.told == [OPEN, SHUT] and len(world.table) == 0


def test_a_users_forward_is_not_taken_over_by_the_configuration(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    row = world.add()
    world.configure(CONFIGURED)
    assert list(world.table) == [row] and "a user's already" in caplog.text


def test_forward_of_the_configuration_goes_to_the_next_guest_of_its_name(
    world: World,
) -> None:
    world.configure(CONFIGURED)
    first = world.attach()
    world.attach(number=2, name="web", uid=1001)
    assert world.told == [OPEN]
    world.end(first)
    assert world.told == [OPEN, SHUT, OPEN]


def test_forward_to_a_reserved_name_is_for_its_user_alone(world: World) -> None:
    reserved = Reservation(IPv4Address("10.70.1.2"), user=1001)
    world.configure(
        NetworkDefinition(
            "default", forward=CONFIGURED.forward, reservations={"web": reserved}
        )
    )
    world.attach()
    assert world.told == []
    world.attach(number=2, name="web", uid=1001)
    assert world.told == [OPEN]
