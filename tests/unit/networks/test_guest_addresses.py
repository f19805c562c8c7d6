# SPDX-License-Identifier: LGPL-2.1-or-later
"""`networks.guest_addresses`: the address a guest gets is one that it may have."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tapster.errors import AddressesExhausted
from tapster.model import NetworkDefinition, Reservation, Scope
from tapster.networks import addresses
from tapster.networks.guest_addresses import GuestAddresses, reservation_for
from tapster.networks.state_store import NetworkState

SEED = bytes(range(32))
SUBNET = IPv4Network("10.70.1.0/28")
SUBNET6 = IPv6Network("fd00:1:2:3::/64")
MAC = "02:00:00:00:00:01"
ME, OTHER = 1000, 1001
NAMES = st.sampled_from([f"guest{number}" for number in range(8)])
HOSTS = st.integers(2, SUBNET.num_addresses - 2).map(lambda n: SUBNET[n])
SEEDS = st.binary(min_size=16, max_size=32)


def definition(scope: Scope = Scope.USER, **reserved: Reservation) -> NetworkDefinition:
    return NetworkDefinition("office", scope=scope, reservations=reserved)


def wanted(
    network: NetworkDefinition, name: str, uid: int = ME, mac: str | None = MAC,
    subnet: IPv4Network = SUBNET, subnet6: IPv6Network | None = SUBNET6,
) -> GuestAddresses:  # fmt: skip
    return GuestAddresses(network, subnet, subnet6, name, uid, mac)


def ipv4(network: NetworkDefinition, name: str, uid: int = ME) -> str:
    return wanted(network, name, uid).ipv4(SEED, NetworkState(SUBNET), set())[0]


@st.composite
def networks(draw: st.DrawFn) -> NetworkDefinition:
    """A network with reservations as the configuration lets them be."""
    names = draw(st.lists(NAMES, unique=True, max_size=4))
    wanted = draw(
        st.lists(HOSTS, unique=True, min_size=len(names), max_size=len(names))
    )
    users = st.sampled_from((None, ME, OTHER))
    reserved = {
        name: Reservation(address, user=draw(users))
        for name, address in zip(names, wanted, strict=True)
    }
    return definition(draw(st.sampled_from(Scope)), **reserved)


STATES = st.dictionaries(
    NAMES | st.sampled_from([f"guest{n}.{ME}" for n in range(8)]),
    st.integers(0, SUBNET.num_addresses + 3).map(
        lambda number: str(IPv4Address(int(SUBNET[0]) + number))
    )
    | st.sampled_from(("", "x", "8.8.8.8", "::1")),
    max_size=8,
)
IN_USE = st.sets(HOSTS.map(str), max_size=14)


@given(networks(), NAMES, st.sampled_from((ME, OTHER)), STATES, IN_USE, SEEDS)
def test_address_is_one_that_a_guest_may_have(
    network: NetworkDefinition,
    name: str,
    uid: int,
    remembered: dict[str, str],
    in_use: set[str],
    seed: bytes,
) -> None:
    """Whatever the state directory says, and whoever is there."""
    state = NetworkState(SUBNET, dict(remembered))
    reserved = reservation_for(network, name, uid)
    others = {
        str(other.ipv4)
        for other in network.reservations.values()
        if other is not reserved
    }
    try:
        given_, changed = wanted(network, name, uid).ipv4(seed, state, in_use)
    except AddressesExhausted:
        if reserved is None:
            everyone = {str(host) for host in list(SUBNET)[2:-1]}
            assert everyone <= in_use | others
        else:
            assert str(reserved.ipv4) in in_use
        assert state.guests == remembered
        return
    address = IPv4Address(given_)
    assert address in SUBNET
    assert address not in (SUBNET[0], SUBNET[1], SUBNET[-1])
    assert given_ not in in_use | others
    if reserved is not None:
        assert address == reserved.ipv4
    if not changed:
        assert dict(state.guests) == remembered
    # The same at once, and with what is remembered the same under another seed.
    for again in (seed, SEED):
        assert wanted(network, name, uid).ipv4(again, state, in_use) == (given_, False)


@given(st.permutations([f"guest{n}" for n in range(13)]), SEEDS)
def test_addresses_are_distinct_until_all_are_given(
    names: list[str], seed: bytes
) -> None:
    network, state = definition(), NetworkState(SUBNET)
    given_: dict[str, str] = {}
    for name in names:
        address, changed = wanted(network, name).ipv4(seed, state, set(given_.values()))
        assert changed and address not in given_.values()
        given_[name] = address
    assert len(given_) == SUBNET.num_addresses - 3
    with pytest.raises(AddressesExhausted, match="office has no free address"):
        wanted(network, "one-more").ipv4(seed, state, set(given_.values()))
    # Whoever comes again gets the same, in whatever order.
    for name in reversed(names):
        others = set(given_.values()) - {given_[name]}
        assert wanted(network, name).ipv4(seed, state, others) == (given_[name], False)


@given(NAMES, NAMES, SEEDS)
def test_users_guests_of_one_name_are_two_in_a_shared_network(
    name: str, other: str, seed: bytes
) -> None:
    state = NetworkState(SUBNET)
    network = definition(Scope.SHARED)
    mine, _ = wanted(network, name, ME).ipv4(seed, state, set())
    theirs, _ = wanted(network, name, OTHER).ipv4(seed, state, set())
    assert mine != theirs  # also one after the other
    assume(other != name)
    assert wanted(network, other, ME).ipv4(seed, state, set())[0] not in (mine, theirs)


class TestReservations:
    NETWORK = definition(
        web=Reservation(SUBNET[5], SUBNET6[0x55], user=ME),
        db=Reservation(SUBNET[6]),
        six=Reservation(ipv6=SUBNET6[0x66]),
    )

    def test_reservation_with_a_user_is_for_that_user_alone(self) -> None:
        assert ipv4(self.NETWORK, "web") == str(SUBNET[5])
        assert ipv4(self.NETWORK, "web", OTHER) != str(SUBNET[5])
        assert ipv4(self.NETWORK, "db", OTHER) == str(SUBNET[6])
        assert reservation_for(self.NETWORK, "web", OTHER) is None
        assert reservation_for(self.NETWORK, "nobody", ME) is None

    def test_reserved_address_is_given_to_nobody_else_while_it_is_free(self) -> None:
        state = NetworkState(SUBNET, {"old": str(SUBNET[5])})
        address, changed = wanted(self.NETWORK, "old").ipv4(SEED, state, set())
        assert changed and address != str(SUBNET[5])
        taken = {str(host) for host in list(SUBNET)[2:-1]} - {str(SUBNET[5])}
        with pytest.raises(AddressesExhausted):
            wanted(self.NETWORK, "more").ipv4(SEED, NetworkState(SUBNET), taken)

    def test_reserved_address_that_is_in_use_is_refused_by_name(self) -> None:
        """By a guest that had it before it was reserved."""
        with pytest.raises(AddressesExhausted) as raised:
            wanted(self.NETWORK, "web").ipv4(
                SEED, NetworkState(SUBNET), {str(SUBNET[5])}
            )
        assert str(SUBNET[5]) in str(raised.value)
        assert raised.value.hint == "end the guest that has it"

    def test_reserved_ipv6_address_comes_before_the_one_of_the_mac(self) -> None:
        assert wanted(self.NETWORK, "web").ipv6() == str(SUBNET6[0x55])
        assert wanted(self.NETWORK, "six", OTHER).ipv6() == str(SUBNET6[0x66])
        made = IPv6Address("fd00:1:2:3::ff:fe00:1")
        assert wanted(self.NETWORK, "web", OTHER).ipv6() == str(made)

    def test_reservation_without_an_ipv4_address_leaves_it_open(self) -> None:
        address = IPv4Address(ipv4(self.NETWORK, "six"))
        assert address in SUBNET and address not in (SUBNET[5], SUBNET[6])


def test_no_ipv6_address_without_a_subnet_or_a_mac() -> None:
    assert wanted(definition(), "web", subnet6=None).ipv6() is None
    assert wanted(definition(), "web", mac=None).ipv6() is None
    assert wanted(definition(), "web").ipv6() == str(addresses.eui64(SUBNET6, MAC))


def test_longest_unused_gives_its_address_to_a_new_one() -> None:
    """When all that are not in use are remembered for somebody."""
    state, network = NetworkState(SUBNET), definition()
    names = [f"guest{number}" for number in range(SUBNET.num_addresses - 3)]
    had = {name: wanted(network, name).ipv4(SEED, state, set())[0] for name in names}
    wanted(network, names[0]).ipv4(SEED, state, set())  # now used last
    address, changed = wanted(network, "new").ipv4(SEED, state, set())
    assert (address, changed) == (had[names[1]], True)
    assert names[1] not in state.guests
    assert state.guests["new"] == address
