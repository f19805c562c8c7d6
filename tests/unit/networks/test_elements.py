# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.networks.elements`: one thing in two forms. That the kernel takes
both for the same is shown in tests/kernel/test_nftelem.py."""

from __future__ import annotations

import re
import sys
from ipaddress import IPv4Network, IPv6Network

import pytest

from tapster.model import Forward, Port
from tapster.networks import elements
from tapster.networks.elements import Entry, Guest, Network

MAC, IP, IP6 = "02:00:00:00:00:01", "10.70.1.5", "fd00:1::5"
LOCAL = "fe80::ff:fe00:1"
FOUR, SIX = IPv4Network("10.70.1.0/24"), IPv6Network("fd00:1::/64")
LINE = re.compile(r"(add|delete) element (bridge|inet) tapster (\w+) \{ [^{}]+ \}")


def lines(text: str) -> list[tuple[str, str, str]]:
    """(verb, set, value) of each line."""
    found = []
    for line in text.splitlines():
        assert LINE.fullmatch(line), line
        verb, _, _, _, name, value = line.split(" ", 5)
        found.append((verb, name, value.strip("{} ")))
    return found


def test_elements_of_a_port_are_all_that_its_guest_may_say() -> None:
    entries = elements.of_port(Guest("tapstern1", 7, "n", MAC, IP, IP6))
    assert [(e.set, e.text()) for e in entries] == [
        ("ports", "tapstern1 : goto nat"),
        ("macs", "tapstern1 . 0x020000000001"),
        ("guests", f"tapstern1 . {IP}"),
        ("guests6", "tapstern1 . 0xfd000001000000000000000000000005"),
        ("guests6", "tapstern1 . 0xfe80000000000000000000fffe000001"),
        ("claimed6", "0xfe80000000000000000000fffe000001"),
    ]


def test_bytes_and_text_of_an_element_say_the_same() -> None:
    name = (7).to_bytes(4, sys.byteorder)
    mac = bytes.fromhex("0200000000010000")
    six, local = (
        bytes.fromhex("fd00000100000000" + "0" * 15 + "5"),
        bytes.fromhex("fe80000000000000000000fffe000001"),
    )
    entries = elements.of_port(Guest("tapstern1", 7, "n", MAC, IP, IP6))
    assert [element.key for element in elements.keys(entries)] == [
        name,
        name + mac,
        name + bytes((10, 70, 1, 5)),
        name + six,
        name + local,
        local,
    ]
    assert Entry("first", ("tapstern1",)).element().key == b"tapstern1".ljust(16, b"\0")
    learns = Entry(elements.LEARNERS, (MAC,), 0)
    assert learns.element().key == mac[:6] and learns.text() == "0x020000000001"
    assert b"nat\0" in elements.keys(entries)[0].data


# Nobody else's link-local address is a guest's, whatever other it has.
OWN = ["claimed6", "guests6", "macs", "ports"]


@pytest.mark.parametrize(
    ("guest", "wanted", "chain"),
    [
        (Guest("tapstern1", 7, "n", MAC, IP), [*OWN, "guests"], "nat"),
        (Guest("tapstern1", 7, "n", MAC, IP, limited=True),
         ["claimed6", "macs", "ports", "limited4", "limited6"], "nat_limited"),
        (Guest("tapsterl1", 7, "l", MAC), OWN, "lan"),
        (Guest("tapsterl1", 7, "l", MAC, learns=True), [*OWN, "learners"], "lan"),
        (Guest("tapsterl1", 7, "l", MAC, IP), [*OWN, "checked4", "guests"], "lan"),
        (Guest("tapsterl1", 7, "l", MAC, None, IP6), [*OWN, "checked6"], "lan"),
        (Guest("tapsterl1", 7, "l", MAC, strict=True), [*OWN, "checked4", "checked6"],
         "lan"),
        (Guest("tapsterl1", 7, "l", None, waiting=True), ["ports"], "waiting"),
        (Guest("tapsterl1", 7, "l", None), ["ports"], "lan"),  # refused
        (Guest("tapstert1", 7, "t", MAC, IP, IP6), ["ports"], None),
        (Guest("tapstert1", 7, "t", MAC, limited=True), ["ports"], "trusted_limited"),
    ],
)  # fmt: skip
def test_trusted_waiting_and_lan_ports_have_only_the_elements_they_need(
    guest: Guest, wanted: list[str], chain: str | None
) -> None:
    entries = elements.of_port(guest)
    assert sorted({entry.set for entry in entries}) == sorted(wanted)
    assert entries[0].chain == chain
    shared = {entry.set for entry in entries if not entry.ifindex}  # by MAC alone
    assert shared == {"claimed6", "learners"} & set(wanted)
    for _, name, value in lines(elements.added(entries)):
        assert name in shared or value.split(" ")[0] == guest.ifname


NETWORKS = [
    Network("tapbr1", FOUR, six, routed, internet, isolating, access)
    for six in (SIX, None)
    for routed in (True, False)
    for internet in (True, False)
    for isolating in (True, False)
    for access in ((), (Port("tcp", 22, 22), Port("udp", 5000, 5010)))
]


@pytest.mark.parametrize("network", NETWORKS, ids=range(len(NETWORKS)))
def test_network_is_deleted_with_the_elements_it_was_added_with(
    network: Network,
) -> None:
    added = lines(elements.add_network(network))
    deleted = lines(elements.delete_network(network))
    assert [e[1:] for e in added] == [e[1:] for e in deleted]
    assert ("add", "gateways4", "tapbr1 . 10.70.1.1") in added
    assert (("add", "nat4", "10.70.1.0/24") in added) == network.routed
    assert (("add", "within", "tapbr1 . tapbr1") in added) != network.isolating
    assert (("add", "internet", "tapbr1") in added) == network.internet_only
    if network.host_access:
        assert ("add", "host_access", "tapbr1 . udp . 5000-5010") in added


@pytest.mark.parametrize("new", NETWORKS[:8], ids=range(8))
def test_change_of_a_network_touches_only_what_differs(new: Network) -> None:
    old = NETWORKS[0]
    before, after = (
        {e[1:] for e in lines(elements.add_network(n))} for n in (old, new)
    )
    changed = lines(elements.change_network(old, new))
    for verb, *entry in changed:
        (before.discard if verb == "delete" else before.add)((entry[0], entry[1]))
    assert before == after
    assert elements.change_network(new, new) == ""


def test_forward_has_an_element_for_each_address_of_its_guest() -> None:
    rule = Forward(Port("tcp", 8080, 8080), "web", 80)
    assert lines(elements.forward("add", rule, IP, IP6)) == [
        ("add", "forwards4", f"tcp . 8080 : {IP} . 80"),
        ("add", "forwards6", f"tcp . 8080 : {IP6} . 80"),
    ]
    assert lines(elements.forward("delete", rule, IP, None)) == [
        ("delete", "forwards4", "tcp . 8080")
    ]


def test_the_link_local_address_follows_from_the_mac() -> None:
    entries = elements.of_port(Guest("tapstern1", 7, "n", MAC, IP, IP6))
    assert entries[-1].parts == (LOCAL,)
