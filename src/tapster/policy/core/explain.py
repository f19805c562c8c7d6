# SPDX-License-Identifier: LGPL-2.1-or-later
"""How a decision came about, rule by rule: for `tapster explain`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ...model import Peer, Rule
from .decide import Decision
from .matching import guest_mismatch, matches_peer, matches_target
from .rulebook import DENY, Rulebook, Target

NOT_ABOUT_USER = "not about this user"  # the outcome of such a rule


class Step(NamedTuple):
    """A rule that was looked at, and what came of it."""

    location: str
    effect: str
    outcome: str


def explain(
    peer: Peer,
    target: Target,
    book: Rulebook,
    decision: Decision,
    rules: Iterable[Rule] | None = None,
) -> list[Step]:
    """Say for each rule about the target what came of it.

    :param peer: the caller that was decided about.
    :param target: what was asked for, with the guest's name and MAC.
    :param book: the rules that were decided by.
    :param decision: what `decide` returned for these three.
    :param rules: explain only these rules of the book; None: all of them.
    """
    return [
        Step(rule.location, rule.effect, _outcome(rule, peer, target, decision))
        for rule in (book.rules if rules is None else rules)
        if matches_target(rule, target)
    ]


def _outcome(rule: Rule, peer: Peer, target: Target, decision: Decision) -> str:
    if not matches_peer(rule, peer):
        return NOT_ABOUT_USER
    mismatch = guest_mismatch(rule, target)
    if mismatch is not None:
        return f"not for {mismatch}"
    if rule is decision.rule:
        return "decides"
    if rule.effect == DENY:
        return "denies too"
    if decision.rule is None:
        return f"passed over: {decision.reason}"
    if decision.rule.effect == DENY:
        return "passed over: a rule that denies wins"
    return "passed over: an earlier rule decides"
