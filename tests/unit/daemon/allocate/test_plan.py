# SPDX-License-Identifier: LGPL-2.1-or-later
"""`allocate.plan`: a granted request becomes a complete NIC. Pure."""

from __future__ import annotations

import dataclasses
from ipaddress import IPv4Address
from types import SimpleNamespace
from typing import Any

import pytest

from support.builders import make_peer
from tapster.daemon.allocate import plan
from tapster.daemon.allocate.plan import Grant
from tapster.model import (
    AddressCheck,
    Mode,
    NetworkDefinition,
    Rate,
    Reservation,
    Scope,
    State,
)

MAC = "02:00:00:00:00:01"
GRANT = Grant(
    peer=make_peer(1000),
    user="alice",
    pid=4711,
    name="web",
    mac=MAC,
    host_mac="fe:00:00:00:00:01",
    digits="1234567",
    trusted=False,
    macs=(),
    expires=None,
    share=None,
)
LINK: Any = SimpleNamespace(name="br0", ifindex=7, mtu=9000)
LAN = NetworkDefinition("lan", Mode.BRIDGE, bridge="br0", rate=Rate(8000, 16000))


def network(**fields: Any) -> Any:
    definition = NetworkDefinition("default", **fields)
    return SimpleNamespace(
        definition=definition, bridge="tapbr1", bridge_index=9, mtu=1500
    )


def without_mac(**fields: Any) -> Grant:
    return dataclasses.replace(GRANT, mac=None, **fields)


def test_a_nic_on_a_network_has_all_of_it_but_its_index() -> None:
    nic = plan.on_network(GRANT, network(), "10.70.1.2", "fd00::2")
    assert (nic.bridge, nic.bridge_index, nic.mtu) == ("tapbr1", 9, 1500)
    assert (nic.network, nic.uid, nic.user, nic.name) == (
        "default", 1000, "alice", "web",
    )  # fmt: skip
    assert (nic.mac, nic.ipv4, nic.ipv6) == (MAC, "10.70.1.2", "fd00::2")
    assert nic.host_mac == GRANT.host_mac
    assert nic.state is State.ACTIVE
    assert nic.ifindex == 0
    assert not nic.handed_out
    assert not nic.shared
    assert len(nic.ifname) == 15


def test_a_shared_network_has_names_in_common_and_keeps_guests_apart() -> None:
    nic = plan.on_network(GRANT, network(scope=Scope.SHARED), "10.70.1.2", None)
    assert nic.shared
    assert nic.isolated


@pytest.mark.parametrize("trusted", [False, True])
def test_a_guest_without_a_mac_waits_unless_it_is_trusted(trusted: bool) -> None:
    grant = without_mac(trusted=trusted)
    nic = plan.on_bridge(grant, LINK, None, AddressCheck.LEASE, None)
    assert nic.state is (State.ACTIVE if trusted else State.WAITING)


def test_the_taps_name_tells_the_kind_of_port() -> None:
    on_network = plan.on_network(GRANT, network(), "10.70.1.2", None).ifname
    on_bridge = plan.on_bridge(GRANT, LINK, None, AddressCheck.LEASE, None).ifname
    trusted = dataclasses.replace(GRANT, trusted=True)
    never_checked = plan.on_network(trusted, network(), "10.70.1.2", None).ifname
    assert len({on_network, on_bridge, never_checked}) == 3


@pytest.mark.parametrize(
    ("check", "trusted", "learns", "strict"),
    [
        (AddressCheck.LEASE, False, True, False),
        (AddressCheck.LEASE, True, False, False),
        (AddressCheck.RESERVED, False, False, True),
        (AddressCheck.OFF, False, False, False),
    ],
)
def test_a_lans_guest_is_held_to_addresses_as_the_network_says(
    check: AddressCheck, trusted: bool, learns: bool, strict: bool
) -> None:
    grant = dataclasses.replace(GRANT, trusted=trusted)
    nic = plan.on_bridge(grant, LINK, LAN, check, None)
    assert (nic.learns, nic.strict) == (learns, strict)
    assert (nic.rate_egress, nic.rate_ingress) == (8000, 16000)
    assert (nic.bridge, nic.mtu, nic.network) == ("br0", 9000, "lan")


def test_who_has_a_reserved_address_learns_no_other() -> None:
    reserved = Reservation(ipv4=IPv4Address("192.0.2.7"))
    nic = plan.on_bridge(GRANT, LINK, LAN, AddressCheck.LEASE, reserved)
    assert (nic.ipv4, nic.ipv6, nic.learns) == ("192.0.2.7", None, False)
    nic = plan.on_bridge(GRANT, LINK, LAN, AddressCheck.OFF, reserved)
    assert (nic.ipv4, nic.learns) == (None, False)


def test_a_reservation_of_a_mac_alone_is_no_address() -> None:
    nic = plan.on_bridge(GRANT, LINK, LAN, AddressCheck.LEASE, Reservation(mac=MAC))
    assert nic.learns
