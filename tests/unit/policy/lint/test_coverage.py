# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.policy.lint.coverage` and `reach`: what is said of rules holds for each
request of a small world, by the decision that the broker makes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support.policies import allow, deny
from tapster.model import Peer, Port, Rule
from tapster.policy.core.decide import (
    Decision,
    decide,
    may_forward,
    may_manage,
    may_reload,
)
from tapster.policy.core.facts import Facts, Verdict
from tapster.policy.core.matching import matches_peer
from tapster.policy.core.patterns import (
    are_within,
)
from tapster.policy.core.rulebook import Rulebook, Target
from tapster.policy.lint import coverage
from tapster.policy.lint.coverage import shadowed_denials, shadowed_grants
from tapster.policy.lint.reach import bypasses, closed_networks, redundant_denials

NETWORKS = ("default", "lan", "wan")
ON = {"br0": ["lan"], "br1": ["wan"]}
PORT = Port("tcp", 8080, 8080)
SILENT = Facts(verdict=Verdict(False, "no rule of bridge.conf allows it", None, ()))

# The user 9 and the group 9 are in no rule.
PEERS = [
    Peer(uid, gid, frozenset(groups), 1)
    for uid, gid in itertools.product((1, 2, 36, 9), (9, 1))
    for groups in ((), (2,), (36, 2))
]
EVERYBODY = [
    Peer(uid, 9, frozenset(groups), 1)
    for uid in (1, 2, 36, 9)
    for number in range(4)
    for groups in itertools.combinations((1, 2, 36), number)
]
WHERE = [
    *(Target(network=name) for name in NETWORKS),
    *(Target(bridge=name) for name in ON),
]
NAMES = (None, "a", "ab", "b")
MACS = (None, "52:54:00:00:00:01", "52:54:01:00:00:01", "02:54:00:00:00:01")
TARGETS = [
    target._replace(name=name, mac=mac)
    for target, name, mac in itertools.product(WHERE, NAMES, MACS)
]

IDS = st.none() | st.frozensets(st.sampled_from([1, 2, 36]), min_size=1, max_size=2)
RULES = st.builds(
    Rule,
    users=IDS,
    groups=IDS,
    networks=st.lists(
        st.sampled_from(["default", "lan", "wan", "*"]), unique=True, max_size=3
    ).map(tuple),
    bridges=st.lists(st.sampled_from(["br0", "br1"]), unique=True, max_size=2).map(
        tuple
    ),
    effect=st.sampled_from(["allow", "polkit", "deny", "deny"]),
    macs=st.sampled_from([(), (), ("52:*",), ("52:54:00:*", "02:*"), ("52:54:0?:*",)]),
    guests=st.sampled_from([(), (), ("a*",), ("a", "ab"), ("a?", "*b"), ("*",)]),
    manage=st.booleans(),
).map(lambda rule: replace(rule, macs=(), manage=False) if denies(rule) else rule)
MANY = st.lists(RULES, max_size=7).map(
    lambda rules: [replace(rule, location=f"f:{n}") for n, rule in enumerate(rules)]
)


def denies(rule: Rule) -> bool:
    return rule.effect == "deny"


def attaching(rules: Sequence[Rule]) -> Iterator[Decision]:
    """Each decision on a NIC or a port."""
    book = Rulebook(rules)
    for peer, target in itertools.product(PEERS, TARGETS):
        yield decide(peer, target, book, SILENT)
        if target.network is not None:
            yield may_forward(peer, target, PORT, book)


def managing(rules: Sequence[Rule]) -> Iterator[Decision]:
    """Each decision on what others have."""
    book = Rulebook(rules)
    for peer, target in itertools.product(PEERS, TARGETS):
        yield may_manage(peer, target, book)
    yield from (may_reload(peer, book) for peer in PEERS)


def outcomes(rules: Sequence[Rule]) -> list[tuple[bool, str | None]]:
    """Whether each request is allowed, and by which rule."""
    return [
        (decision.allowed, decision.location if decision.allowed else None)
        for decision in (*attaching(rules), *managing(rules))
    ]


_DEFAULT = Rule("f:0", networks=("default",), effect="polkit", manage=True)


@settings(max_examples=settings().max_examples * 3 // 2, deadline=None)
@example([_DEFAULT, replace(_DEFAULT, location="f:1", effect="allow")])
@example([replace(_DEFAULT, effect="allow"), replace(_DEFAULT, location="f:1")])
@given(MANY)
def test_a_shadowed_grant_never_decides(rules: list[Rule]) -> None:
    idle = shadowed_grants(rules, NETWORKS)
    decided = {decision.location for decision in attaching(rules)}
    managed = {decision.location for decision in managing(rules)}
    for number, by, manages in idle:
        assert rules[number].location not in decided
        assert manages or rules[number].location not in managed
        assert all(denies(rules[other]) or other < number for other in by)


@settings(max_examples=settings().max_examples * 3 // 2, deadline=None)
@given(MANY)
def test_shadowed_and_redundant_denials_may_all_be_removed(rules: list[Rule]) -> None:
    shadowed = {idle.rule for idle in shadowed_denials(rules)}
    before = outcomes(rules) if shadowed else []
    for gone in (shadowed, *({number} for number in shadowed)):
        left = [rule for n, rule in enumerate(rules) if n not in gone]
        if shadowed:
            assert outcomes(left) == before
    vain = set(redundant_denials(rules, bridges_elsewhere=False))
    if vain:
        left = [rule for n, rule in enumerate(rules) if n not in vain]
        assert outcomes(left) == outcomes(rules)


@settings(max_examples=settings().max_examples * 3 // 2, deadline=None)
@given(MANY)
def test_nobody_may_use_a_closed_network(rules: list[Rule]) -> None:
    book = Rulebook(rules)
    for name in closed_networks(rules, NETWORKS):
        for peer, guest, mac in itertools.product(PEERS, NAMES, MACS):
            target = Target(name, None, guest, mac)
            assert not decide(peer, target, book).allowed


@settings(max_examples=settings().max_examples * 3 // 2, deadline=None)
@given(MANY)
def test_a_way_around_a_rule_is_there_for_somebody(rules: list[Rule]) -> None:
    book = Rulebook(rules)
    for number, kind, name in bypasses(rules, ON):
        target = Target(**{kind: name})
        assert any(
            decide(peer, target, book, SILENT).allowed
            for peer in EVERYBODY
            if matches_peer(rules[number], peer)
        )


# --- examples: that anything is found at all


ALICE, BOB = frozenset({1}), frozenset({2})
BOTH = ALICE | BOB
ALL = ("*",)


@pytest.mark.parametrize(
    ("rules", "found"),
    [
        ([allow(), allow(users=ALICE)], {1: (0,)}),
        ([allow(users=ALICE), allow()], {}),
        ([allow(groups=ALICE), allow(groups=ALICE, max_nics=9)], {1: (0,)}),
        ([allow(groups=ALICE), allow(users=ALICE)], {}),
        ([allow(users=ALICE), allow(users=BOB), allow(users=BOTH)], {2: (0, 1)}),
        ([allow(users=BOTH), allow(users=ALICE, groups=BOB)], {}),
        ([allow(), allow(networks=("lan", "wan"))], {}),
        ([allow(), allow(networks=("wan",)), allow(networks=("lan", "wan"))],
         {2: (0, 1)}),
        ([allow(networks=ALL), allow(users=BOB)], {1: (0,)}),
        ([allow(), allow(networks=("wan",)), allow(networks=ALL)], {}),
        ([allow(networks=NETWORKS), allow(networks=ALL)], {1: (0,)}),
        ([allow(networks=("br0",)), allow(networks=(), bridges=("br0",))], {}),
        ([allow(effect="polkit"), allow()], {1: (0,)}),
        # guests and MACs
        ([allow(guests=("web-*",)), allow()], {}),
        ([allow(guests=("web-*",)), allow(guests=("web-1", "web-2?"))], {1: (0,)}),
        ([allow(guests=("web-1",)), allow(guests=("web-*",))], {}),
        ([allow(macs=("52:*",)), allow(guests=("a",))], {}),
        ([allow(macs=("52:*",)), allow(macs=("52:54:*",), guests=("a",))], {1: (0,)}),
        # denials, wherever they stand
        ([allow(users=ALICE), deny()], {0: (1,)}),
        ([deny(users=ALICE), allow(users=ALICE)], {1: (0,)}),
        ([allow(users=BOTH), deny(users=ALICE)], {}),
        ([allow(users=BOB), allow(users=BOTH), deny(users=ALICE)], {1: (0, 2)}),
        ([allow(guests=("a",)), deny(guests=("a",))], {}),
        # who manages
        ([allow(manage=True), allow(manage=True, users=BOB)], {1: (0,)}),
        ([allow(networks=NETWORKS, manage=True), allow(networks=ALL, manage=True)],
         {1: (0,)}),
    ],
)  # fmt: skip
def test_shadowed_grants_are_found(
    rules: list[Rule], found: dict[int, tuple[int, ...]]
) -> None:
    assert {n: by for n, by, _ in shadowed_grants(rules, NETWORKS)} == found


def test_a_shadowed_grant_may_still_manage() -> None:
    rules = [allow(), allow(users=BOB, manage=True)]
    assert shadowed_grants(rules, NETWORKS) == [(1, (0,), True)]
    rules.append(deny(users=BOB))
    assert shadowed_grants(rules, NETWORKS) == [(1, (2,), False)]
    # Managing every network is more than managing each.
    every = [allow(networks=NETWORKS, manage=True), allow(networks=ALL, manage=True)]
    assert shadowed_grants(every, NETWORKS) == [(1, (0,), True)]


@pytest.mark.parametrize(
    ("rules", "found"),
    [
        ([deny(), deny()], {1: (0,)}),
        ([deny(users=ALICE), deny()], {0: (1,)}),
        ([deny(users=ALICE), deny(users=BOB), deny(users=BOTH)], {2: (0, 1)}),
        ([deny(guests=("a*",)), deny(guests=("ab",))], {1: (0,)}),
        ([deny(guests=("*",)), deny()], {0: (1,)}),
        ([deny(guests=("a",)), deny(guests=("b",))], {}),
        ([deny(networks=ALL), deny()], {1: (0,)}),
        ([deny(networks=ALL), deny(networks=("default",))], {}),
        ([deny(networks=ALL), deny(networks=("default",)),
          allow(networks=("default",))], {1: (0,)}),
        ([allow(), deny(networks=(), bridges=("lan",))], {}),
    ],
)  # fmt: skip
def test_shadowed_denials_are_found(
    rules: list[Rule], found: dict[int, tuple[int, ...]]
) -> None:
    assert {n: by for n, by, _ in shadowed_denials(rules)} == found


# --- many rules


def test_ten_thousand_rules_are_not_looked_at_each_against_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rules = [
        Rule(f"f:{n}", frozenset({n}), None, ("lan", "default"), guests=(f"g{n % 9}*",))
        for n in range(5000)
    ]
    rules += [deny(users=frozenset({n}), guests=("a*",)) for n in range(2500)]
    rules += [deny(guests=(f"a{n}*",)) for n in range(2500)]
    compared = 0

    def count(inner: Sequence[str], outer: Sequence[str]) -> bool:
        nonlocal compared
        compared += 1
        return are_within(inner, outer)

    monkeypatch.setattr(coverage, "are_within", count)
    shadowed_grants(rules, NETWORKS)
    shadowed_denials(rules)
    redundant_denials(rules, bridges_elsewhere=False)
    closed_networks(rules, NETWORKS)
    list(bypasses(rules, ON))
    assert compared < 200 * len(rules)
