# SPDX-License-Identifier: LGPL-2.1-or-later
"""`watch.repair`: which messages make a tap again what it was made as. That the
kernel then does so is shown by kernel/test_guard.py."""

from __future__ import annotations

import pytest

from support.builders import make_nic
from tapster.daemon.nics.expected import FLAGS, Drift
from tapster.daemon.watch.repair import cut, has_entry, restore
from tapster.kernel.netlink import Request
from tapster.model import State

NIC = make_nic(host_mac="fe:00:00:00:00:01")


def operations(requests: list[Request]) -> list[str]:
    """What each message is for, in words; the device is called so."""
    return [r.operation.replace(NIC.ifname, "the tap") for r in requests]


def drift(*what: str) -> list[Drift]:
    return [Drift(each, "a", "b") for each in what]


def test_nothing_is_sent_about_a_tap_that_is_as_it_was_made() -> None:
    assert restore(NIC, []) == []


@pytest.mark.parametrize("what", ["MAC", "MTU", "name", "alias", *FLAGS])
def test_properties_of_the_device_take_one_message(what: str) -> None:
    assert len(restore(NIC, drift(what))) == 1
    assert len(restore(NIC, drift(what, "MTU", "MAC"))) == 1


def test_a_tap_that_was_off_its_bridge_is_locked_before_it_is_up() -> None:
    down, joined, locked, entry, up = operations(restore(NIC, drift("bridge")))
    assert down == joined == up == "set the tap"
    assert locked == "set bridge port the tap"
    assert entry.startswith("add forwarding entry")


def test_a_waiting_port_gets_no_entry_back() -> None:
    waiting = make_nic(mac=None, state=State.WAITING)
    assert len(restore(waiting, drift("bridge"))) == 4


def test_a_tap_that_went_down_comes_up() -> None:
    assert operations(restore(NIC, drift("up"))) == ["set the tap"]


@pytest.mark.parametrize("what", ["locked", "learning", "isolated", "group_fwd_mask"])
def test_settings_of_the_port_take_one_message(what: str) -> None:
    assert operations(restore(NIC, drift(what))) == ["set bridge port the tap"]


def test_what_only_the_holder_can_undo_is_not_tried() -> None:
    assert restore(NIC, drift("persistent", "owner", "group")) == []


def test_who_has_a_forwarding_entry() -> None:
    assert has_entry(NIC)
    assert not has_entry(make_nic(trusted=True))
    assert not has_entry(make_nic(mac=None, state=State.WAITING))
    assert not has_entry(make_nic(state=State.QUARANTINED))


def test_a_cut_takes_one_message() -> None:
    assert operations([cut(NIC)]) == ["set the tap"]
