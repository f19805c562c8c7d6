# SPDX-License-Identifier: LGPL-2.1-or-later
"""`nics.ledger`: every NIC is found, and changes in one way."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import pytest

from support.builders import FakePorts, make_ledger, make_nic
from tapster.daemon.nics.ledger import TRANSITIONS, Ledger
from tapster.daemon.nics.nic import Nic
from tapster.daemon.nics.record import RecordDirectory
from tapster.kernel.netlink import NetlinkError
from tapster.model import State

MAC = "02:00:00:00:00:09"


@pytest.fixture
def ports() -> FakePorts:
    return FakePorts()


@pytest.fixture
def ledger(tmp_path: Path, ports: FakePorts) -> Ledger:
    return make_ledger(tmp_path, ports)


def waiting(number: int = 1, **fields: Any) -> Nic:
    return make_nic(number, mac=None, state=State.WAITING, **fields)


def recorded(tmp_path: Path) -> list[Nic]:
    """What a next broker would find."""
    return list(RecordDirectory(str(tmp_path / "nics")).read_all())


def everything(ledger: Ledger) -> list[object]:
    """All that it keeps in memory, save how far it has counted."""
    own = {k: v for k, v in vars(ledger).items() if k.startswith("_")}
    del own["_lowest_number"]
    return [value for value in own.values() if value]


# Finding


def test_a_nic_is_found_by_whatever_is_known_of_it(ledger: Ledger) -> None:
    one, other = make_nic(1), make_nic(2, uid=1001)
    ledger.add(one)
    ledger.add(other)
    assert list(ledger) == [one, other]
    assert len(ledger) == 2
    assert ledger.by_ifname(one.ifname) is one
    assert ledger.by_index(2) is other
    assert ledger.by_name(("default", 1000, "vm1")) is one
    assert ledger.by_mac(100, "02:00:00:00:00:01") is one
    assert ledger.by_mac(101, "02:00:00:00:00:01") is None
    assert ledger.on_bridge("tapbr1") == [one, other]
    assert ledger.of_user(1001) == [other]
    assert ledger.count(1000, "default") == 1
    assert ledger.count(1002, "default") == 0
    assert ledger.count_all("default") == 2


def test_nothing_is_left_of_what_was_removed(
    ledger: Ledger, ports: FakePorts, tmp_path: Path
) -> None:
    nics = [make_nic(1), waiting(2), make_nic(3, network=None, rate_egress=8000)]
    for each in nics:
        ledger.ports.add(each)
        ledger.add(each)
    for each in nics:
        ledger.remove(each)
        ledger.withdraw(each)  # twice is once
    assert everything(ledger) == []
    assert ports.there == {}
    assert ports.forgotten == [nics[2].ifname]  # the limit
    assert os.listdir(tmp_path / "nics") == []


def test_a_linux_bridge_has_names_of_its_own(ledger: Ledger) -> None:
    one = make_nic(1, network=None, bridge="default")
    ledger.add(one)
    assert ledger.by_name(("default", 1000, "vm1")) is None
    assert ledger.by_name(("bridge:default", 1000, "vm1")) is one
    assert ledger.count(1000, "default") == 0
    assert ledger.count_on_networks(1000) == 0


def test_automatic_names_are_the_lowest_that_are_free(ledger: Ledger) -> None:
    def take() -> Nic:
        name = ledger.free_name("default", 1000)
        made = make_nic(int(name[2:]), name=name)
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
    ledger.add(make_nic(50, name="vm4"))
    ledger.add(make_nic(51, name="vm"))
    ledger.remove(make_nic(51, name="vm"))
    assert ledger.free_name("default", 1000) == "vm5"


# Changing


def test_a_waiting_nic_becomes_active_with_its_mac(
    ledger: Ledger, ports: FakePorts, tmp_path: Path
) -> None:
    one = waiting()
    ledger.ports.add(one)
    ledger.add(one)
    assert ledger.waiting() == [one]
    new = ledger.transition(one, State.ACTIVE, mac=MAC)
    assert (new.state, new.mac) == (State.ACTIVE, MAC)
    assert (one.state, one.mac) == (State.WAITING, None)  # a fact of before
    assert ledger.current(one) is new
    assert ledger.waiting() == []
    assert ledger.by_mac(100, MAC) is new
    assert ledger.by_index(1) is new
    assert ports.there[one.ifname] == new.guest
    assert os.listdir(tmp_path / "nics") == [one.ifname]
    assert recorded(tmp_path) == [new]


def test_a_refused_nic_holds_no_mac(ledger: Ledger) -> None:
    holder, refused = make_nic(1), waiting(2)
    ledger.add(holder)
    ledger.add(refused)
    refused = ledger.transition(refused, State.REFUSED, reason="its MAC is another's")
    assert ledger.waiting() == []
    ledger.remove(refused)
    assert ledger.by_mac(100, "02:00:00:00:00:01") is holder


def test_quarantine_takes_elements_and_limit_and_keeps_the_mac(
    ledger: Ledger, ports: FakePorts, tmp_path: Path
) -> None:
    one = make_nic(rate_egress=8000)
    ledger.ports.add(one)
    ledger.add(one)
    shut = ledger.transition(one, State.QUARANTINED, reason="tampered with")
    assert ports.there == {}
    assert ports.forgotten == [one.ifname]
    assert ledger.by_mac(100, str(one.mac)) is shut
    assert recorded(tmp_path) == [shut]
    ledger.remove(shut)
    assert ports.forgotten == [one.ifname]  # once


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pair
        for pair in itertools.permutations(State, 2)
        if pair[1] not in TRANSITIONS[pair[0]]
    ],
)
def test_no_other_transition_is_made(
    ledger: Ledger, before: State, after: State
) -> None:
    one = make_nic(state=before, mac=None if before is not State.ACTIVE else MAC)
    ledger.add(one)
    with pytest.raises(ValueError, match="never becomes"):
        ledger.transition(one, after, mac=MAC)
    assert ledger.current(one) is one


def test_what_nftables_refuses_changes_nothing(
    ledger: Ledger, ports: FakePorts, tmp_path: Path
) -> None:
    one = waiting()
    ledger.ports.add(one)
    ledger.add(one)
    ports.failure = NetlinkError(28, "change port")
    with pytest.raises(NetlinkError):
        ledger.transition(one, State.ACTIVE, mac=MAC)
    assert ledger.current(one) is one
    assert ledger.by_mac(100, MAC) is None
    assert recorded(tmp_path) == [one]


def test_what_cannot_be_recorded_changes_nothing(
    ledger: Ledger,
    ports: FakePorts,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = waiting()
    ledger.ports.add(one)
    ledger.add(one)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ledger.records, "replace", full)
    with pytest.raises(OSError, match="No space"):
        ledger.transition(one, State.ACTIVE, mac=MAC)
    assert ledger.current(one) is one
    assert ports.there[one.ifname] == one.guest
    assert ledger.waiting() == [one]
    # but what is to be shut is shut
    shut = ledger.transition(one, State.QUARANTINED, reason="tampered with")
    assert ledger.current(one) is shut
    assert ports.there == {}


def test_handing_out_is_no_matter_of_record(ledger: Ledger, tmp_path: Path) -> None:
    one = make_nic(handed_out=False)
    ledger.add(one)
    before = (tmp_path / "nics" / one.ifname).stat().st_ino
    new = ledger.transition(one, handed_out=True)
    assert ledger.current(one) is new
    assert new.handed_out
    assert (tmp_path / "nics" / one.ifname).stat().st_ino == before


def test_another_bridges_guest_of_the_same_mac_keeps_what_is_its_own(
    ledger: Ledger, ports: FakePorts
) -> None:
    one, other = make_nic(1), make_nic(2, mac="02:00:00:00:00:01", bridge_index=101)
    for each in (one, other):
        ledger.ports.add(each)
        ledger.add(each)
    ledger.remove(one)
    assert ports.spared == [other.ifname]
    assert ledger.knows_mac("02:00:00:00:00:01")


def test_all_records_can_be_written_again(ledger: Ledger, tmp_path: Path) -> None:
    nics = [make_nic(1), waiting(2)]
    for each in nics:
        ledger.add(each)
    for each in nics:
        os.unlink(tmp_path / "nics" / each.ifname)
    os.rmdir(tmp_path / "nics")
    ledger.rewrite_all()
    assert recorded(tmp_path) == nics


def test_a_change_is_made_to_what_a_nic_is_now(ledger: Ledger) -> None:
    before = make_nic(1)
    ledger.add(before)
    ledger.transition(before, mtu=9000)
    after = ledger.transition(before, isolated=True)
    assert (after.mtu, after.isolated) == (9000, True)
    ledger.remove(after)
    with pytest.raises(LookupError):
        ledger.transition(after, mtu=1500)
    assert list(ledger) == []
