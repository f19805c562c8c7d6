# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.daemon.nics.ledger`: every NIC is found, and survives its broker."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tapster.daemon.nics.ledger import Ledger, Nic
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
        "[" * 100_000,
        json.dumps(GOOD | {"reason": "x" * 100_000}),
        *(
            json.dumps(GOOD | {name: value})
            for name, value in [
                ("uid", True),
                ("uid", -1),
                ("uid", 2**32),
                ("ifindex", 0),
                ("ifindex", 2**40),
                ("bridge_index", -1),
                ("bridge", "a/b"),
                ("mtu", -1),
                ("rate_egress", -5),
                ("rate_ingress", 10**30),
                ("mac", "02:00:00:00:00:0g"),
                ("mac", "02:00:00:00:00:01 } ; flush ruleset"),
                ("mac", None),
                ("host_mac", "x"),
                ("ipv4", "10.70.1"),
                ("ipv4", "10.70.1.2, 10.70.1.3"),
                ("ipv6", "10.70.1.2"),
                ("name", "a\nb"),
                ("user", "a" * 300),
                ("macs", [1]),
                ("macs", "52:*"),
                ("expires", 5),
                ("expires", float("nan")),
                ("expires", float("inf")),
                ("share", "\0"),
            ]
        ),
    ],
)
def test_a_damaged_record_goes(ledger: Ledger, tmp_path: Path, text: str) -> None:
    path = tmp_path / "nics" / "tapster1"
    path.write_bytes(text.encode(errors="surrogateescape"))
    assert list(ledger.records()) == []
    assert not path.exists()


def test_a_record_of_an_older_broker_is_read(ledger: Ledger, tmp_path: Path) -> None:
    """Of one that knew fewer properties: what they say by default."""
    first = ("ifname", "ifindex", "bridge", "bridge_index", "network", "uid", "user",
             "pid", "name", "mac", "ipv4", "ipv6", "mtu", "state")  # fmt: skip
    text = json.dumps({name: GOOD[name] for name in first})
    (tmp_path / "nics/tapster1").write_text(text)
    assert list(ledger.records()) == [nic()]


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_record_that_others_may_write_to_is_not_believed(
    ledger: Ledger, tmp_path: Path, mode: int
) -> None:
    ledger.add(nic())
    os.chmod(tmp_path / "nics/tapster1", mode)
    assert list(Ledger(str(tmp_path / "nics")).records()) == []


def test_what_is_no_file_is_removed(ledger: Ledger, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text(json.dumps(GOOD))
    (tmp_path / "nics/tapster1").symlink_to(elsewhere)
    (tmp_path / "nics/tapster2/inner").mkdir(parents=True)
    os.mkfifo(tmp_path / "nics/tapster3")
    assert list(ledger.records()) == []
    assert os.listdir(tmp_path / "nics") == []
    assert elsewhere.exists()


def test_a_directory_is_its_owners_alone(tmp_path: Path) -> None:
    directory = tmp_path / "nics"
    directory.mkdir(mode=0o777)
    os.chmod(directory, 0o777)
    Ledger(str(directory))
    assert directory.stat().st_mode & 0o777 == 0o700
    directory.rmdir()
    directory.symlink_to(tmp_path)
    with pytest.raises(OSError, match="Not a directory"):
        Ledger(str(directory))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_belongs_to_another_is_not_believed(
    ledger: Ledger, tmp_path: Path
) -> None:
    ledger.add(nic())
    os.chown(tmp_path / "nics/tapster1", 65534, 65534)
    assert list(Ledger(str(tmp_path / "nics")).records()) == []
    os.chown(tmp_path / "nics", 65534, 65534)
    with pytest.raises(OSError, match="belongs to uid 65534"):
        Ledger(str(tmp_path / "nics"))


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
