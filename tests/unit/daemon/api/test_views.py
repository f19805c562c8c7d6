# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.daemon.api.views`: what callers are shown of the broker's own objects."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Any

import pytest

from support.builders import make_nic, make_peer
from tapster.daemon.api import views
from tapster.daemon.api.doctor.finding import Finding
from tapster.daemon.nics.naming import TAP_ALIAS
from tapster.daemon.publish.forward_table import Row
from tapster.kernel.rtnetlink import Link
from tapster.model import (
    AddressCheck,
    Egress,
    Forward,
    Mode,
    NetworkDefinition,
    Port,
    Rate,
    Scope,
)
from tapster.policy.core.decide import Decision
from tapster.policy.core.explain import Step
from tapster.policy.core.facts import Facts
from tapster.wire import objects as wire

SUBNET4, SUBNET6 = IPv4Network("10.70.1.0/24"), IPv6Network("fd12:1::/64")


def make_link(ifname: str = "tapstern1", **fields: Any) -> Link:
    given = {
        "ifindex": 1,
        "name": ifname,
        "alias": f"{TAP_ALIAS}x",
        "flags": 0,
        "mtu": 1500,
        "address": "02:00:00:00:00:01",
        "master": 0,
        "kind": "tun",
        "altnames": (),
        "port": {},
        "tx_bytes": 1,
        "tx_packets": 2,
        "rx_bytes": 3,
        "rx_packets": 4,
    }
    return Link(**{**given, **fields})


@dataclass
class Running:
    """A network that is up, as far as a view looks at it."""

    definition: NetworkDefinition
    bridge: str = "tapbr1"
    uid: int | None = 1000
    mtu: int = 1500
    subnet4: IPv4Network = SUBNET4
    subnet6: IPv6Network | None = SUBNET6
    collision: str | None = None
    waiting: list[str] = field(default_factory=list)

    def differs(self, wanted: NetworkDefinition) -> list[str]:
        return self.waiting


NAT = NetworkDefinition("default", Mode.NAT)
LAN = NetworkDefinition("lan", Mode.BRIDGE, bridge="br0", scope=Scope.SHARED)


# NICs


def test_a_nic_is_shown_with_its_fields_by_their_names() -> None:
    nic = make_nic(ipv6="fd12::2", reason="why")
    shown = views.nic(nic, None)
    for name in (
        *("ifname", "mac", "ipv4", "ipv6", "mtu", "bridge", "network", "uid"),
        *("user", "pid", "name", "reason"),
    ):
        assert getattr(shown, name) == getattr(nic, name)
    assert shown.state == "active" and shown.expires is None


@pytest.mark.parametrize(
    ("link", "counters"),
    [
        (None, (0, 0, 0, 0)),
        (make_link(), (1, 2, 3, 4)),
        (make_link("tapsterother"), (0, 0, 0, 0)),
        (make_link(alias="somebody's"), (0, 0, 0, 0)),
    ],
)
def test_a_guest_has_received_what_its_own_tap_has_sent(
    link: Link | None, counters: tuple[int, ...]
) -> None:
    shown = views.nic(make_nic(), link)
    assert counters == (
        shown.rx_bytes,
        shown.rx_packets,
        shown.tx_bytes,
        shown.tx_packets,
    )


# Networks


@pytest.mark.parametrize(
    ("changes", "configured", "word", "notes"),
    [
        ({}, NAT, "up", []),
        ({"waiting": ["dns", "mtu"]}, NAT, "pending",
         ["changed: dns, mtu; takes effect when the last guest has gone"]),
        ({}, None, "removed",
         ["its definition is gone; so is it, with its last guest"]),
        ({"collision": "a route"}, NAT, "up",
         [("subnet 10.70.1.0/24 is now also a route of this host;"
           " it is found anew when the last guest has gone")]),
    ],
)  # fmt: skip
def test_a_running_network_says_what_waits_for_its_last_guest(
    changes: dict[str, Any],
    configured: NetworkDefinition | None,
    word: str,
    notes: list[str],
) -> None:
    assert views.running_state(Running(NAT, **changes), configured) == (word, notes)


@pytest.mark.parametrize(
    ("link", "state"),
    [
        (None, ("down", ["there is no bridge br0"])),
        (make_link("br0", kind="bond"), ("down", ["there is no bridge br0"])),
        (make_link("br0", kind="bridge"), ("up", [])),
    ],
)
def test_a_network_on_a_linux_bridge_is_up_while_there_is_the_bridge(
    link: Link | None, state: tuple[str, list[str]]
) -> None:
    assert views.bridge_state(LAN, link) == state


def show(
    definition: NetworkDefinition, running: Running | None = None
) -> wire.NetworkInfo:
    return views.network(
        definition,
        running,
        views.ShownState("down", ["note"]),
        user="alice" if running else None,
        forwards=["tcp/80 web:80"],
        max_nics=4,
        nics=2,
    )


def test_a_running_network_is_shown_with_its_subnets_and_gateways() -> None:
    shown = show(NAT, Running(NAT))
    assert (shown.uid, shown.user, shown.bridge) == (1000, "alice", "tapbr1")
    assert (shown.subnet4, shown.gateway4) == ("10.70.1.0/24", "10.70.1.1")
    assert (shown.subnet6, shown.gateway6) == ("fd12:1::/64", "fd12:1::1")
    assert (shown.state, shown.notes) == ("down", ["note"])
    assert (shown.max_nics, shown.nics) == (4, 2)
    assert shown.forwards == ["tcp/80 web:80"]


def test_a_network_that_is_down_is_shown_as_it_is_defined() -> None:
    shown = show(
        NetworkDefinition(
            "lab",
            Mode.ISOLATED,
            subnet=IPv4Network("10.1.0.0/24"),
            rate=Rate(8, 9),
            isolation=True,
        )
    )
    assert (shown.uid, shown.user, shown.bridge) == (None, None, None)
    assert (shown.subnet4, shown.gateway4) == ("10.1.0.0/24", "10.1.0.1")
    assert (shown.subnet6, shown.gateway6, shown.mtu) == (None, None, None)
    assert (shown.egress_rate, shown.ingress_rate) == (8, 9)
    assert shown.isolation and shown.egress is None


def test_only_a_network_of_ours_has_dhcp_and_a_domain() -> None:
    ours, theirs = show(NAT), show(LAN)
    assert (ours.dhcp, ours.domain) == (True, NAT.full_domain)
    assert (ours.address_check, ours.egress) == (None, Egress.ANY.value)
    assert (theirs.dhcp, theirs.domain) == (False, None)
    assert theirs.address_check == LAN.address_check.value
    assert theirs.address_check in {check.value for check in AddressCheck}
    assert (theirs.bridge, theirs.egress) == ("br0", None)


# Forwards


FORWARD = Forward(Port("tcp", 8080, 8080), "web", 80)


@pytest.mark.parametrize(
    ("uid", "nic_uid", "owner", "state"),
    [
        (1000, None, 1000, "waiting"),
        (1000, 1000, 1000, "active"),
        (None, None, None, "waiting"),
        (None, 1001, 1001, "active"),
    ],
)
def test_a_forward_of_the_configuration_is_its_guests(
    uid: int | None, nic_uid: int | None, owner: int | None, state: str
) -> None:
    nic = make_nic(uid=nic_uid) if nic_uid else None
    row = Row("default", uid, FORWARD, nic=nic)
    assert views.forward_owner(row) == owner
    shown = views.forward(row, "somebody")
    assert (shown.uid, shown.user, shown.state) == (owner, "somebody", state)
    assert shown.static is (uid is None)
    assert shown.ipv4 == (nic.ipv4 if nic else None)
    assert (shown.port, shown.guest, shown.guest_port) == ("tcp/8080", "web", 80)


# Decisions and findings


def test_an_explanation_of_nothing_but_a_decision_shows_nothing_else() -> None:
    what = views.Explained(Decision(False, "no"))
    shown = views.explanation(make_peer(1000), "alice", what)
    assert (shown.user, shown.uid, shown.allowed) == ("alice", 1000, False)
    assert (shown.reason, shown.rule, shown.polkit) == ("no", None, False)
    assert (shown.nics, shown.network_nics, shown.network_max_nics) == (0, None, None)
    assert (shown.steps, shown.notes) == ([], [])


def test_an_explanation_shows_steps_and_how_many_are_left_out() -> None:
    what = views.Explained(
        Decision(True, "yes"),
        facts=Facts(network_limit=9, network_nics=3),
        steps=[Step("x.toml:1", "allow", "decides")],
        hidden_steps=2,
    )
    shown = views.explanation(make_peer(1000), "alice", what)
    assert shown.steps == [wire.Step("x.toml:1", "allow", "decides")]
    assert shown.notes == ["2 more rules are not shown"]
    assert (shown.network_max_nics, shown.network_nics) == (9, 3)


def test_a_finding_is_shown_with_its_remedy() -> None:
    shown = views.finding(Finding("code", "error", "text", "command"))
    assert shown == wire.Finding("code", "error", "text", "command")
