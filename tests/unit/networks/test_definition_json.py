# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.networks.definition_json`: what an instance was brought up with is read back
whole, or refused."""

from __future__ import annotations

import dataclasses
import json
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import pytest
from hypothesis import given

from support.definitions import DEFINITIONS, ports
from tapster.model import (
    Egress,
    Forward,
    Mode,
    NetworkDefinition,
    Port,
    Rate,
    Reservation,
    Scope,
)
from tapster.networks import definition_json

FULL = NetworkDefinition(
    "office",
    Mode.NAT,
    Scope.SHARED,
    bridge=None,
    subnet=IPv4Network("10.1.2.0/24"),
    subnet6=IPv6Network("fd00:1:2:3::/64"),
    slaac=False,
    domain="office.example",
    dns=(IPv4Address("192.0.2.53"), IPv6Address("2001:db8::53")),
    mtu=1400,
    isolation=False,
    egress=Egress.INTERNET,
    host_access=(Port("tcp", 22, 22), Port("udp", 5000, 5010)),
    rate=Rate(10**8, 10**9),
    forward=(Forward(Port("tcp", 8080, 8080), "web", 80),),
    reservations={"web": Reservation(IPv4Address("10.1.2.9"), user=1000)},
)


@given(DEFINITIONS)
def test_what_is_written_is_read_back(definition: NetworkDefinition) -> None:
    text = json.dumps(definition_json.to_json(definition))
    assert definition_json.from_json(json.loads(text)) == definition


def test_every_field_is_written() -> None:
    """One that is added to the model and forgotten here would be lost."""
    names = {field.name for field in dataclasses.fields(NetworkDefinition)}
    assert set(definition_json.to_json(FULL)) == names


@pytest.mark.parametrize("name", sorted(definition_json.to_json(FULL)))
def test_field_that_is_missing_is_an_error(name: str) -> None:
    data = definition_json.to_json(FULL)
    del data[name]
    with pytest.raises(KeyError):
        definition_json.from_json(data)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mode", "ovn"),
        ("scope", None),
        ("subnet", "10.1.2.3/24"),
        ("subnet", "fd00::/64"),
        ("subnet", 7),
        ("subnet", "10.1.2.3/32"),
        ("subnet6", 7),
        ("subnet6", "fd00::/48"),
        ("subnet6", "10.1.2.0/24"),
        ("dns", ["resolver"]),
        ("dns", None),
        ("mtu", "many"),
        ("mtu", "1500"),
        ("mtu", True),
        ("mtu", -1),
        ("name", 5),
        ("name", "a\nserver=192.0.2.9"),
        ("domain", "a.example\ndhcp-script=/x"),
        ("domain", None),
        ("ipv6", "no"),
        ("slaac", 1),
        ("dhcp", None),
        ("isolation", "false"),
        ("bridge", ["br0"]),
        ("max_nics", 2.5),
        ("rate", [True, 0]),
        ("forward", [["tcp/8080", "web", "80"]]),
        ("forward", [["tcp/8080", "w eb", 80]]),
        ("reservations", {"web": [None, None, 5, None]}),
        ("egress", "some"),
        ("host_access", ["ssh"]),
        ("rate", [1, 2, 3]),
        ("rate", ["fast", 0]),
        ("forward", [["tcp/8080", "web"]]),
        ("forward", [["tcp/0", "web", 80]]),
        ("address_check", "maybe"),
        ("reservations", {"web": ["10.1.2.256", None, None, None]}),
        ("reservations", {"web": []}),
        ("reservations", {"web": None}),
    ],
    ids=repr,
)
def test_value_that_makes_no_sense_is_an_error(name: str, value: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        definition_json.from_json({**definition_json.to_json(FULL), name: value})


@given(ports())
def test_port_is_read_as_it_is_written(port: Port) -> None:
    assert definition_json.parse_port(str(port)) == port


@pytest.mark.parametrize(
    "text",
    ["", "80", "tcp", "tcp/", "tcp/0", "tcp/65536", "tcp/2-1", "tcp/1-65536", "tcp/1-",
     "TCP/80", "sctp/80", "tcp/80 ", " tcp/80", "tcp/80\n", "tcp/+80", "tcp/080000",
     "tcp/8_0"],
    ids=repr,
)  # fmt: skip
def test_other_text_is_no_port(text: str) -> None:
    with pytest.raises(ValueError, match="not a port"):
        definition_json.parse_port(text)
