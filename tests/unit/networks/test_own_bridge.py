# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.networks.own_bridge`: its name and addresses; the rest needs a kernel.

That it is made, found and deleted: tests/kernel/test_network.py and test_going.py.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

from tapster.model import BRIDGE_PREFIX
from tapster.networks import own_bridge
from tapster.syntax import is_interface_name

SEED = bytes(range(32))


def test_name_follows_from_the_seed_and_the_instance() -> None:
    name = own_bridge.name_of(SEED, "default-1000")
    assert name == own_bridge.name_of(SEED, "default-1000")
    assert name != own_bridge.name_of(SEED, "default-1001")
    assert name != own_bridge.name_of(bytes(32), "default-1000")


def test_name_is_one_of_ours_that_the_kernel_takes() -> None:
    for uid in range(100):
        name = own_bridge.name_of(SEED, f"default-{uid}")
        assert name.startswith(BRIDGE_PREFIX) and is_interface_name(name)


def test_host_has_the_first_address_of_each_subnet_and_a_link_local_one() -> None:
    v4, v6 = IPv4Network("10.70.1.0/24"), IPv6Network("fd00:1:2:3::/64")
    own = [str(address) for address in own_bridge.host_addresses(v4, v6)]
    assert own == ["10.70.1.1/24", "fd00:1:2:3::1/64", "fe80::1/64"]
    own = [str(address) for address in own_bridge.host_addresses(v4, None)]
    assert own == ["10.70.1.1/24"]
