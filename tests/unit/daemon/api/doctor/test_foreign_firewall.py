# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.daemon.api.doctor.foreign_firewall`: what other people's rules do with
packets of ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from support.nft_listing import (
    ACCEPT,
    DROP,
    RETURN,
    jump,
    match,
    meta,
    payload,
    table,
    xt,
)
from tapster.daemon.api.doctor.foreign_firewall import NftSimulation, Packet, packet

COUNTER = {"counter": {"packets": 0, "bytes": 0}}
REJECT = {"reject": {"type": "icmpx", "expr": "admin-prohibited"}}
LIMIT = {"limit": {"rate": 3, "burst": 10, "per": "minute"}}

OUT = packet("out", "forward", "ip", "tcp", iifname="tapbr1", oifname="eth0")
BACK = packet(
    "back", "forward", "ip", "tcp", iifname="eth0", oifname="tapbr1",
    state="established",
)  # fmt: skip
DNS = packet("DNS", "input", "ip", "udp", iifname="tapbr1", dport=53)


def forward(
    *rules: Sequence[Any], policy: str = "drop", **chains: Any
) -> NftSimulation:
    return NftSimulation(table({"FORWARD": rules, **chains}, policy=policy))


def fate(rules: NftSimulation, what: Packet = OUT) -> str:
    obstacles = rules.obstacles(what)
    if not obstacles:
        return "accepted"
    return "dropped" if all(o.certain for o in obstacles) else "maybe"


def test_a_packet_that_no_rule_decides_meets_the_policy() -> None:
    assert fate(forward()) == "dropped"
    assert fate(forward(policy="accept")) == "accepted"
    assert fate(forward([COUNTER], [{"log": {}}])) == "dropped"


def test_the_first_verdict_counts() -> None:
    assert fate(forward([ACCEPT], [DROP])) == "accepted"
    assert fate(forward([DROP], [ACCEPT], policy="accept")) == "dropped"
    assert fate(forward([REJECT], policy="accept")) == "dropped"
    assert fate(forward([xt("REJECT", "target")], policy="accept")) == "dropped"


def test_jump_comes_back_and_goto_does_not() -> None:
    assert fate(forward([jump("c")], [ACCEPT], c=[[RETURN], [DROP]])) == "accepted"
    assert fate(forward([jump("c", "goto")], [ACCEPT], c=[[RETURN]])) == "dropped"
    # goto in a chain that was jumped to returns to who jumped
    rules = forward([jump("a")], [ACCEPT], a=[[jump("b", "goto")], [DROP]], b=[])
    assert fate(rules) == "accepted"


def test_a_drop_anywhere_is_final() -> None:
    rules = table({"FORWARD": [[ACCEPT]]}) + table(
        {"FORWARD": [[DROP]]}, family="inet", name="theirs", policy="accept"
    )
    (obstacle,) = NftSimulation(rules).obstacles(OUT)
    assert (obstacle.family, obstacle.table) == ("inet", "theirs")
    assert obstacle.chain == "FORWARD" and obstacle.certain


def test_our_table_other_hooks_and_dormant_tables_are_left_out() -> None:
    dormant: list[dict[str, Any]] = table({"FORWARD": []}, name="asleep")
    dormant[0]["table"]["flags"] = ["dormant"]
    for rules in (
        table({"FORWARD": []}, family="inet", name="tapster"),
        table({"FORWARD": []}, family="ip6"),
        table({"FORWARD": []}, family="bridge"),
        table({"INPUT": []}),
        dormant,
    ):
        assert fate(NftSimulation(rules)) == "accepted"


def test_an_undecidable_match_is_followed_both_ways() -> None:
    mark = meta("mark", 5)
    assert fate(forward([mark, ACCEPT])) == "maybe"
    assert fate(forward([mark, ACCEPT], [ACCEPT])) == "accepted"
    assert fate(forward([mark, DROP])) == "dropped"
    assert fate(forward([LIMIT, ACCEPT])) == "maybe"
    assert fate(forward([{"queue": {"num": 0}}])) == "maybe"
    assert fate(forward([mark, jump("c")], [ACCEPT], c=[[DROP]])) == "maybe"
    assert fate(forward([None, ACCEPT])) == "maybe"
    assert fate(forward([{"what is this": 1}, ACCEPT])) == "maybe"


def test_a_possible_drop_is_no_obstacle_where_the_policy_is_accept() -> None:
    assert fate(forward([meta("mark", 5), DROP], policy="accept")) == "accepted"


@pytest.mark.parametrize(
    ("statement", "hit"),
    [
        (meta("iifname", "tapbr*"), True),
        (meta("iifname", "tapbr1"), True),
        (meta("iifname", "tapbr"), False),
        (meta("iifname", "docker0", "!="), True),
        (meta("iifname", {"set": ["lo", "tapbr*"]}), True),
        (meta("oifname", {"set": ["lo", "eth1"]}), False),
        (meta("oifname", "@uplinks"), None),
        (meta("l4proto", 6), True),
        (meta("l4proto", {"set": ["icmp", "ipv6-icmp"]}), False),
        (meta("nfproto", "ipv6"), False),
        (meta("mark", 1), None),
        (payload("udp", "dport", 53), False),
        (payload("udp", "dport", 53, "!="), False),
        (payload("tcp", "dport", 80), None),
        (payload("ip6", "daddr", "::1"), False),
        (payload("ip", "saddr", "10.0.0.1"), None),
        (match({"ct": {"key": "state"}}, ["established", "related"], "in"), False),
        (match({"ct": {"key": "state"}}, ["new"], "in"), True),
        (match({"ct": {"key": "state"}}, "invalid", "in"), False),
        (match({"ct": {"key": "status"}}, "dnat", "in"), False),
        (meta("iifname", 5, "<"), None),
        (match({"&": [{"meta": {"key": "mark"}}, 1]}, 1), None),
        (xt("comment"), True),
        (xt("multiport"), None),
        (xt("conntrack"), False),
        (xt("rt"), False),
    ],
)
def test_a_match_hits_misses_or_is_undecidable(
    statement: Any, hit: bool | None
) -> None:
    said = {True: "accepted", False: "dropped", None: "maybe"}[hit]
    assert fate(forward([statement, ACCEPT])) == said


def test_ports_and_addresses_are_compared() -> None:
    dhcp = packet("DHCP", "input", "ip", "udp", iifname="tapbr1", sport=68,
                  dport=67, daddr="255.255.255.255")  # fmt: skip
    kind = {"fib": {"result": "type", "flags": ["daddr"]}}
    for statement, one, other in (
        (payload("udp", "dport", 67), True, False),
        (payload("th", "dport", {"range": [60, 70]}), True, False),
        (payload("udp", "dport", {"set": [53, {"range": [1, 9]}]}), False, True),
        (match(kind, "broadcast"), True, False),
        (match(kind, "local"), False, True),
        (payload("ip", "daddr", {"prefix": {"addr": "255.255.255.0", "len": 24}}),
         True, None),
    ):  # fmt: skip
        rules = NftSimulation(table({"INPUT": [[statement, ACCEPT]]}))
        said = {True: "accepted", False: "dropped", None: "maybe"}
        assert fate(rules, dhcp) == said[one], statement
        assert fate(rules, DNS) == said[other], statement


def test_named_sets_are_looked_up() -> None:
    for elements, said in (
        (["eth0"], "accepted"),
        ([{"elem": {"val": "eth0", "timeout": 5}}], "accepted"),
        (["eth1"], "dropped"),
    ):
        listing = table({"FORWARD": [[meta("oifname", "@uplinks"), ACCEPT]]})
        named = {"family": "ip", "table": "filter", "name": "uplinks"}
        listing.insert(1, {"set": {**named, "elem": elements}})
        assert fate(NftSimulation(listing)) == said


def test_concatenations_are_compared_part_by_part() -> None:
    pair = {"concat": [{"meta": {"key": "iifname"}}, {"meta": {"key": "oifname"}}]}
    for second, said in (("eth0", "accepted"), ("eth1", "dropped")):
        right = {"set": [{"concat": ["tapbr1", second]}]}
        assert fate(forward([match(pair, right), ACCEPT])) == said


def test_verdict_maps_give_the_verdict_of_their_element() -> None:
    def by(key: str, *pairs: Any) -> dict[str, Any]:
        data = {"set": [list(pair) for pair in pairs]}
        return {"vmap": {"key": {"meta": {"key": key}}, "data": data}}

    ours = ("tapbr1", jump("ours", "goto"))
    assert fate(forward([by("iifname", ("lo", DROP), ours)], ours=[[ACCEPT]])) == (
        "accepted"
    )
    assert fate(forward([by("iifname", ("lo", ACCEPT))])) == "dropped"
    assert fate(forward([by("mark", (1, ACCEPT))])) == "maybe"
    assert fate(forward([by("mark", (1, ACCEPT)), ACCEPT], policy="drop")) == "maybe"


def test_conntrack_of_iptables_is_guessed_from_the_verdict() -> None:
    known = forward([meta("oifname", "tapbr*"), xt("conntrack"), ACCEPT])
    assert fate(known, BACK) == "accepted" and fate(known) == "dropped"
    assert fate(forward([xt("conntrack"), ACCEPT]), BACK) == "accepted"
    # Alone and with a drop it is about invalid packets; with more, who knows?
    assert fate(forward([xt("conntrack"), DROP], [ACCEPT])) == "accepted"
    some = [meta("iifname", "tapbr*"), xt("conntrack"), ACCEPT]
    assert fate(forward(some)) == "maybe"
    some[2] = DROP
    assert fate(forward(some, [ACCEPT])) == "maybe"


def test_targets_of_iptables_pass_or_are_undecidable() -> None:
    assert fate(forward([xt("LOG", "target")], [ACCEPT])) == "accepted"
    assert fate(forward([xt("NFQUEUE", "target")], [ACCEPT])) == "maybe"


def test_packets_for_this_host_pass_ufws_not_local_chain() -> None:
    """Three matches that can't be read, and a drop; all of it is not for us."""
    local = [[xt("addrtype"), RETURN]] * 3 + [[LIMIT, jump("log")], [DROP]]
    ours = [meta("iifname", "tapbr*"), ACCEPT]
    chains = {"INPUT": [[jump("local")], ours], "local": local, "log": []}
    assert fate(NftSimulation(table(chains)), DNS) == "accepted"
