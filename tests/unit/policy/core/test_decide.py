# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who may have what, from facts alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.policies import (
    ALICE,
    BOB,
    BR0,
    BROKEN,
    DEFAULT,
    LAN,
    MAC,
    MANY,
    NO,
    PEERS,
    ROOT,
    RULES,
    SILENT,
    TARGETS,
    VERDICTS,
    YES,
    allow,
    deny,
)
from tapster.model import Peer, Port, Rule
from tapster.policy.core import decide as policy
from tapster.policy.core.decide import MAX_NICS, Decision
from tapster.policy.core.facts import Facts, Share, Usernet, Verdict
from tapster.policy.core.rulebook import Rulebook, Target
from tapster.policy.foreign.access import Contents
from tapster.policy.foreign.bridge_conf import judge


def decide(
    peer: Peer,
    target: Target,
    nics: int,
    verdict: Verdict | None,
    rules: Sequence[Rule] = (),
    mac: str | None = None,
) -> Decision:
    facts = Facts(lambda *_: nics, verdict)
    target = target._replace(mac=mac or target.mac)
    return policy.decide(peer, target, Rulebook(rules), facts)


def quota(peer: Peer, network: str, rules: Sequence[Rule] = ()) -> int:
    return decide(peer, Target(network), 0, None, rules).max_nics or 0


def may_forward(
    peer: Peer, network: str, port: Port, rules: Sequence[Rule] = ()
) -> Decision:
    return policy.may_forward(peer, Target(network), port, Rulebook(rules))


def terms(decision: Decision) -> tuple[bool, bool, int | None]:
    return decision.over_quota, decision.trusted, decision.max_nics


# --- without rules of a file


@pytest.mark.parametrize("nics", [0, 1, MAX_NICS - 1])
def test_everybody_may_use_the_default_network(nics: int) -> None:
    decision = decide(ALICE, DEFAULT, nics, None)
    assert decision.allowed
    assert (decision.over_quota, decision.trusted) == (False, False)
    assert decision.max_nics == MAX_NICS == quota(ALICE, "default")


@pytest.mark.parametrize("peer", [ALICE, ROOT])
@pytest.mark.parametrize("nics", [MAX_NICS, MAX_NICS + 1])
def test_who_has_all_nics_of_the_built_in_rule_is_over_quota(
    peer: Peer, nics: int
) -> None:
    decision = decide(peer, DEFAULT, nics, None)
    assert not decision.allowed
    assert decision.over_quota
    assert decision.max_nics == MAX_NICS
    assert str(peer.uid) in decision.reason


@pytest.mark.parametrize("peer", [ALICE, ROOT])
def test_a_bridge_is_as_its_verdict_says(peer: Peer) -> None:
    location = "/etc/qemu/bridge.conf:1"
    assert decide(peer, BR0, 0, YES) == Decision(True, YES.reason, location=location)
    assert decide(peer, BR0, 0, NO) == Decision(False, NO.reason, location=location)
    # The quota is the default network's.
    assert decide(peer, BR0, 1000, YES).allowed


@pytest.mark.parametrize("peer", [ALICE, ROOT])
@pytest.mark.parametrize("target", [Target(), LAN, BR0, Target("", None)])
def test_what_no_rule_allows_is_denied(peer: Peer, target: Target) -> None:
    decision = decide(peer, target, 0, None)
    assert not decision.allowed
    assert not decision.over_quota
    assert decision.reason


def test_a_bridge_is_never_allowed_as_a_network() -> None:
    assert not decide(ALICE, Target("default", "br0"), 0, NO).allowed
    assert not decide(ALICE, Target("lan", "br0"), 0, SILENT, [allow()]).allowed
    assert not decide(ALICE, Target("br0"), 0, YES).allowed
    assert not decide(ALICE, Target("br0"), 0, None, [allow(bridges=("br0",))]).allowed


# --- whom and what a rule is about


@pytest.mark.parametrize(
    ("rule", "alice", "bob"),
    [
        (allow(), True, True),
        (allow(users=frozenset({1000})), True, False),
        (allow(groups=frozenset({36})), True, False),
        (allow(groups=frozenset({100})), False, True),  # the gid alone
        (allow(users=frozenset({1001}), groups=frozenset({36})), True, True),
        (allow(users=frozenset({36, 100})), False, False),  # a gid is no uid
        (allow(users=frozenset()), False, False),
        (allow(groups=frozenset()), False, False),
        (allow(networks=("wan",)), False, False),
        (allow(networks=("wan", "lan")), True, True),
        (allow(networks=("*",)), True, True),
        (allow(networks=(), bridges=("lan",)), False, False),
    ],
)
def test_a_rule_allows_whom_and_what_it_is_about(
    rule: Rule, alice: bool, bob: bool
) -> None:
    assert decide(ALICE, LAN, 0, None, [rule]).allowed is alice
    assert decide(BOB, LAN, 0, None, [rule]).allowed is bob
    assert not decide(ROOT, LAN, 0, None, [replace(rule, users=frozenset({5}))]).allowed


def test_the_reason_names_the_rule() -> None:
    rules = [allow("a.toml:3"), deny("b.toml:7", users=frozenset({1001}))]
    assert decide(ALICE, LAN, 0, None, rules).reason == "allowed by a.toml:3"
    assert decide(BOB, LAN, 0, None, rules).reason == "denied by b.toml:7"
    assert "a.toml:3" in decide(ALICE, LAN, 99, None, rules).reason
    assert "a.toml:3" in may_forward(ALICE, "lan", Port("tcp", 22, 22), rules).reason


def test_the_first_rule_that_allows_sets_the_terms() -> None:
    rules = [
        allow(users=frozenset({1000}), max_nics=2, trusted=True),
        allow(max_nics=5),
        allow(max_nics=9),
    ]
    assert terms(decide(ALICE, LAN, 1, None, rules)) == (False, True, 2)
    assert terms(decide(ALICE, LAN, 2, None, rules)) == (True, False, 2)
    assert terms(decide(BOB, LAN, 2, None, rules)) == (False, False, 5)
    assert (quota(ALICE, "lan", rules), quota(BOB, "lan", rules)) == (2, 5)


def test_who_may_not_attach_has_a_quota_of_none() -> None:
    assert quota(ALICE, "lan") == 0
    assert quota(ALICE, "lan", [allow(), deny()]) == 0
    assert quota(ALICE, "lan", [allow()]) == MAX_NICS


def test_a_mac_that_one_rule_has_not_may_be_the_next_ones() -> None:
    rules = [
        allow("f:1", macs=("52:54:00:*",), max_nics=1),
        allow("f:2", macs=("02:00:00:00:00:0?", "0a:*"), max_nics=2),
    ]
    assert decide(ALICE, LAN, 0, None, rules, MAC).max_nics == 1
    assert decide(ALICE, LAN, 0, None, rules, MAC.upper()).max_nics == 1
    assert decide(ALICE, LAN, 1, None, rules, "02:00:00:00:00:0a").max_nics == 2
    assert decide(ALICE, LAN, 0, None, rules, "0a:00:00:00:00:0a").allowed
    assert decide(ALICE, LAN, 0, None, rules, None).max_nics == 1
    refused = decide(ALICE, LAN, 0, None, rules, "02:00:00:00:00:1a")
    assert not refused.allowed
    assert "f:1, f:2" in refused.reason


# --- the built-in rule


def test_the_built_in_rule_goes_when_default_is_named() -> None:
    for_alice = allow(users=frozenset({1000}), networks=("lan", "default"))
    assert decide(ALICE, DEFAULT, 0, None, [for_alice]).allowed
    assert not decide(BOB, DEFAULT, 0, None, [for_alice]).allowed
    assert quota(BOB, "default", [for_alice]) == 0
    not_bob = deny(users=frozenset({1001}), networks=("default",))
    assert not decide(ALICE, DEFAULT, 0, None, [not_bob]).allowed


def test_the_built_in_rule_stays_with_a_star() -> None:
    for_alice = allow(users=frozenset({1000}), networks=("*",), max_nics=3)
    assert decide(ALICE, DEFAULT, 0, None, [for_alice]).max_nics == 3
    assert decide(BOB, DEFAULT, 0, None, [for_alice]).max_nics == MAX_NICS
    not_bob = deny(users=frozenset({1001}), networks=("*",))
    assert decide(ALICE, DEFAULT, 0, None, [not_bob]).allowed
    assert not decide(BOB, DEFAULT, 0, None, [not_bob]).allowed


# --- Linux bridges


BRIDGE = allow(networks=(), bridges=("br0",))


def test_either_a_rule_or_bridge_conf_may_deny_and_either_may_allow() -> None:
    no = replace(BRIDGE, effect="deny", location="f:9")
    for verdict, rules, allowed in (
        (YES, [], True),
        (SILENT, [], False),
        (SILENT, [BRIDGE], True),
        (YES, [BRIDGE], True),
        (NO, [BRIDGE], False),
        (YES, [BRIDGE, no], False),
        (YES, [no], False),
        (None, [BRIDGE], False),
    ):
        assert decide(ALICE, BR0, 0, verdict, rules).allowed is allowed


def test_a_verdict_of_bridge_conf_is_weighed_with_a_rule() -> None:
    for text, allowed in (
        (b"deny br0\n", False),
        (b"allow br0\ndeny all\n", False),
        (b"allow br1\n", True),
        (b"", True),
    ):
        verdict = judge("/f", "br0", lambda *_, text=text: Contents(text, (1, 1)))
        assert decide(ALICE, BR0, 0, verdict, [BRIDGE]).allowed is allowed


def test_a_bridge_has_no_quota_unless_its_rule_says() -> None:
    assert decide(ALICE, BR0, 1000, SILENT, [BRIDGE]) == Decision(
        True, "allowed by f:1", BRIDGE, "f:1"
    )
    two = replace(BRIDGE, max_nics=2, trusted=True)
    assert terms(decide(ALICE, BR0, 1, YES, [two])) == (False, True, 2)
    assert terms(decide(ALICE, BR0, 2, YES, [two])) == (True, False, 2)
    # bridge.conf stands behind the rules, and has no word on MACs.
    by_file = decide(ALICE, BR0, 9, YES, [replace(two, macs=("02:*",))], MAC)
    assert by_file.allowed
    assert by_file.rule is None
    assert by_file.reason == (
        f"{YES.reason}; the name or MAC is not among those of f:1"
    )


# --- lxc-usernet


def by_usernet(
    number: int, used: int, verdict: Verdict = SILENT, *rules: Rule
) -> Decision:
    # One of its own, and the rest a group's, which others may have used.
    shares = (
        Share("alice", min(number, 1), min(used, 1)),
        Share("@kvm", max(number - 1, 0), max(used - 1, 0)),
    )
    facts = Facts(verdict=verdict, usernet=Usernet(shares, "/u:3, /u:7"))
    return policy.decide(ALICE, BR0, Rulebook(rules), facts)


def test_lxc_usernet_stands_behind_the_others() -> None:
    assert by_usernet(2, 0).share == "alice"
    granted = by_usernet(2, 1)
    assert granted.allowed
    assert granted.share == "@kvm"
    assert (granted.max_nics, granted.location) == (2, "/u:3, /u:7")
    assert by_usernet(2, 2).over_quota
    assert not by_usernet(0, 0).allowed
    assert not by_usernet(0, 0).over_quota
    assert not by_usernet(9, 0, NO).allowed
    assert not by_usernet(9, 0, BROKEN).allowed
    assert not by_usernet(9, 0, SILENT, replace(BRIDGE, effect="deny")).allowed
    # Who may by bridge.conf or by a rule may without being counted here.
    assert by_usernet(1, 5, YES).allowed
    assert by_usernet(1, 5, SILENT, BRIDGE).allowed


# --- guests' names, polkit, totals, time


def named(name: str | None, *rules: Rule) -> Decision:
    return policy.decide(ALICE, LAN._replace(name=name), Rulebook(rules))


def test_a_rule_for_guests_of_some_names() -> None:
    web = allow("f:1", guests=("web-*", "db?"), max_nics=2)
    assert named("web-1", web).allowed
    assert named("db2", web).allowed
    assert not named("mail", web).allowed
    assert not named("web", web).allowed
    assert "f:1" in named("mail", web).reason
    assert named("mail", web, allow("f:2", max_nics=5)).max_nics == 5
    # Whether there is anything at all for the caller: some name will do.
    assert named(None, web).allowed


def test_a_denial_of_some_names_leaves_the_others() -> None:
    rules = allow(), deny(guests=("gw*",))
    assert not named("gw1", *rules).allowed
    assert named("web", *rules).allowed
    assert named(None, *rules).allowed


def test_polkit_is_asked_of_what_a_rule_would_allow() -> None:
    ask = allow("f:1", effect="polkit", ttl=60)
    decision = decide(ALICE, LAN, 0, None, [ask])
    assert (decision.allowed, decision.ask, decision.ttl) == (True, True, 60)
    assert not decide(ALICE, LAN, MAX_NICS, None, [ask]).ask
    assert not decide(ALICE, LAN, 0, None, [ask, deny()]).allowed
    # The first that is about it decides which way.
    assert not decide(ALICE, LAN, 0, None, [allow(), ask]).ask
    assert decide(ALICE, LAN, 0, None, [ask, allow()]).ask
    port = Port("tcp", 8080, 8080)
    assert may_forward(ALICE, "lan", port, [ask]).ask


def test_a_network_is_full_for_everybody() -> None:
    def full(in_all: int, most: int | None) -> Decision:
        facts = Facts(network_nics=in_all, network_limit=most)
        return policy.decide(ALICE, LAN, Rulebook([allow()]), facts)

    assert full(4, 5).allowed
    assert full(1000, None).allowed
    assert full(5, 5).over_quota
    assert full(5, 5).full
    # To whom may not have one it is not told.
    nobody = policy.decide(
        BOB, LAN, Rulebook([]), Facts(network_nics=5, network_limit=5)
    )
    assert not nobody.over_quota


def test_a_policy_that_could_not_be_read_allows_nothing() -> None:
    book = Rulebook([allow()], "f.toml:1:1: what is this")
    for target in (LAN, DEFAULT, BR0):
        decision = policy.decide(ALICE, target, book, Facts(verdict=YES))
        assert not decision.allowed
        assert "f.toml:1:1" in decision.reason
    assert not policy.may_forward(ALICE, LAN, Port("tcp", 8080, 8080), book).allowed
    assert not policy.may_manage(ALICE, LAN, book).allowed
    assert policy.may_reload(ROOT, book).allowed


# --- what is other users'


def test_a_rule_says_whose_guests_a_user_manages() -> None:
    rules = [
        allow("f:1"),
        allow("f:2", users=frozenset({1000}), manage=True),
        allow("f:3", users=frozenset({1001}), effect="polkit", manage=True),
    ]
    book = Rulebook(rules)
    assert policy.may_manage(ALICE, LAN, book).location == "f:2"
    assert policy.may_manage(BOB, LAN, book).ask
    assert not policy.may_manage(ALICE, DEFAULT, book).allowed
    assert not policy.may_manage(ALICE, BR0, book).allowed
    assert not policy.may_manage(ALICE, Target(), book).allowed
    assert policy.may_manage(ROOT, Target(bridge="br7"), book).allowed
    assert not policy.may_manage(ALICE, LAN, Rulebook([*rules, deny()])).allowed
    one = Rulebook([allow(manage=True, guests=("web-*",))])
    assert policy.may_manage(ALICE, LAN._replace(name="web-1"), one).allowed
    assert not policy.may_manage(ALICE, LAN._replace(name="db"), one).allowed
    # A network is no guest: who manages some of its guests does not manage it.
    assert not policy.may_manage(ALICE, LAN, one).allowed


def test_who_manages_anyway_need_not_ask_polkit() -> None:
    asking = allow("f:1", effect="polkit", manage=True)
    book = Rulebook([asking, allow("f:2", manage=True)])
    assert not policy.may_manage(ALICE, LAN, book).ask
    assert policy.may_manage(ALICE, LAN, Rulebook([asking, allow("f:2")])).ask


def test_who_manages_some_macs_manages_nothing_that_has_none() -> None:
    """A forward has no MAC, nor has a NIC whose guest has not shown it."""
    book = Rulebook([allow(manage=True, macs=("52:54:00:*",))])
    assert policy.may_manage(ALICE, LAN._replace(name="web", mac=MAC), book).allowed
    for mac in (None, "02:00:00:00:00:01"):
        target = LAN._replace(name="web", mac=mac)
        assert not policy.may_manage(ALICE, target, book).allowed
    assert not policy.may_reload(
        ALICE,
        Rulebook([allow(networks=("*",), manage=True, macs=("52:54:00:*",))]),
    ).allowed


def test_who_manages_everything_may_reload() -> None:
    star = allow(networks=("*",), users=frozenset({1000}), manage=True)
    assert policy.may_reload(ALICE, Rulebook([star])).allowed
    assert not policy.may_reload(BOB, Rulebook([star])).allowed
    assert not policy.may_reload(ALICE, Rulebook([replace(star, manage=False)])).allowed
    assert not policy.may_reload(ALICE, Rulebook([allow(manage=True)])).allowed
    for some in (
        replace(star, guests=("*-1",)),
        replace(star, macs=("52:*",)),
        replace(star, macs=("*e",)),
    ):
        assert not policy.may_reload(ALICE, Rulebook([some])).allowed
    assert policy.may_reload(ALICE, Rulebook([replace(star, macs=("*",))])).allowed
    no = deny(networks=("*",))
    assert not policy.may_reload(ALICE, Rulebook([star, no])).allowed
    assert policy.may_reload(ROOT, Rulebook([no])).allowed


# --- who has left groups, and whose uid is no account's


def test_who_left_a_group_is_still_denied_what_the_group_is() -> None:
    """A user namespace with ids of subuid(5) and subgid(5) lets its user do that."""
    book = [deny(groups=frozenset({100})), allow(groups=frozenset({200})), allow()]
    in_it = replace(ALICE, groups=frozenset({100}))
    left = replace(ALICE, account_groups=frozenset({100, 200}))
    for peer, allowed in ((ALICE, True), (in_it, False), (left, False)):
        assert decide(peer, LAN, 0, None, book).allowed is allowed
    # What groups are given is for those who are in them now.
    assert not decide(left, LAN, 0, None, book[1:2]).allowed
    # If the groups of its account are not known, it may have been in that one.
    unknown = replace(ALICE, account_groups=None)
    assert not decide(unknown, LAN, 0, None, book).allowed
    others = [deny(users=frozenset({7})), allow()]
    assert decide(unknown, LAN, 0, None, others).allowed


def test_what_everyone_may_is_for_accounts() -> None:
    other = Peer(100_004, 100_004, frozenset({100_004}), 1, subordinate=True)
    for rules in ([], [allow(networks=("default", "lan"))]):
        assert not decide(other, DEFAULT, 0, None, rules).allowed
    reason = decide(other, LAN, 0, None, [allow()]).reason
    assert "subuid" in reason
    assert not may_forward(other, "default", Port("tcp", 8080, 8080)).allowed
    assert decide(other, LAN, 0, None, [allow(users=frozenset({100_004}))]).allowed
    assert decide(other, LAN, 0, None, [allow(groups=frozenset({100_004}))]).allowed
    named = allow(users=frozenset({100_004}))
    assert not decide(other, LAN, 0, None, [named, deny()]).allowed
    # Nor is what bridge.conf allows, which knows nobody by name.
    assert not decide(other, BR0, 0, YES).allowed
    assert decide(other, BR0, 0, YES, [replace(BRIDGE, users=named.users)]).allowed


# --- forwarded ports


@pytest.mark.parametrize(
    ("forward", "port", "allowed"),
    [
        (None, Port("tcp", 1024, 1024), True),
        (None, Port("udp", 65535, 65535), True),
        (None, Port("tcp", 1023, 1023), False),
        (None, Port("tcp", 1000, 1024), False),
        (None, Port("sctp", 5000, 5000), False),
        ((Port("tcp", 80, 80),), Port("tcp", 80, 80), True),
        ((Port("tcp", 80, 80),), Port("udp", 80, 80), False),
        ((Port("tcp", 80, 80),), Port("tcp", 8080, 8080), False),
        ((Port("udp", 1, 9), Port("tcp", 80, 90)), Port("tcp", 85, 85), True),
        ((), Port("tcp", 8080, 8080), False),
    ],
)
def test_a_port_may_be_forwarded_if_the_first_rule_that_allows_has_it(
    forward: tuple[Port, ...] | None, port: Port, allowed: bool
) -> None:
    rules = [allow(forward=forward), allow()]
    decision = may_forward(ALICE, "lan", port, rules)
    assert decision.allowed is allowed
    assert str(port) in decision.reason
    assert may_forward(ROOT, "lan", port, rules).allowed


def test_no_port_is_forwarded_on_a_network_that_one_may_not_use() -> None:
    port = Port("tcp", 8080, 8080)
    for peer in (ALICE, ROOT):
        assert may_forward(peer, "default", port).allowed
        assert not may_forward(peer, "lan", port).allowed
        assert not may_forward(peer, "lan", port, [allow(), deny()]).allowed
        assert not may_forward(
            peer, "lan", port, [allow(networks=(), bridges=("lan",))]
        ).allowed


# --- whatever the rules are


@given(PEERS, TARGETS, VERDICTS, MANY, st.data())
def test_the_order_decides_nothing_but_the_terms(
    peer: Peer, target: Target, verdict: Verdict, rules: list[Rule], data: st.DataObject
) -> None:
    other = data.draw(st.permutations(rules))
    decision = decide(peer, target, 0, verdict, rules)
    assert decide(peer, target, 0, verdict, other).allowed is decision.allowed


@given(PEERS, TARGETS, VERDICTS, MANY, st.integers(0, 6))
def test_deny_wins_wherever_it_stands(
    peer: Peer, target: Target, verdict: Verdict, rules: list[Rule], where: int
) -> None:
    no = Rule(
        "f:9",
        networks=(target.network,) if target.network else ("lan",),
        bridges=(target.bridge,) if target.bridge else (),
        effect="deny",
    )
    rules.insert(where, no)
    assert not decide(peer, target, 0, verdict, rules).allowed
    if target.network:
        assert quota(peer, target.network, rules) == 0
        port = Port("tcp", 8080, 8080)
        assert not may_forward(peer, target.network, port, rules).allowed


@given(PEERS, TARGETS, VERDICTS, MANY, RULES, st.integers(0, 6))
def test_another_rule_that_allows_takes_nothing_away(
    peer: Peer,
    target: Target,
    verdict: Verdict,
    rules: list[Rule],
    more: Rule,
    where: int,
) -> None:
    # One that names the default network replaces the built-in rule.
    names = tuple(name for name in more.networks if name != "default")
    more = replace(more, effect="allow", networks=names)
    before = decide(peer, target, 0, verdict, rules).allowed
    rules.insert(where, more)
    assert decide(peer, target, 0, verdict, rules).allowed >= before


@given(PEERS, st.text() | st.none(), st.text() | st.none(), st.integers(0, 20))
def test_without_rules_there_is_only_the_default_network(
    peer: Peer, network: str | None, bridge: str | None, nics: int
) -> None:
    decision = decide(peer, Target(network, bridge), nics, SILENT)
    only = (network, bridge) == ("default", None)
    assert decision.allowed is (only and nics < MAX_NICS)
    assert not decision.trusted


@given(PEERS, st.sampled_from(["default", "lan"]), MANY, st.integers(0, 20))
def test_the_quota_is_what_a_decision_holds_to(
    peer: Peer, network: str, rules: list[Rule], nics: int
) -> None:
    decision = decide(peer, Target(network), nics, None, rules)
    assert decision.allowed is (nics < quota(peer, network, rules))


def test_a_bridge_conf_that_cannot_be_judged_denies_what_a_rule_allows() -> None:
    """A line that could not be read may deny it."""
    assert not decide(ALICE, BR0, 0, BROKEN, [BRIDGE]).allowed
    assert decide(ALICE, BR0, 0, SILENT, [BRIDGE]).allowed


@given(PEERS, TARGETS, MANY)
def test_polkit_and_the_quota_never_widen_what_a_rule_allows(
    peer: Peer, target: Target, rules: list[Rule]
) -> None:
    decision = policy.decide(peer, target, Rulebook(rules), Facts(verdict=SILENT))
    if decision.ask:
        assert decision.allowed
        assert decision.rule is not None
        assert decision.rule.effect == "polkit"
    if decision.allowed:
        limit = decision.max_nics
        if limit is not None:
            facts = Facts(lambda *_: limit, SILENT)
            assert policy.decide(peer, target, Rulebook(rules), facts).over_quota
