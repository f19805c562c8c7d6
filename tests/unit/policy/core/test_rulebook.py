# SPDX-License-Identifier: LGPL-2.1-or-later
"""The rulebook finds each rule that applies, without looking at all."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from support.policies import ALICE, LAN, MANY, PEERS, TARGETS, allow
from tapster.model import Peer, Rule
from tapster.policy.core import decide as policy
from tapster.policy.core.matching import (
    covers,
    matches_any,
    matches_peer,
    matches_target,
)
from tapster.policy.core.rulebook import Rulebook, Target


@given(PEERS, TARGETS, MANY)
def test_the_rulebook_finds_what_a_walk_through_all_rules_finds(
    peer: Peer, target: Target, rules: list[Rule]
) -> None:
    book = Rulebook(rules)
    for find, deny in ((book.denials, True), (book.grants, False)):
        walked = [
            rule
            for rule in book.rules
            if matches_target(rule, target)
            and matches_peer(rule, peer)
            and (rule.effect == "deny") is deny
        ]
        found = list(find(peer, target))
        rest = iter(walked)
        assert all(rule in rest for rule in found)  # in that order, and no other
        # Only what is not for the guest may have been left out.
        fitting = [rule for rule in walked if covers(rule, target)]
        assert [rule for rule in found if covers(rule, target)] == fitting
        anyone = target._replace(name=None, mac=None)
        assert list(find(peer, anyone)) == walked


PIECES = st.sampled_from(["a", "b", "-", "*", "?", "[ab]", "[!a]", "[]a]", "[", "]"])
PATTERNS = st.lists(
    st.lists(PIECES, max_size=4).map("".join), max_size=2, unique=True
).map(tuple)
WORDS = st.text("abB-", min_size=1, max_size=4)


@given(PATTERNS, WORDS)
@example(("[ab]-*",), "b-a")
def test_the_rulebook_leaves_out_no_rule_about_the_guest(
    patterns: tuple[str, ...], word: str
) -> None:
    fits = not patterns or matches_any(word, patterns)
    for rule, target in (
        (allow(guests=patterns), LAN._replace(name=word)),
        (allow(macs=patterns), LAN._replace(mac=word)),
    ):
        assert covers(rule, target) is fits
        assert policy.decide(ALICE, target, Rulebook([rule])).allowed is fits
