# SPDX-License-Identifier: LGPL-2.1-or-later
"""Definitions of networks of every kind, as hypothesis makes them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from hypothesis import strategies as st

from tapster.model import (
    AddressCheck,
    Egress,
    Forward,
    Mode,
    NetworkDefinition,
    Port,
    Rate,
    Reservation,
    Scope,
)

NAMES = st.from_regex(r"[a-z]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
NUMBERS = st.integers(1, 65535)
PROTOCOLS = st.sampled_from(("tcp", "udp"))
MACS = st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":"))
IPV4 = st.integers(0, 2**32 - 1).map(IPv4Address)
IPV6 = st.integers(0, 2**128 - 1).map(IPv6Address)
SUBNETS = st.builds(
    lambda address, length: IPv4Network((address, length), strict=False),
    IPV4,
    st.integers(16, 29),
)
SUBNETS6 = IPV6.map(lambda address: IPv6Network((address, 64), strict=False))


@st.composite
def ports(draw: st.DrawFn) -> Port:
    first, last = sorted((draw(NUMBERS), draw(NUMBERS)))
    return Port(draw(PROTOCOLS), first, last)


FORWARDS = st.builds(
    lambda protocol, port, guest, number: Forward(
        Port(protocol, port, port), guest, number
    ),
    PROTOCOLS,
    NUMBERS,
    NAMES,
    NUMBERS,
)
RESERVATIONS = st.builds(
    Reservation,
    ipv4=st.none() | IPV4,
    ipv6=st.none() | IPV6,
    mac=st.none() | MACS,
    user=st.none() | st.integers(0, 2**32 - 2),
)
DEFINITIONS = st.builds(
    NetworkDefinition,
    name=NAMES,
    mode=st.sampled_from(Mode),
    scope=st.sampled_from(Scope),
    bridge=st.none() | NAMES,
    subnet=st.none() | SUBNETS,
    subnet6=st.none() | SUBNETS6,
    ipv6=st.booleans(),
    slaac=st.booleans(),
    domain=st.just("") | NAMES,
    dns=st.lists(IPV4 | IPV6, max_size=3).map(tuple),
    dhcp=st.booleans(),
    mtu=st.none() | st.integers(576, 65535),
    isolation=st.none() | st.booleans(),
    egress=st.sampled_from(Egress),
    host_access=st.lists(ports(), max_size=3).map(tuple),
    rate=st.builds(Rate, st.integers(0, 10**11), st.integers(0, 10**11)),
    forward=st.lists(FORWARDS, max_size=3).map(tuple),
    address_check=st.sampled_from(AddressCheck),
    reservations=st.dictionaries(NAMES, RESERVATIONS, max_size=3),
)
