# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which rules have no effect, because of what others say.

A rule is about each of its users and groups on each of its networks and bridges. For
each such pair another rule is looked for that settles it first: a rule has no effect if
each of its pairs is settled, by one rule or by several.

What is found is certain. What is not found may still be so: nothing is assumed about
who is in which group, and long lists are not searched to their end.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

from ...model import Rule
from ..core.decide import POLKIT
from ..core.patterns import are_within
from ..core.rulebook import BUILT_IN, DEFAULT_NETWORK, DENY, EVERY_NETWORK

_MOST_PAIRS = 10_000  # of one rule; beyond that it is passed over
_MOST_TRIED = 64  # rules about one pair

Who = tuple[str, int]
What = tuple[str, str]
EVERYONE: Who = ("everyone", 0)
NETWORK, BRIDGE = "network", "bridge"
EVERY: What = (NETWORK, EVERY_NETWORK)


class Shadowed(NamedTuple):
    """A rule that has no effect, and the rules that decide in its place."""

    rule: int  # its number, as those of the others
    by: tuple[int, ...]
    manages: bool = False  # one effect is left: who manages what other users have


def who(rule: Rule) -> list[Who]:
    """Whom a rule is about: each of its users and groups, or everyone."""
    if rule.users is None and rule.groups is None:
        return [EVERYONE]
    users = [("user", uid) for uid in sorted(rule.users or ())]
    return users + [("group", gid) for gid in sorted(rule.groups or ())]


def what(rule: Rule) -> list[What]:
    """What a rule is about: each of its networks and bridges."""
    networks = dict.fromkeys(rule.networks)
    if EVERY_NETWORK in networks:
        networks = {EVERY_NETWORK: None}
    bridges = dict.fromkeys(rule.bridges)
    return [*((NETWORK, n) for n in networks), *((BRIDGE, b) for b in bridges)]


def shadowed_grants(rules: Sequence[Rule], networks: Collection[str]) -> list[Shadowed]:
    """Rules that allow, or let polkit decide, but never take effect.

    Each request that such a rule is about is denied, or an earlier rule decides it.

    :param rules: all rules, in the order of the files.
    :param networks: the names of all networks that are defined.
    """
    denials, before = denials_of(rules), Index()
    found = []
    for number, rule in enumerate(rules):
        if rule.effect == DENY:
            continue
        attaching, managing = (
            _settling(rules, denials, before, managing) for managing in (False, True)
        )
        by = _settled(rule, networks, attaching)
        if by is not None and rule.manage:
            # Every rule with `manage` counts, not only the first. And who manages
            # "*" manages more than each network that is defined now.
            more = _settled(rule, (), managing)
            found.append(Shadowed(number, by if more is None else more, more is None))
        elif by is not None:
            found.append(Shadowed(number, by))
        before.add(number, rule)
    return found


class Pair(NamedTuple):
    """One of those whom, and one thing of what, a rule is about."""

    rule: Rule
    what: What
    who: Who


Find = Callable[[Pair], int | None]


def _settling(
    rules: Sequence[Rule], denials: Index, before: Index, managing: bool
) -> Find:
    """Make the search for the rule that settles a pair of a later one.

    :param rules: all rules.
    :param denials: those that deny.
    :param before: those before the one that is looked at, without denials.
    :param managing: whether it is about who manages, not about who attaches.
    """

    def find(at: Pair) -> int | None:
        for number in denials.about(at):
            # A guest whose name is not known yet is not denied by its name.
            if not rules[number].guests:
                return number
        for number in before.about(at):
            rule = rules[number]
            if managing and not rule.manage:
                continue
            if managing and rule.effect == POLKIT and at.rule.effect != POLKIT:
                continue  # the later rule still allows without asking polkit
            if is_wide(rule, at.rule):
                return number
        return None

    return find


def shadowed_denials(rules: Sequence[Rule]) -> list[Shadowed]:
    """Rules that deny only what others do; all of them may be removed at once."""
    denials = denials_of(rules)
    gone: set[int] = set()

    def others(number: int) -> Find:
        def find(at: Pair) -> int | None:
            for other in denials.about(at):
                is_other = other != number and other not in gone
                if is_other and is_wide(rules[other], at.rule):
                    return other
            return None

        return find

    found = []
    for number in range(len(rules) - 1, -1, -1):
        if rules[number].effect == DENY:
            by = _settled(rules[number], (), others(number))
            if by is not None:
                gone.add(number)
                found.append(Shadowed(number, by))
    # Without any rule that names the default network, the built-in rule would hold.
    naming = {n for n, rule in enumerate(rules) if DEFAULT_NETWORK in rule.networks}
    if naming and naming <= gone:
        found = [idle for idle in found if idle.rule not in naming]
    return found[::-1]


class Index:
    """Finds the numbers of rules by what and whom they are about."""

    def __init__(self) -> None:
        self._plain: dict[tuple[What, Who], list[int]] = {}
        self._narrow: dict[tuple[What, Who], list[int]] = {}

    def add(self, number: int, rule: Rule) -> None:
        found = self._narrow if rule.guests or rule.macs else self._plain
        for pair in _pairs(rule) or ():
            numbers = found.setdefault(pair, [])
            if len(numbers) < _MOST_TRIED:
                numbers.append(number)

    def about(self, at: Pair) -> Iterator[int]:
        """Rules about all of a pair; those for any guest come first."""
        things = [at.what]
        if at.what[0] == NETWORK and at.what != EVERY:
            things.append(EVERY)
        people = [at.who] if at.who == EVERYONE else [at.who, EVERYONE]
        for found in (self._plain, self._narrow):
            for thing in things:
                for someone in people:
                    yield from found.get((thing, someone), ())


def denials_of(rules: Sequence[Rule]) -> Index:
    index = Index()
    for number, rule in enumerate(rules):
        if rule.effect == DENY:
            index.add(number, rule)
    return index


def _pairs(rule: Rule) -> list[tuple[What, Who]] | None:
    """All pairs of what and whom a rule is about; None if they are too many."""
    things, people = what(rule), who(rule)
    if len(things) * len(people) > _MOST_PAIRS:
        return None
    return [(thing, someone) for thing in things for someone in people]


def _settled(
    rule: Rule, networks: Collection[str], find: Find
) -> tuple[int, ...] | None:
    """The rules that settle all pairs of a rule; None if some pair is not settled.

    :param rule: the one that may have no effect.
    :param networks: what "*" stands for, if it is enough that each of these is
        settled; empty if "*" itself has to be.
    :param find: finds a rule that settles a pair.
    """
    by: set[int] = set()
    for thing, someone in _pairs(rule) or ():
        number = find(Pair(rule, thing, someone))
        if number is not None:
            by.add(number)
            continue
        if thing != EVERY or not networks:
            return None
        for name in networks:
            number = find(Pair(rule, (NETWORK, name), someone))
            if number is None:
                return None
            by.add(number)
    return tuple(sorted(by)) or None


def is_wide(rule: Rule, other: Rule) -> bool:
    """Whether a rule applies to each guest that another applies to."""
    return are_within(other.guests, rule.guests) and are_within(other.macs, rule.macs)


def with_built_in(rules: Sequence[Rule]) -> Iterator[Rule]:
    """The rules, and the built-in one where it holds."""
    yield from rules
    if not any(DEFAULT_NETWORK in rule.networks for rule in rules):
        yield BUILT_IN
