# SPDX-License-Identifier: LGPL-2.1-or-later
"""`resolve.bridges`: what is looked up of a bridge each time, and what once."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Any

import pytest

from tapster.daemon.resolve.bridges import Bridges
from tapster.kernel import netdevice, rtnetlink
from tapster.kernel.rtnetlink.links import Link

pytestmark = pytest.mark.usefixtures("no_leaked_fd")


def device(index: int, name: str, kind: str) -> Link:
    return Link(index, name, 0, 1500, "", 0, kind, "", (), {}, 0, 0, 0, 0)


class Host:
    """The devices of a host, by index; the first name is the real one."""

    def __init__(self) -> None:
        self.names = {7: ["br0", "office"], 8: ["eth0"]}
        self.mtus = {7: 1500, 8: 1500}
        self.kinds = {7: "bridge", 8: ""}
        self.looked_up: list[str] = []
        self.sent = 0  # netlink transactions

    def index_of(self, _: object, name: str) -> int:
        for index, names in self.names.items():
            if name in names:
                return index
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    def name_of(self, _: object, index: int) -> str:
        return self.names[index][0]

    def mtu_of(self, _: object, name: str) -> int:
        return self.mtus[self.index_of(_, name)]

    def get_link(self, _: object, name: str) -> Link:
        self.looked_up.append(name)
        index = self.index_of(_, name)
        return device(index, self.names[index][0], self.kinds[index])

    def transact(self, _: object) -> None:
        self.sent += 1


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host()
    for name in ("index_of", "name_of", "mtu_of"):
        monkeypatch.setattr(netdevice, name, getattr(made, name))
    monkeypatch.setattr(rtnetlink, "get_link", made.get_link)
    return made


@pytest.fixture
def found(host: Host) -> Iterator[Bridges]:
    netlink: Any = host
    made = Bridges(netlink)
    yield made
    made.close()


def test_a_bridge_is_looked_up_once_and_its_mtu_each_time(
    host: Host, found: Bridges
) -> None:
    assert found.find("br0") == device(7, "br0", "bridge")
    host.mtus[7] = 9000
    again = found.find("br0")
    assert again is not None and (again.ifindex, again.mtu) == (7, 9000)
    assert host.looked_up == ["br0"]


def test_a_bridge_that_was_renamed_is_found_by_its_new_name(
    host: Host, found: Bridges
) -> None:
    found.find("br0")
    host.names[7] = ["br1"]
    renamed = found.find("br1")
    assert renamed is not None and renamed.name == "br1"
    assert found.find("br0") is None


def test_an_alternative_name_tells_the_real_one(host: Host, found: Bridges) -> None:
    found.find("br0")
    by_other_name = found.find("office")
    assert by_other_name is not None and by_other_name.name == "br0"


def test_a_device_that_is_no_bridge_is_looked_up_each_time(
    host: Host, found: Bridges
) -> None:
    for _ in range(2):
        assert found.find("eth0") == device(8, "eth0", "")
    assert host.looked_up == ["eth0", "eth0"]


def test_a_device_that_does_not_exist_is_not_found(found: Bridges) -> None:
    assert found.find("br9") is None
    with pytest.raises(OSError):
        found.index_of("br9")


def test_a_bridge_s_mac_is_pinned_once(host: Host, found: Bridges) -> None:
    link = device(7, "br0", "bridge")._replace(address="02:00:00:00:00:01")
    for _ in range(2):
        found.pin_mac(link)
    assert host.sent == 1
