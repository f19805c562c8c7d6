# SPDX-License-Identifier: LGPL-2.1-or-later
"""May this caller have this? Pure functions of facts that others gathered.

Default deny. A rule that denies wins, wherever it stands; among the others the
first that is about the caller, the target and the guest says what is allowed,
and whether polkit has to allow it too. Root is a user like any other, save for
the ports that may be forwarded, and for what is other users'.

What is asked for exists: whoever asks has looked up the network before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from itertools import islice
from typing import NamedTuple

from ...model import Peer, Port, Rule
from ..foreign.bridge_conf import Verdict
from .rulebook import DENY, EVERY_NETWORK, Rulebook, Target, concerns, is_about

MAX_NICS = 16  # a user, on the networks of a rule that does not say
POLKIT = "polkit"
NOT_ABOUT_USER = "not about this user"  # the outcome of such a rule
_ANY_MAC = "gg:gg:gg:gg:gg:gg"  # which is like those patterns that all are like
_MOST_PLACES = 8  # of rules, in a reason
_NOT_EVERYONE = "; what everyone may is not for uids of subuid(5)"
_FREE_PORTS = (Port("tcp", 1024, 65535), Port("udp", 1024, 65535))


class Share(NamedTuple):
    """What lxc-usernet grants the caller by one name, its own or a group's: so many
    NICs on the bridge, of which `used` are taken, a group's by all its members."""

    name: str
    number: int
    used: int


class Usernet(NamedTuple):
    """What lxc-usernet grants the caller on the bridge."""

    shares: tuple[Share, ...]
    place: str

    @property
    def number(self) -> int:
        return sum(share.number for share in self.shares)

    @property
    def used(self) -> int:
        return sum(share.used for share in self.shares)


def none(_rule: Rule, _bridges: bool) -> int:
    return 0


class Facts(NamedTuple):
    """What a decision goes by besides the rules.

    `used` tells how many NICs the caller has of those that a rule is about, on
    Linux bridges too or on networks only. `in_all` are those of all users on the
    network, `most` how many these may be. `verdict` is of bridge.conf, when the
    target is a Linux bridge.
    """

    used: Callable[[Rule, bool], int] = none
    verdict: Verdict | None = None
    usernet: Usernet | None = None
    in_all: int = 0
    most: int | None = None


class Decision(NamedTuple):
    """`reason` is for the log, never for the caller.

    `rule` is the one that decided, if it was one, and `place` where that stands,
    or what did stand in its place. `ask`: it holds if polkit says yes, too.
    `max_nics` is how many the caller may have, None for any number; `full`: it is
    the network that has all it may have. `macs` are the patterns of what its guest
    may be, none for any MAC. `share` is whose number in lxc-usernet it counts for.
    """

    allowed: bool
    reason: str
    rule: Rule | None = None
    place: str | None = None
    ask: bool = False
    over_quota: bool = False
    full: bool = False
    trusted: bool = False
    max_nics: int | None = None
    macs: tuple[str, ...] = ()
    ttl: int | None = None
    share: str | None = None


class Step(NamedTuple):
    """A rule that was looked at, and what came of it."""

    place: str
    effect: str
    outcome: str


def decide(
    peer: Peer, target: Target, book: Rulebook, facts: Facts | None = None
) -> Decision:
    """Decide a request to attach."""
    facts = facts or Facts()
    verdict = facts.verdict if target.bridge is not None else None
    if target.bridge is not None and verdict is None:
        return Decision(False, f"bridge {target.bridge} was not judged")
    denied = _denied(peer, target, book)
    if denied is not None:
        return denied
    if verdict is not None and not verdict.allowed and _is_final(verdict):
        return Decision(False, verdict.reason, place=_place(verdict))
    rule = _grant(peer, target, book)
    if rule is not None:
        return _within_quota(peer, target, facts, rule)
    unfit = _unfit(peer, target, book)
    if verdict is None:
        return Decision(False, _because(_no_rule(peer, target), unfit))
    if not verdict.allowed and facts.usernet and facts.usernet.number:
        return _by_usernet(peer, facts.usernet)
    if verdict.allowed and peer.subordinate:
        reason = f"{verdict.reason}{_NOT_EVERYONE}"
        return Decision(False, reason, place=_place(verdict))
    reason = _because(verdict.reason, unfit)
    return Decision(verdict.allowed, reason, place=_place(verdict))


def _is_final(refusal: Verdict) -> bool:
    """Whether a line of bridge.conf says no, or might, rather than none says yes."""
    return refusal.source is not None or refusal.undecided


def _place(verdict: Verdict) -> str | None:
    source = verdict.source
    return f"{source.path}:{source.line}" if source is not None else None


def may_forward(peer: Peer, target: Target, port: Port, book: Rulebook) -> Decision:
    """Decide a request to forward a port of the host to the caller's guest."""
    denied = _denied(peer, target, book)
    if denied is not None:
        return denied
    rule = _grant(peer, target, book)
    if rule is None:
        unfit = _unfit(peer, target, book)
        return Decision(False, _because(_no_rule(peer, target), unfit))
    ports = _FREE_PORTS if rule.forward is None else rule.forward
    ask = rule.effect == POLKIT
    if peer.is_root or any(allowed.covers(port) for allowed in ports):
        return Decision(
            True, f"{port} allowed by {rule.place}", rule, rule.place, ask=ask
        )
    words = ", ".join(map(str, ports)) or "no port"
    reason = f"{port} is not among what {rule.place} allows: {words}"
    return Decision(False, reason, rule, rule.place)


def may_manage(peer: Peer, target: Target, book: Rulebook) -> Decision:
    """Whether the caller may see and change what other users have there. What has
    no guest's name, or no MAC, is nothing of those who manage guests of some."""
    if peer.is_root:
        return Decision(True, "root")
    denied = _denied(peer, target, book)
    if denied is not None:
        return denied
    asking = None
    for rule in book.grants(peer, target):
        if (
            not rule.manage
            or _misfit(rule, target)
            or (rule.guests and not target.name)
            or (rule.macs and not target.mac)
        ):
            continue
        ask = rule.effect == POLKIT
        found = Decision(True, f"managed by {rule.place}", rule, rule.place, ask)
        if not ask:
            return found
        asking = asking or found
    return asking or Decision(False, "another user's")


def may_reload(peer: Peer, book: Rulebook) -> Decision:
    """Whether the caller may have the configuration read anew: root, and who
    manages every network, with whatever guests are there."""
    every = Target(network=EVERY_NETWORK, mac=_ANY_MAC)
    return may_manage(peer, every, book)


def explain(
    peer: Peer,
    target: Target,
    book: Rulebook,
    decision: Decision,
    rules: Iterable[Rule] | None = None,
) -> list[Step]:
    """For each rule about the target, what came of it on the way to a decision.

    :param rules: the only ones that are to be told of; None is all of the book.
    """
    return [
        Step(rule.place, rule.effect, _outcome(rule, peer, target, decision))
        for rule in (book.rules if rules is None else rules)
        if is_about(rule, target)
    ]


def _outcome(rule: Rule, peer: Peer, target: Target, decision: Decision) -> str:
    if not concerns(rule, peer):
        return NOT_ABOUT_USER
    misfit = _misfit(rule, target)
    if misfit is not None:
        return f"not for {misfit}"
    if rule is decision.rule:
        return "decides"
    if rule.effect == DENY:
        return "denies too"
    if decision.rule is None:
        return f"passed over: {decision.reason}"
    if decision.rule.effect == DENY:
        return "passed over: a rule that denies wins"
    return "passed over: an earlier rule decides"


def _denied(peer: Peer, target: Target, book: Rulebook) -> Decision | None:
    """The refusal by the first rule that denies, if there is one."""
    if book.problem is not None:
        return Decision(False, book.problem)
    for rule in book.denials(peer, target):
        if _misfit(rule, target) is None:
            return Decision(False, f"denied by {rule.place}", rule, rule.place)
    return None


def _grant(peer: Peer, target: Target, book: Rulebook) -> Rule | None:
    """The rule that allows it, or asks polkit."""
    for rule in book.grants(peer, target):
        if _misfit(rule, target) is None:
            return rule
    return None


def _unfit(peer: Peer, target: Target, book: Rulebook) -> list[str]:
    """Where no rule allows it, the places of those that would, with another name
    or MAC; of many, the first."""
    whoever = target._replace(name=None, mac=None)
    return [rule.place for rule in islice(book.grants(peer, whoever), _MOST_PLACES)]


def covers(rule: Rule, target: Target) -> bool:
    """Whether a rule is about a target and its guest, whosever it is."""
    return is_about(rule, target) and _misfit(rule, target) is None


def _misfit(rule: Rule, target: Target) -> str | None:
    """What of the guest a rule is not about. One that allows is about any that may
    still be; a name that may be any is not yet the one that is denied."""
    if rule.effect == DENY and rule.guests and not target.name:
        return "guests of any name"
    if rule.guests and target.name and not is_among(target.name, rule.guests):
        return f"a guest named {target.name}"
    if rule.macs and target.mac and not is_among(target.mac, rule.macs):
        return f"the MAC {target.mac}"
    return None


def is_among(word: str, patterns: Sequence[str]) -> bool:
    """Whether a guest's MAC or name is one that a rule's patterns are about."""
    word = word.lower()
    return any(fnmatchcase(word, pattern) for pattern in patterns)


def _within_quota(peer: Peer, target: Target, facts: Facts, rule: Rule) -> Decision:
    limit = _limit(target, rule)
    granted = Decision(
        True,
        f"allowed by {rule.place}",
        rule,
        rule.place,
        ask=rule.effect == POLKIT,
        trusted=rule.trusted,
        max_nics=limit,
        macs=rule.macs,
        ttl=rule.ttl,
    )
    # Without a number of its own it is one of networks, and bridges have none.
    used = 0 if limit is None else facts.used(rule, rule.max_nics is not None)
    if limit is not None and used >= limit:
        reason = f"uid {peer.uid} has {used} of {limit} NICs, by {rule.place}"
        return _too_many(granted, reason)
    if target.bridge is None and facts.most is not None and facts.in_all >= facts.most:
        reason = f"network {target.network} has all of its {facts.most} NICs"
        return _too_many(granted, reason)._replace(full=True)
    return granted


def _too_many(granted: Decision, reason: str) -> Decision:
    return Decision(
        False,
        reason,
        granted.rule,
        granted.place,
        over_quota=True,
        max_nics=granted.max_nics,
    )


def _by_usernet(peer: Peer, usernet: Usernet) -> Decision:
    """The first name with something left pays, as there."""
    granted = Decision(
        True,
        f"allowed by {usernet.place}",
        place=usernet.place,
        max_nics=usernet.number,
    )
    for share in usernet.shares:
        if share.used < share.number:
            return granted._replace(share=share.name)
    reason = f"uid {peer.uid}: all {usernet.number} NICs are taken, by {usernet.place}"
    return _too_many(granted, reason)


def _limit(target: Target, rule: Rule) -> int | None:
    if rule.max_nics is None and target.bridge is None:
        return MAX_NICS
    return rule.max_nics


def _no_rule(peer: Peer, target: Target) -> str:
    if target.network is None:
        return "no such network or bridge"
    reason = f"no rule allows network {target.network}"
    return f"{reason}{_NOT_EVERYONE}" if peer.subordinate else reason


def _because(reason: str, unfit: Sequence[str]) -> str:
    if not unfit:
        return reason
    return f"{reason}; the name or MAC is not among those of {', '.join(unfit)}"
