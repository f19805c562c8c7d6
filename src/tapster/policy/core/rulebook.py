# SPDX-License-Identifier: LGPL-2.1-or-later
"""All rules, found by whom and what they are about.

A site may have thousands of rules, and few are about one request. So a decision looks
up the rules about the caller and the target, and goes through these in the order of the
files. What "about" means is in `matching`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ...model import Peer, Rule

DEFAULT_NETWORK = "default"
EVERY_NETWORK = "*"
DENY = "deny"
_WILD = re.compile(r"\[.*\]|[][*?]")  # what in a pattern is no plain text

# Holds unless a rule of the files names the network.
BUILT_IN = Rule(
    f"the built-in rule for network {DEFAULT_NETWORK}", networks=(DEFAULT_NETWORK,)
)


class Target(NamedTuple):
    """What a request turned out to be about.

    A network or a Linux bridge, or neither if there is no such thing; and the guest's
    name and MAC, None while they may still be any.
    """

    network: str | None = None
    bridge: str | None = None
    name: str | None = None
    mac: str | None = None


class _Index:
    """The numbers of the rules about one target, by whom they are about."""

    __slots__ = ("denies", "everyone", "groups", "users")

    def __init__(self, denies: bool) -> None:
        self.denies = denies
        self.everyone: list[int] = []
        self.users: dict[int, list[int]] = {}
        self.groups: dict[int, list[int]] = {}

    def add(self, number: int, rule: Rule) -> None:
        if rule.users is None and rule.groups is None:
            self.everyone.append(number)
        for uid in rule.users or ():
            self.users.setdefault(uid, []).append(number)
        for gid in rule.groups or ():
            self.groups.setdefault(gid, []).append(number)

    def of(self, peer: Peer) -> list[list[int]]:
        found = []
        if self.everyone and (self.denies or not peer.subordinate):
            found.append(self.everyone)
        if peer.uid in self.users:
            found.append(self.users[peer.uid])
        if self.groups:
            found += [self.groups[gid] for gid in self._groups_of(peer)]
        return found

    def _groups_of(self, peer: Peer) -> set[int]:
        """The groups of a caller that rules are about; the smaller set is searched."""
        theirs = peer.groups
        if self.denies:
            if peer.account_groups is None:
                return {*self.groups}
            if not peer.account_groups <= theirs:
                theirs |= peer.account_groups
        if len(theirs) < len(self.groups):
            gids = self.groups.keys() & theirs
        else:
            gids = {*theirs.intersection(self.groups)}
        if peer.gid in self.groups:
            gids.add(peer.gid)
        return gids


class _Trait(NamedTuple):
    """What a word must have to match one of some patterns.

    One of these beginnings, one of these ends, and one of these pieces. Few words have
    these and do not match, and to look for them is much faster than to match.
    """

    first: tuple[str, ...]
    last: tuple[str, ...]
    inside: tuple[str, ...]


def _trait(patterns: Sequence[str]) -> _Trait | None:
    """The trait of some patterns; None if there are none, as anything matches."""
    if not patterns:
        return None
    parts = [_WILD.split(pattern) for pattern in patterns]
    return _Trait(
        tuple(part[0] for part in parts),
        tuple(part[-1] for part in parts),
        tuple(max(part, key=len) for part in parts),
    )


class Rulebook:
    """The rules of the files, and the built-in one behind them where it holds."""

    def __init__(self, rules: Sequence[Rule] = (), problem: str | None = None) -> None:
        """
        :param rules: those of the files, in their order.
        :param problem: why the files could not be read whole; then all is denied.
        """
        named = any(DEFAULT_NETWORK in rule.networks for rule in rules)
        self.rules = tuple(rules) if named else (*rules, BUILT_IN)
        self.problem = problem
        self.managing = tuple(rule for rule in rules if rule.manage)
        self._guests = [_trait(rule.guests) for rule in self.rules]
        self._macs = [_trait(rule.macs) for rule in self.rules]
        # By name, two indices: of the rules that deny, and of the others.
        self._networks: dict[str, tuple[_Index, _Index]] = {}
        self._bridges: dict[str, tuple[_Index, _Index]] = {}
        for number, rule in enumerate(self.rules):
            for index, names in (
                (self._networks, rule.networks),
                (self._bridges, rule.bridges),
            ):
                for name in set(names):
                    pair = index.setdefault(name, (_Index(True), _Index(False)))
                    pair[rule.effect != DENY].add(number, rule)

    def denials(self, peer: Peer, target: Target) -> Iterator[Rule]:
        """Rules about caller and target that deny, in the order of the files.

        Most of those that do not match the guest are left out, but not all.
        """
        return self._find(peer, target, 0)

    def grants(self, peer: Peer, target: Target) -> Iterator[Rule]:
        """Rules about caller and target that allow, or let polkit decide.

        In the order of the files; most of those that do not match the guest are left
        out, but not all.
        """
        return self._find(peer, target, 1)

    def about(self, peer: Peer, target: Target) -> list[Rule]:
        """All rules about caller and target, whatever the guest, in that order."""
        whoever = target._replace(name=None, mac=None)
        found = [self._numbers(peer, whoever, kind) for kind in (0, 1)]
        return [self.rules[number] for number in sorted(itertools.chain(*found))]

    def _find(self, peer: Peer, target: Target, kind: int) -> Iterator[Rule]:
        return map(self.rules.__getitem__, self._numbers(peer, target, kind))

    def _numbers(self, peer: Peer, target: Target, kind: int) -> Iterable[int]:
        found: list[list[int]] = []
        if target.bridge is not None:
            pair = self._bridges.get(target.bridge)
            if pair is not None:
                found += pair[kind].of(peer)
        elif target.network is not None:
            for name in (target.network, EVERY_NETWORK):
                pair = self._networks.get(name)
                if pair is not None:
                    found += pair[kind].of(peer)
        if not found:
            return ()
        numbers: Iterable[int] = found[0]  # in order, and each once
        if len(found) > 1:
            numbers = sorted(set().union(*found))
        for word, traits in (target.name, self._guests), (target.mac, self._macs):
            if word:
                numbers = _likely(numbers, word.lower(), traits)
        return numbers


def _likely(
    numbers: Iterable[int], word: str, traits: Sequence[_Trait | None]
) -> Iterator[int]:
    """Those of some rules whose patterns a word may match."""
    for number in numbers:
        trait = traits[number]
        if trait is None:
            yield number
        elif word.startswith(trait.first) and word.endswith(trait.last):
            for piece in trait.inside:
                if piece in word:
                    yield number
                    break
