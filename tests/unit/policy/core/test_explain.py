# SPDX-License-Identifier: LGPL-2.1-or-later
"""An explanation tells of the decision that was made."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from support.policies import MANY, PEERS, TARGETS, VERDICTS
from tapster.model import Peer, Rule
from tapster.policy.core import decide as policy
from tapster.policy.core.explain import explain
from tapster.policy.core.facts import Facts, Share, Usernet, Verdict
from tapster.policy.core.matching import matches_target
from tapster.policy.core.rulebook import Rulebook, Target


@given(PEERS, TARGETS, VERDICTS, MANY, st.integers(0, 4), st.integers(0, 2))
def test_an_explanation_is_of_the_same_decision(
    peer: Peer,
    target: Target,
    verdict: Verdict,
    rules: list[Rule],
    nics: int,
    number: int,
) -> None:
    # Each its own location, to tell them apart.
    rules = [replace(rule, location=f"f:{n}") for n, rule in enumerate(rules)]
    book = Rulebook(rules)
    facts = Facts(lambda *_: nics, verdict, Usernet((Share("a", number, nics),), "u:1"))
    decision = policy.decide(peer, target, book, facts)
    steps = explain(peer, target, book, decision)
    assert [step.location for step in steps] == [
        rule.location for rule in book.rules if matches_target(rule, target)
    ]
    deciding = [step for step in steps if step.outcome == "decides"]
    assert [step.location for step in deciding] == (
        [decision.location] if decision.rule else []
    )
    # A rule that is said not to be about this decides nothing: without it all is
    # as it was, except that the built-in rule may come back.
    for step in steps:
        if step.outcome.startswith("not ") and step.location.startswith("f:"):
            rest = [rule for rule in rules if rule.location != step.location]
            if Rulebook(rest).rules[len(rest) :] == book.rules[len(rules) :]:
                again = policy.decide(peer, target, Rulebook(rest), facts)
                assert again.rule == decision.rule
                assert again.allowed == decision.allowed
