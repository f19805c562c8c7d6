# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whom the rules leave what, once all are taken together.

As in `coverage`, nobody asks who is in which group: anybody may be in any.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from ...model import Rule
from ..core.rulebook import DEFAULT_NETWORK, DENY, EVERY_NETWORK
from .coverage import (
    BRIDGE,
    EVERY,
    NETWORK,
    Index,
    Pair,
    What,
    Who,
    denials_of,
    is_wide,
    what,
    who,
    with_built_in,
)


class _Crowd:
    """Some people, of whom it is asked whether others may be among them."""

    def __init__(self) -> None:
        self._anyone = False  # everyone, or a group: who knows who is in it
        self._users: set[Who] = set()

    def add(self, people: Iterable[Who]) -> None:
        for someone in people:
            if someone[0] == "user":
                self._users.add(someone)
            else:
                self._anyone = True

    def may_meet(self, people: Iterable[Who]) -> bool:
        return any(
            self._anyone
            or someone in self._users
            or (someone[0] != "user" and bool(self._users))
            for someone in people
        )


def redundant_denials(rules: Sequence[Rule], bridges_elsewhere: bool) -> list[int]:
    """The rules that deny only what nothing allows.

    :param bridges_elsewhere: whether other files may allow Linux bridges.
    """
    allowed: dict[What, _Crowd] = {}
    on_networks = _Crowd()
    for rule in with_built_in(rules):
        if rule.effect != DENY:
            for thing in what(rule):
                allowed.setdefault(thing, _Crowd()).add(who(rule))
                if thing[0] == NETWORK:
                    on_networks.add(who(rule))

    def is_allowed(thing: What, people: Sequence[Who]) -> bool:
        if thing == EVERY:
            return on_networks.may_meet(people)
        things = [thing, EVERY] if thing[0] == NETWORK else [thing]
        return any(allowed[some].may_meet(people) for some in things if some in allowed)

    return [
        number
        for number, rule in enumerate(rules)
        if rule.effect == DENY
        # One that names the default network says more than what it denies.
        and DEFAULT_NETWORK not in rule.networks
        and not (rule.bridges and bridges_elsewhere)
        and not any(is_allowed(thing, who(rule)) for thing in what(rule))
    ]


def closed_networks(rules: Sequence[Rule], networks: Collection[str]) -> list[str]:
    """The networks that nobody may use."""
    denials = denials_of(rules)
    closed = dict.fromkeys(networks)
    for rule in with_built_in(rules):
        if rule.effect == DENY or not closed:
            continue
        names = closed if EVERY_NETWORK in rule.networks else rule.networks
        for name in list(names):
            if name in closed and _left(rules, rule, (NETWORK, name), denials):
                del closed[name]
    return list(closed)


def _left(rules: Sequence[Rule], rule: Rule, thing: What, denials: Index) -> list[Who]:
    """Whom a rule is about and no other denies the thing."""
    return [
        someone
        for someone in who(rule)
        if not any(
            is_wide(rules[number], rule)
            # A guest whose name is not known yet is not denied by its name.
            and not (rules[number].guests and rule.effect != DENY)
            for number in denials.about(Pair(rule, thing, someone))
        )
    ]


def bypasses(
    rules: Sequence[Rule], on: Mapping[str, Collection[str]]
) -> Iterator[tuple[int, str, str]]:
    """The rules that deny a Linux bridge or a network of it, and not the other,
    which somebody whom they are about may use.

    :param on: the networks of each Linux bridge.
    :returns: the rule's number, what kind of thing the other is, and its name.
    """
    of = {network: bridge for bridge, networks in on.items() for network in networks}
    denials = denials_of(rules)
    users = _users_of_bridges(rules, on, denials)
    for number, rule in enumerate(rules):
        if rule.effect != DENY:
            continue
        others: dict[What, None] = {}
        for kind, name in what(rule):
            if kind == BRIDGE:
                others |= dict.fromkeys((NETWORK, n) for n in on.get(name, ()))
            elif name == EVERY_NETWORK:
                others |= dict.fromkeys((BRIDGE, bridge) for bridge in on)
            elif name in of:
                others[BRIDGE, of[name]] = None
        for thing in others:
            if users[thing].may_meet(_left(rules, rule, thing, denials)):
                yield number, *thing


def _users_of_bridges(
    rules: Sequence[Rule], on: Mapping[str, Collection[str]], denials: Index
) -> dict[What, _Crowd]:
    """Who may use each of these Linux bridges, and of their networks."""
    crowds: dict[What, _Crowd] = {}
    for bridge, networks in on.items():
        crowds[BRIDGE, bridge] = _Crowd()
        crowds |= {(NETWORK, network): _Crowd() for network in networks}
    for rule in with_built_in(rules):
        if rule.effect == DENY:
            continue
        for thing in what(rule):
            things = [thing]
            if thing == EVERY:
                things = [some for some in crowds if some[0] == NETWORK]
            for some in things:
                if some in crowds:
                    crowds[some].add(_left(rules, rule, some, denials))
    return crowds
