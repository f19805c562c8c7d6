# SPDX-License-Identifier: LGPL-2.1-or-later
"""`provision.adjust`: the kernel and the ledger change together, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.builders import FakePorts, make_ledger, make_nic
from tapster.daemon.nics.nic import Nic
from tapster.daemon.provision.adjust import Adjuster
from tapster.kernel import rtnetlink
from tapster.kernel.netlink import NetlinkError, Request
from tapster.model import Rate
from tapster.networks import rates


class World:
    """One NIC, in a ledger without nftables, and a kernel that takes messages."""

    def __init__(self, tmp_path: Path) -> None:
        self.ports = FakePorts()
        self.ledger = make_ledger(tmp_path, self.ports)
        self.sent: list[Request] = []
        self.refuses = False
        netlink: Any = self
        self.adjuster = Adjuster(netlink, self.ledger)

    def transact(self, requests: list[Request]) -> None:
        if self.refuses:
            raise NetlinkError(1, "set port")
        self.sent += requests

    def add(self, **fields: Any) -> Nic:
        nic = make_nic(**fields)
        self.ports.limit(nic.ifname, 0, nic.rate_egress)
        self.ports.add(nic)
        self.ledger.add(nic)
        return nic


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def full(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime directory in which no record can be replaced."""

    def replace(_: Nic) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(world.ledger.records, "replace", replace)


def isolation(nic: Nic, value: int) -> Request:
    return rtnetlink.set_port(nic.ifindex, nic.ifname, isolated=value)


def ingress(nic: Nic, rate: int) -> Request:
    return rates.limit_ingress(nic.ifindex, nic.ifname, rate, nic.mtu)


def test_isolation_is_set_and_kept(world: World) -> None:
    nic = world.add()
    new = world.adjuster.isolate(nic, True)
    assert new.isolated
    assert world.ledger.current(nic) is new
    assert world.sent == [isolation(nic, 1)]


def test_isolation_that_the_kernel_refuses_is_not_kept(world: World) -> None:
    nic = world.add()
    world.refuses = True
    with pytest.raises(NetlinkError):
        world.adjuster.isolate(nic, True)
    assert world.ledger.current(nic) is nic


@pytest.mark.usefixtures("full")
def test_isolation_that_cannot_be_recorded_is_taken_back(world: World) -> None:
    nic = world.add()
    with pytest.raises(OSError, match="No space"):
        world.adjuster.isolate(nic, True)
    assert world.ledger.current(nic) is nic
    assert world.sent == [isolation(nic, 1), isolation(nic, 0)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Rate(), Rate(8000, 16000)),
        (Rate(8000, 16000), Rate(24000, 32000)),
        (Rate(8000, 16000), Rate(8000, 32000)),
        (Rate(8000, 16000), Rate()),
    ],
)
def test_rates_are_set_and_kept(world: World, before: Rate, after: Rate) -> None:
    nic = world.add(rate_egress=before.egress, rate_ingress=before.ingress)
    new = world.adjuster.limit(nic, after)
    assert new.rate == after
    assert world.ledger.current(nic) is new
    assert world.ports.limits.get(nic.ifname, 0) == after.egress
    assert len(world.sent) == 1


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize("egress", [0, 8000])
def test_rates_that_cannot_be_recorded_are_taken_back(
    world: World, egress: int
) -> None:
    nic = world.add(rate_egress=egress, rate_ingress=16000)
    with pytest.raises(OSError, match="No space"):
        world.adjuster.limit(nic, Rate(24000, 32000))
    assert world.ledger.current(nic) is nic
    assert world.ports.limits.get(nic.ifname, 0) == egress
    assert world.ports.there[nic.ifname] == nic.guest
    assert world.sent == [ingress(nic, 32000), ingress(nic, 16000)]
