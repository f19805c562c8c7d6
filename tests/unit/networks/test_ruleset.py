# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.networks.ruleset`: the text. Whether nftables takes it, and what it
then does to frames, is for tests/kernel."""

from __future__ import annotations

import re

from tapster.networks import ruleset


def test_ruleset_names_no_table_but_ours() -> None:
    tables = set(re.findall(r"table (\w+ \w+)", ruleset.tables()))
    assert tables == {ruleset.BRIDGE_TABLE, ruleset.INET_TABLE}
    assert re.findall(r"(?:flush|destroy)", ruleset.tables()) == []


def test_making_tables_removes_them_first() -> None:
    assert ruleset.tables().startswith(ruleset.no_tables())
    for table in (ruleset.BRIDGE_TABLE, ruleset.INET_TABLE):
        gone = f"add table {table}\ndelete table {table}\n"
        assert gone in ruleset.no_tables()


def chain(name: str, text: str) -> list[str]:
    """The rules of a chain."""
    inner = text.partition(f"chain {name} {{")[2].partition("\n    }")[0]
    return [line.strip() for line in inner.splitlines() if line.strip()]


def test_what_a_guest_says_is_dropped_unless_it_is_accepted() -> None:
    for name in ("own_arp", "own_ipv4", "own_ipv6", "own_target"):
        rules = chain(name, ruleset._BRIDGE)
        assert rules[-1] == "drop", name
        accepts = [rule for rule in rules if rule.endswith("accept")]
        for rule in accepts:
            # By who it is, or a source that nobody has or that nobody claimed.
            assert (
                "@guests" in rule
                or "@limited" in rule
                or "saddr ::" in rule
                or "0.0.0.0" in rule
                or ("fe80::/10" in rule and "ip6 saddr fe80::1 drop" in rules)
            )


def test_what_no_guest_may_say_is_dropped_before_anything_is_accepted() -> None:
    """By protocol: what nobody may say is asked before who says it."""
    for name, first in (
        ("nat4", "ip protocol 17 jump udp4"),
        ("lan4", "ip protocol 17 jump udp4"),
    ):
        assert chain(name, ruleset._BRIDGE)[0] == first
    for name, tcp, icmp in (
        ("nat6", "goto own_ipv6", "icmp6_own"),
        ("lan6", "iif != @checked6 accept", "icmp6"),
    ):
        assert chain(name, ruleset._BRIDGE)[:3] == [
            f"ip6 nexthdr 6 {tcp}",  # and so neither UDP nor ICMP
            f"meta l4proto 58 jump {icmp}",
            "jump others6",
        ]
    for name in ("udp4", "icmp6", "others6"):
        assert not any("accept" in rule for rule in chain(name, ruleset._BRIDGE))


def test_no_port_of_ours_is_without_checks() -> None:
    """One without an element says nothing."""
    rules = chain("prerouting", ruleset._BRIDGE)
    assert rules[1:] == [
        'iifname != "tapster*" goto of_others',
        "ether type ip ip protocol 6 iif . ip saddr @guests accept",
        "ether type ip6 ip6 nexthdr 6 iif . @nh,64,128 @guests6 accept",
        "iif vmap @ports", "drop",
    ]  # fmt: skip
    for kind in (ruleset.LAN, ruleset.NAT, ruleset.TRUSTED):
        for waiting in (True, False):
            for limited in (True, False):
                name = ruleset.chain_of(kind, waiting=waiting, limited=limited)
                assert (name is None) == (
                    kind == ruleset.TRUSTED and not waiting and not limited
                )
                assert name is None or chain(name, ruleset._BRIDGE), name
    for name in ("nat", "lan"):
        assert chain(name, ruleset._BRIDGE)[-1] == "drop"


def test_source_ports_of_guests_are_high() -> None:
    for line in ruleset.tables().splitlines():
        if "masquerade" in line and "l4proto" in line:
            assert line.endswith("masquerade to :1024-65535")
