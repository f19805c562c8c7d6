# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.networks.addresses`: stable, unique, and never in anybody's way."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapster.networks import addresses

SEED = bytes(range(32))
MACS = st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":"))
SUBNET = IPv4Network("10.70.1.0/24")


def test_parts_do_not_run_into_one_another() -> None:
    one, other = ("ab", "c"), ("a", "bc")
    assert addresses.digest(SEED, *one) != addresses.digest(SEED, *other)
    assert addresses.digest(SEED, 1) == addresses.digest(SEED, "1")


@given(st.integers(min_value=0, max_value=2**64 - 1))
def test_base36_has_leading_zeros_and_wraps(number: int) -> None:
    text = addresses.base36(number, 8)
    assert len(text) == 8
    assert int(text, 36) == number % 36**8
    assert text == text.lower()


@given(st.text(), st.integers(0, 2**32))
def test_guest_macs_are_local_unicast_and_none_of_the_host_or_qemu(
    name: str, uid: int
) -> None:
    macs = list(islice(addresses.guest_macs(SEED, "default", uid, name), 4))
    assert macs == list(islice(addresses.guest_macs(SEED, "default", uid, name), 4))
    assert len(set(macs)) == 4
    for mac in macs:
        first = int(mac[:2], 16)
        assert first & 3 == 2  # local, and one guest's
        assert first not in (0xFE, 0x52)


def test_another_host_gives_other_macs() -> None:
    ours = next(addresses.guest_macs(SEED, "web1"))
    assert ours != next(addresses.guest_macs(SEED[::-1], "web1"))


@given(MACS)
def test_host_side_mac_is_high_and_not_the_guests(mac: str) -> None:
    host = addresses.host_side_mac(mac)
    assert host != mac
    assert len(host) == 17
    assert host.startswith("fe:")
    assert addresses.host_side_mac(mac.upper()).lower() == host


def test_slaac_address_is_made_from_prefix_and_mac() -> None:
    # the example of RFC 4291, appendix A, with its own bits
    prefix = IPv6Network("fd00::/64")
    assert str(addresses.eui64(prefix, "34:56:78:9a:bc:de")) == (
        "fd00::3656:78ff:fe9a:bcde"
    )


def test_a_subnet_is_stable_and_per_identity() -> None:
    one = addresses.free_ipv4_subnet(SEED, [], "default-1000")
    assert one == addresses.free_ipv4_subnet(SEED, [], "default-1000")
    assert one != addresses.free_ipv4_subnet(SEED, [], "default-1001")
    assert one is not None
    assert one.prefixlen == 24
    assert one.subnet_of(addresses.POOLS[0])


NETWORKS = st.builds(
    lambda base, length: IPv4Network((base, length), strict=False),
    st.sampled_from([int(p[n]) for p in addresses.POOLS for n in (0, 300, -1)]),
    st.integers(8, 32),
)


@given(st.lists(NETWORKS, max_size=8))
def test_a_subnet_overlaps_nothing(used: list[IPv4Network]) -> None:
    six = IPv6Network("fd00::/8")  # of no concern
    found = addresses.free_ipv4_subnet(SEED, [six, *used], "default-1000")
    if found is not None:
        assert not any(found.overlaps(network) for network in used)
    else:
        free = set(addresses.POOLS) - {
            p for p in addresses.POOLS for n in used if n.overlaps(p)
        }
        assert not free


def test_a_pool_that_is_used_up_is_followed_by_the_next() -> None:
    vpn = IPv4Network("10.0.0.0/8")
    found = addresses.free_ipv4_subnet(SEED, [vpn], "x")
    assert found is not None
    assert found.subnet_of(addresses.POOLS[1])
    found = addresses.free_ipv4_subnet(SEED, [vpn, addresses.POOLS[1]], "x")
    assert found is not None
    assert found.subnet_of(addresses.POOLS[2])


def test_host_that_uses_every_pool_has_no_free_subnet() -> None:
    for used in (list(addresses.POOLS), [IPv4Network("0.0.0.0/0")]):
        assert addresses.free_ipv4_subnet(SEED, used, "x") is None


def test_the_last_subnet_is_found() -> None:
    every = [net for pool in addresses.POOLS for net in pool.subnets(new_prefix=24)]
    left = every.pop(4711)
    assert addresses.free_ipv4_subnet(SEED, every, "x") == left


def test_unique_local_subnets_share_the_host_s_prefix() -> None:
    one = addresses.unique_local_subnet(SEED, "default-1000")
    other = addresses.unique_local_subnet(SEED, "default-1001")
    assert one != other
    assert one.supernet(new_prefix=48) == other.supernet(new_prefix=48)
    assert one.subnet_of(IPv6Network("fd00::/8"))
    assert one.prefixlen == 64


def test_gateway_is_the_first_address_of_a_subnet() -> None:
    assert str(addresses.gateway(SUBNET)) == "10.70.1.1"
    assert str(addresses.gateway(IPv6Network("fd00::/64"))) == "fd00::1"


@given(st.text(), st.sets(st.integers(2, 254)))
def test_guest_address_is_free_and_neither_the_networks_nor_the_gateways(
    name: str, numbers: set[int]
) -> None:
    taken = {str(SUBNET[number]) for number in numbers}
    found = addresses.guest_address(SEED, SUBNET, taken, name)
    again = addresses.guest_address(SEED, SUBNET, taken.__contains__, name)
    assert found == again
    if found is None:
        assert len(taken) == 253
    else:
        assert found not in taken
        assert 2 <= int(IPv4Address(found)) - int(SUBNET[0]) <= 254


@pytest.mark.parametrize("last", [2, 100, 254])
def test_the_last_address_is_found(last: int) -> None:
    taken = {str(SUBNET[n]) for n in range(2, 255)} - {str(SUBNET[last])}
    assert addresses.guest_address(SEED, SUBNET, taken, "x") == str(SUBNET[last])
