# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.vmm.net_option`: one option of QEMU's, read and written anew."""

from __future__ import annotations

import pytest

from tapster.errors import UsageError
from tapster.vmm.net_option import Grant, NetOption, read

GRANT = Grant(7, "52:54:00:12:34:56")


def option_of(flag: str, value: str) -> NetOption:
    return read("qemu-system-x86_64", flag, 1, value)


def test_option_that_nothing_becomes_of_does_not_change() -> None:
    assert not option_of("-netdev", "user,id=n0").changes


def test_bridge_becomes_a_tap_by_its_descriptor() -> None:
    option = option_of("-netdev", "bridge,id=n0,br=br0,helper=/x")
    option.request = 0
    assert option.changes
    assert option.rewritten("-netdev", [GRANT]) == ["-netdev", "tap,fd=7,id=n0"]


@pytest.mark.parametrize(
    ("flag", "value", "key"),
    [("-device", "e1000,netdev=n0", "mac"), ("-net", "nic", "macaddr")],
)
def test_nic_is_told_its_mac_at_the_end(flag: str, value: str, key: str) -> None:
    option = option_of(flag, value)
    option.mac_of = 0
    assert option.rewritten(flag, [GRANT]) == [flag, f"{value},{key}={GRANT.mac}"]


@pytest.mark.parametrize(
    ("vlan", "number"), [("", "0"), (",vlan=0", "0"), (",vlan=007", "7")]
)
def test_hub_of_an_option_is_its_vlan(vlan: str, number: str) -> None:
    assert option_of("-net", f"bridge{vlan}").vlan_number == number


def test_option_of_another_vlan_is_reached_through_a_hubport() -> None:
    option = option_of("-net", "bridge,vlan=3,name=up")
    option.request, option.vlan, option.ids = 0, option.vlan_number, ("tap", "port")
    assert option.rewritten("-net", [GRANT]) == [
        "-netdev",
        "tap,fd=7,id=up",
        "-netdev",
        "hubport,id=port,hubid=3,netdev=up",
    ]


@pytest.mark.parametrize(
    ("flag", "value", "why"),
    [
        ("-netdev", "bridge", "Parameter 'id' is missing"),
        ("-nic", "bridge,fd=3", "Invalid parameter 'fd'"),
        ("-net", "bridge,vlan=x", "Parameter 'vlan' expects a number"),
        ("-nic", "carrier-pigeon", "does not accept value 'carrier-pigeon'"),
        ("--netdev", "none,id=n0", "is not compiled into this binary"),
        ("-net", "hubport,hubid=0", "is only supported with -netdev/-nic"),
        ("-netdev", "{'type': 'bridge'}", "JSON parse error"),
    ],
)
def test_option_that_qemu_would_refuse_costs_no_tap(
    flag: str, value: str, why: str
) -> None:
    with pytest.raises(UsageError, match=why) as raised:
        option_of(flag, value)
    assert raised.value.message.startswith(f"qemu-system-x86_64: {flag} {value}: ")


def test_device_that_is_no_nic_is_for_qemu_to_read() -> None:
    assert not option_of("-device", "{nonsense").changes


def test_option_that_asks_for_help_is_not_refused() -> None:
    assert option_of("-netdev", "help").asks_for_help
    assert option_of("-nic", "bridge,model=help").asks_for_help
