# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whom the rules leave what, once all are taken together.

Nothing is assumed about who is in which group: anybody may be in any.
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
    """Some users and groups: may others be among them?"""

    def __init__(self) -> None:
        self._anyone = False  # everyone, or a group, in which anybody may be
        self._users: set[Who] = set()

    def add(self, people: Iterable[Who]) -> None:
        for someone in people:
            if someone[0] == "user":
                self._users.add(someone)
            else:
                self._anyone = True

    def may_meet(self, people: Iterable[Who]) -> bool:
        """Whether somebody may be in this crowd and among these people, too."""
        return any(
            self._anyone
            or someone in self._users
            or (someone[0] != "user" and bool(self._users))
            for someone in people
        )


def redundant_denials(rules: Sequence[Rule], bridges_elsewhere: bool) -> list[int]:
    """Rules that deny only what nothing allows.

    :param rules: all rules.
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
        # Naming the default network has an effect of its own: no built-in rule.
        and DEFAULT_NETWORK not in rule.networks
        and not (rule.bridges and bridges_elsewhere)
        and not any(is_allowed(thing, who(rule)) for thing in what(rule))
    ]


def closed_networks(rules: Sequence[Rule], networks: Collection[str]) -> list[str]:
    """The networks that nobody may use.

    :param rules: all rules.
    :param networks: the names of all networks that are defined.
    """
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
    """Those whom a rule is about and whom no rule denies a thing for all its guests.

    :param rules: all rules.
    :param rule: the one whose people and guests they are.
    :param thing: the network or bridge.
    :param denials: the rules that deny.
    """
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
    """Rules that deny a Linux bridge or a network on it, and leave the other open.

    Somebody whom such a rule is about may use the other, and so the same wire.

    :param rules: all rules.
    :param on: the networks of each Linux bridge.
    :returns: for each, the rule's number, and the kind and name of what is left open.
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
    """Who may use each of these Linux bridges and their networks.

    :param rules: all rules.
    :param on: the networks of each Linux bridge.
    :param denials: the rules that deny.
    """
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
