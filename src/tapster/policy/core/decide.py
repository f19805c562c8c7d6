# SPDX-License-Identifier: LGPL-2.1-or-later
"""May this caller have this? Pure functions of the rules and of `Facts`.

Nothing is allowed by default. A rule that denies wins, wherever it stands. Among the
others, the first that applies to the caller, the target and the guest says what is
allowed, and whether polkit has to allow it too. Root is a user like any other, except
that root may forward any port and manage what other users have.

The target exists: whoever asks for a decision has looked it up before.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from ...model import Peer, Port, Rule
from .facts import Facts, Usernet, Verdict
from .matching import guest_mismatch
from .rulebook import EVERY_NETWORK, Rulebook, Target

MAX_NICS = 16  # a user's, on the networks of a rule that has no max_nics
POLKIT = "polkit"
# Is no MAC, and so matches only those patterns that every MAC matches.
_ANY_MAC = "gg:gg:gg:gg:gg:gg"
_MOST_LOCATIONS = 8  # of rules, in a reason
_NOT_EVERYONE = "; what everyone may is not for uids of subuid(5)"
_FREE_PORTS = (Port("tcp", 1024, 65535), Port("udp", 1024, 65535))


class Decision(NamedTuple):
    """What was decided, why, and on which terms."""

    allowed: bool
    reason: str  # for the log, never for the caller
    rule: Rule | None = None  # the rule that decided, if one did
    location: str | None = None  # file:line of what decided, a rule or another file
    ask: bool = False  # allowed only if polkit says yes, too
    over_quota: bool = False  # refused only because of a number of NICs
    full: bool = False  # that number is the network's, not the caller's
    trusted: bool = False
    max_nics: int | None = None  # how many the caller may have; None: any number
    macs: tuple[str, ...] = ()  # patterns of what the guest's MAC may be; empty: any
    ttl: int | None = None  # seconds until the NIC is taken away; None: never
    share: str | None = None  # the name in lxc-usernet to which the NIC counts


def decide(
    peer: Peer, target: Target, book: Rulebook, facts: Facts | None = None
) -> Decision:
    """Decide a request to attach.

    :param peer: the caller.
    :param target: what is asked for, with the guest's name and MAC.
    :param book: all rules.
    :param facts: None stands for a caller without NICs; a Linux bridge is refused
        then, as bridge.conf was not asked.
    """
    facts = facts or Facts()
    verdict = facts.verdict if target.bridge is not None else None
    if target.bridge is not None and verdict is None:
        return Decision(False, f"bridge {target.bridge} was not judged")
    denied = _denied(peer, target, book)
    if denied is not None:
        return denied
    if verdict is not None and not verdict.allowed and _is_denial(verdict):
        return Decision(False, verdict.reason, location=_location(verdict))
    rule = _grant(peer, target, book)
    if rule is not None:
        return _within_quota(peer, target, facts, rule)
    mismatched = _mismatched(peer, target, book)
    if verdict is None:
        return Decision(False, _because(_no_rule(peer, target), mismatched))
    if not verdict.allowed and facts.usernet and facts.usernet.nics:
        return _by_usernet(peer, facts.usernet)
    return _by_bridge_conf(peer, verdict, mismatched)


def may_forward(peer: Peer, target: Target, port: Port, book: Rulebook) -> Decision:
    """Decide a request to forward a port of the host to the caller's guest.

    :param peer: the caller.
    :param target: the guest's network, with its name.
    :param port: one port of the host, or a range.
    :param book: all rules.
    """
    denied = _denied(peer, target, book)
    if denied is not None:
        return denied
    rule = _grant(peer, target, book)
    if rule is None:
        mismatched = _mismatched(peer, target, book)
        return Decision(False, _because(_no_rule(peer, target), mismatched))
    ports = _FREE_PORTS if rule.forward is None else rule.forward
    ask = rule.effect == POLKIT
    if peer.is_root or any(allowed.covers(port) for allowed in ports):
        return Decision(
            True, f"{port} allowed by {rule.location}", rule, rule.location, ask=ask
        )
    words = ", ".join(map(str, ports)) or "no port"
    reason = f"{port} is not among what {rule.location} allows: {words}"
    return Decision(False, reason, rule, rule.location)


def may_manage(peer: Peer, target: Target, book: Rulebook) -> Decision:
    """Decide whether the caller may see and change what other users have there.

    A rule for guests of some names does not cover a target without a guest's name; a
    rule for some MACs does not cover one without a MAC.

    :param peer: the caller.
    :param target: the network or bridge, with the name and MAC of the guest that it is
        about, None where it is about no guest.
    :param book: all rules.
    """
    if peer.is_root:
        return Decision(True, "root")
    denied = _denied(peer, target, book)
    if denied is not None:
        return denied
    asking = None
    for rule in book.grants(peer, target):
        if not _manages(rule, target):
            continue
        ask = rule.effect == POLKIT
        found = Decision(True, f"managed by {rule.location}", rule, rule.location, ask)
        if not ask:
            return found
        asking = asking or found
    return asking or Decision(False, "another user's")


def may_reload(peer: Peer, book: Rulebook) -> Decision:
    """Decide whether the caller may have the configuration read anew.

    Root may, and whoever manages every network with all guests on it.
    """
    every = Target(network=EVERY_NETWORK, mac=_ANY_MAC)
    return may_manage(peer, every, book)


# --- by the rules


def _denied(peer: Peer, target: Target, book: Rulebook) -> Decision | None:
    """The refusal by the first rule that denies, if there is one."""
    if book.problem is not None:
        return Decision(False, book.problem)
    for rule in book.denials(peer, target):
        if guest_mismatch(rule, target) is None:
            return Decision(False, f"denied by {rule.location}", rule, rule.location)
    return None


def _grant(peer: Peer, target: Target, book: Rulebook) -> Rule | None:
    """The first rule that allows it, or lets polkit decide."""
    for rule in book.grants(peer, target):
        if guest_mismatch(rule, target) is None:
            return rule
    return None


def _manages(rule: Rule, target: Target) -> bool:
    """Whether a grant is one to manage that target."""
    return (
        rule.manage
        and guest_mismatch(rule, target) is None
        and not (rule.guests and not target.name)
        and not (rule.macs and not target.mac)
    )


def _mismatched(peer: Peer, target: Target, book: Rulebook) -> list[str]:
    """Where rules stand that would allow it for another guest's name or MAC; of
    many, the first."""
    anyone = target._replace(name=None, mac=None)
    grants = islice(book.grants(peer, anyone), _MOST_LOCATIONS)
    return [rule.location for rule in grants]


def _no_rule(peer: Peer, target: Target) -> str:
    if target.network is None:
        return "no such network or bridge"
    reason = f"no rule allows network {target.network}"
    return f"{reason}{_NOT_EVERYONE}" if peer.subordinate else reason


def _because(reason: str, mismatched: Sequence[str]) -> str:
    """A reason, and where rules stand that would allow another guest."""
    if not mismatched:
        return reason
    return f"{reason}; the name or MAC is not among those of {', '.join(mismatched)}"


# --- by numbers of NICs


def _within_quota(peer: Peer, target: Target, facts: Facts, rule: Rule) -> Decision:
    """What the rule grants, unless the caller or the network has all NICs it may."""
    limit = _limit(target, rule)
    granted = Decision(
        True,
        f"allowed by {rule.location}",
        rule,
        rule.location,
        ask=rule.effect == POLKIT,
        trusted=rule.trusted,
        max_nics=limit,
        macs=rule.macs,
        ttl=rule.ttl,
    )
    # A rule's own max_nics counts NICs on Linux bridges, the default one does not.
    used = 0 if limit is None else facts.used(rule, rule.max_nics is not None)
    if limit is not None and used >= limit:
        reason = f"uid {peer.uid} has {used} of {limit} NICs, by {rule.location}"
        return _too_many(granted, reason)
    most = facts.network_limit
    if target.bridge is None and most is not None and facts.network_nics >= most:
        reason = f"network {target.network} has all of its {most} NICs"
        return _too_many(granted, reason)._replace(full=True)
    return granted


def _limit(target: Target, rule: Rule) -> int | None:
    if rule.max_nics is None and target.bridge is None:
        return MAX_NICS
    return rule.max_nics


def _too_many(granted: Decision, reason: str) -> Decision:
    return Decision(
        False,
        reason,
        granted.rule,
        granted.location,
        over_quota=True,
        max_nics=granted.max_nics,
    )


# --- by files of other projects


def _is_denial(refusal: Verdict) -> bool:
    """Whether a line of bridge.conf denies, or may: not just that no line allows."""
    return refusal.source is not None or refusal.undecided


def _location(verdict: Verdict) -> str | None:
    source = verdict.source
    return f"{source.path}:{source.line}" if source is not None else None


def _by_bridge_conf(
    peer: Peer, verdict: Verdict, mismatched: Sequence[str]
) -> Decision:
    reason = _because(verdict.reason, mismatched)
    allowed = verdict.allowed
    if allowed and peer.subordinate:  # bridge.conf allows everyone, and nobody else
        allowed, reason = False, f"{verdict.reason}{_NOT_EVERYONE}"
    return Decision(allowed, reason, location=_location(verdict))


def _by_usernet(peer: Peer, usernet: Usernet) -> Decision:
    """The NIC counts to the first name with something left, as it does for LXC."""
    granted = Decision(
        True,
        f"allowed by {usernet.location}",
        location=usernet.location,
        max_nics=usernet.nics,
    )
    for share in usernet.shares:
        if share.used < share.nics:
            return granted._replace(share=share.name)
    reason = f"uid {peer.uid}: all {usernet.nics} NICs are taken, by {usernet.location}"
    return _too_many(granted, reason)
