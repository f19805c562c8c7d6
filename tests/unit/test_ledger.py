# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.daemon.ledger`: every NIC is found, and survives its broker."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tapster.daemon.ledger import Ledger, Nic
from tapster.model import State


def nic(number: int = 1, **changes: Any) -> Nic:
    made = Nic(
        ifname=f"tapster{number}",
        ifindex=number,
        bridge="tapbr1",
        bridge_index=100,
        network="default",
        uid=1000,
        user="alice",
        pid=4711,
        name=f"vm{number}",
        mac=f"02:00:00:00:00:{number:02x}",
        ipv4=f"10.70.1.{number + 1}",
        ipv6=None,
        mtu=1500,
        state=State.ACTIVE,
    )
    return dataclasses.replace(made, **changes)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(str(tmp_path / "nics"))


def everything(ledger: Ledger) -> list[object]:
    """All that it keeps in memory, save how far it has counted."""
    hidden = {k: v for k, v in vars(ledger).items() if k.startswith("_")}
    del hidden["_directory"], hidden["_lowest_number"]
    return [value for value in hidden.values() if value]


def test_found_by_whatever_is_known(ledger: Ledger) -> None:
    one, other = nic(1), nic(2, uid=1001)
    ledger.add(one)
    ledger.add(other)
    assert list(ledger) == [one, other]
    assert len(ledger) == 2
    assert ledger.by_ifname("tapster1") is one
    assert ledger.by_index(2) is other
    assert ledger.by_scope(("default", 1000, "vm1")) is one
    assert ledger.by_mac(100, "02:00:00:00:00:01") is one
    assert ledger.by_mac(101, "02:00:00:00:00:01") is None
    assert ledger.on_bridge("tapbr1") == [one, other]
    assert ledger.count(1000, "default") == 1
    assert ledger.count(1002, "default") == 0


def test_nothing_is_left_of_what_was_removed(ledger: Ledger, tmp_path: Path) -> None:
    nics = [nic(1), nic(2, mac=None, state=State.WAITING), nic(3, network=None)]
    for each in nics:
        ledger.add(each)
    for each in nics:
        ledger.remove(each)
        ledger.remove(each)  # twice is once
    assert everything(ledger) == []
    assert os.listdir(tmp_path / "nics") == []


def test_a_linux_bridge_is_a_scope_of_its_own(ledger: Ledger) -> None:
    one = nic(1, network=None, bridge="default")
    ledger.add(one)
    assert ledger.by_scope(("default", 1000, "vm1")) is None
    assert ledger.by_scope(("bridge:default", 1000, "vm1")) is one
    assert ledger.count(1000, "default") == 0


def test_a_waiting_nic_gets_its_mac(ledger: Ledger, tmp_path: Path) -> None:
    one = nic(1, mac=None, state=State.WAITING)
    ledger.add(one)
    assert ledger.waiting() == [one]
    one.mac, one.state = "02:00:00:00:00:09", State.ACTIVE
    ledger.update(one)
    assert ledger.waiting() == []
    assert ledger.by_mac(100, "02:00:00:00:00:09") is one
    assert os.listdir(tmp_path / "nics") == ["tapster1"]
    assert list(Ledger(str(tmp_path / "nics")).records()) == [one]


def test_a_refused_nic_does_not_hold_a_mac(ledger: Ledger) -> None:
    holder = nic(1, mac="02:00:00:00:00:01")
    refused = nic(2, mac=None, state=State.WAITING)
    ledger.add(holder)
    ledger.add(refused)
    refused.state, refused.reason = State.REFUSED, "its MAC is another's"
    ledger.update(refused)
    assert ledger.waiting() == []
    ledger.remove(refused)
    assert ledger.by_mac(100, "02:00:00:00:00:01") is holder


def test_free_names(ledger: Ledger) -> None:
    def take() -> Nic:
        name = ledger.free_name("default", 1000)
        made = nic(int(name[2:]), name=name)
        ledger.add(made)
        return made

    one, two, three = take(), take(), take()
    assert [n.name for n in (one, two, three)] == ["vm1", "vm2", "vm3"]
    assert ledger.free_name("default", 1001) == "vm1"
    ledger.remove(three)
    ledger.remove(one)
    assert take().name == "vm1"
    assert take().name == "vm3"
    # a name that somebody chose is passed over, and others are no numbers
    ledger.add(nic(50, name="vm4"))
    ledger.add(nic(51, name="vm"))
    ledger.remove(nic(51, name="vm"))
    assert ledger.free_name("default", 1000) == "vm5"


def test_an_interrupted_update_loses_nothing(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = nic(1, mac=None, state=State.WAITING)
    ledger.add(one)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    one.mac, one.state = "02:00:00:00:00:09", State.ACTIVE
    monkeypatch.setattr(os, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        ledger.update(one)
    monkeypatch.undo()
    found = list(Ledger(str(tmp_path / "nics")).records())
    assert [n.ifname for n in found] == ["tapster1"]
    assert os.listdir(tmp_path / "nics") == ["tapster1"]


GOOD = dataclasses.asdict(nic())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\0",
        "[]",
        "null",
        "{}",
        json.dumps(GOOD | {"more": 1}),
        json.dumps({k: v for k, v in GOOD.items() if k != "uid"}),
        json.dumps(GOOD | {"uid": "1000"}),
        json.dumps(GOOD | {"uid": None}),
        json.dumps(GOOD | {"mac": 1}),
        json.dumps(GOOD | {"state": "asleep"}),
        json.dumps(GOOD | {"ifname": "tapster2"}),
        "\udcff",
    ],
)
def test_a_damaged_record_goes(ledger: Ledger, tmp_path: Path, text: str) -> None:
    path = tmp_path / "nics" / "tapster1"
    path.write_bytes(text.encode(errors="surrogateescape"))
    assert list(ledger.records()) == []
    assert not path.exists()


def test_records_are_private(ledger: Ledger, tmp_path: Path) -> None:
    ledger.add(nic())
    assert (tmp_path / "nics").stat().st_mode & 0o077 == 0
    assert (tmp_path / "nics/tapster1").stat().st_mode & 0o007 == 0


def test_forget(ledger: Ledger, tmp_path: Path) -> None:
    ledger.add(nic())
    again = Ledger(str(tmp_path / "nics"))
    again.forget("tapster1")
    again.forget("tapster1")
    assert list(again.records()) == []
