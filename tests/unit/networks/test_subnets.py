# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.networks.subnets`: an instance keeps its subnet as long as it can."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

import pytest

from tapster.errors import AddressesExhausted, BrokerFailure
from tapster.model import NetworkDefinition
from tapster.networks import addresses
from tapster.networks.subnets import choose_ipv4, rival_of

SEED = bytes(range(32))
KEY = "default-1000"
ANY = NetworkDefinition("default")
FIXED = NetworkDefinition("lab", subnet=IPv4Network("10.66.0.0/24"))
LAST = IPv4Network("10.70.1.0/24")
SIX = IPv6Network("fd00::/64")


def test_new_instance_gets_a_free_subnet_that_is_the_same_every_time() -> None:
    first = choose_ipv4(ANY, KEY, SEED, [SIX], None)
    assert first == choose_ipv4(ANY, KEY, SEED, [SIX], None)
    assert not choose_ipv4(ANY, KEY, SEED, [SIX, first], None).overlaps(first)


def test_instance_keeps_its_subnet() -> None:
    assert choose_ipv4(ANY, KEY, SEED, [IPv4Network("10.70.2.0/24")], LAST) == LAST


def test_instance_whose_subnet_is_in_use_gets_another() -> None:
    used = [IPv4Network("10.70.0.0/16")]
    assert not choose_ipv4(ANY, KEY, SEED, used, LAST).overlaps(used[0])


def test_configured_subnet_comes_before_the_last_one() -> None:
    assert choose_ipv4(FIXED, KEY, SEED, [LAST], LAST) == FIXED.subnet


def test_configured_subnet_that_is_in_use_is_refused_and_the_rival_is_named() -> None:
    with pytest.raises(BrokerFailure) as caught:
        choose_ipv4(FIXED, KEY, SEED, [SIX, IPv4Network("10.66.0.128/25")], LAST)
    assert "10.66.0.128/25" in (caught.value.hint or "")


def test_host_that_uses_every_pool_has_no_free_subnet() -> None:
    with pytest.raises(AddressesExhausted):
        choose_ipv4(ANY, KEY, SEED, addresses.POOLS, LAST)


def test_rival_is_what_another_device_has_in_the_subnet() -> None:
    vpn = IPv4Network("10.70.0.0/16")
    used = [(7, LAST), (8, IPv4Network("192.0.2.0/24")), (9, vpn)]
    assert rival_of(LAST, used, 7) == vpn
    assert rival_of(LAST, used[:2], 7) is None
