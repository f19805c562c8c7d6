# SPDX-License-Identifier: LGPL-2.1-or-later
"""May this caller have this? Pure functions of facts that others gathered.

Default deny. A rule that denies wins, wherever it stands; among those that
allow, the first that is about the caller and the target says what is allowed.
Root is a user like any other, save for the ports that may be forwarded.

What is asked for exists: whoever asks has looked up the network before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from ..model import Peer, Port, Rule
from .bridge_conf import Verdict

DEFAULT_NETWORK = "default"
MAX_NICS = 16  # a user, on a network whose rule does not say
EVERY_NETWORK = "*"
_FREE_PORTS = (Port("tcp", 1024, 65535), Port("udp", 1024, 65535))

# Holds as long as no rule of a file names the network.
BUILT_IN = Rule(
    f"the built-in rule for network {DEFAULT_NETWORK}", networks=(DEFAULT_NETWORK,)
)


class Target(NamedTuple):
    """What a request turned out to be about: one of the two, or neither."""

    network: str | None = None
    bridge: str | None = None


class Decision(NamedTuple):
    """`reason` is for the log, never for the caller.

    `max_nics` is how many the caller may have there, None for any number; `macs`
    are the patterns of what its guest may be, none for any MAC.
    """

    allowed: bool
    reason: str
    over_quota: bool = False
    trusted: bool = False
    max_nics: int | None = None
    macs: tuple[str, ...] = ()


def decide(
    peer: Peer,
    target: Target,
    nics: int,
    verdict: Verdict | None,
    rules: Sequence[Rule] = (),
    mac: str | None = None,
) -> Decision:
    """Decide a request to attach.

    :param nics: how many the caller has on that network or bridge now.
    :param verdict: of bridge.conf, when the target is a Linux bridge.
    :param mac: what was asked for, or is asked for later by a first frame.
    """
    if target.bridge is None:
        verdict = None
    elif verdict is None:
        return Decision(False, f"bridge {target.bridge} was not judged")
    denied = _denied(peer, target, rules)
    if denied is not None:
        return denied
    if verdict is not None and not verdict.allowed and _is_final(verdict):
        return Decision(False, verdict.reason)
    rule, unfit = _grant(peer, target, rules, mac)
    if rule is not None:
        return _within_quota(peer, target, nics, rule)
    if verdict is not None:
        return Decision(verdict.allowed, _because(verdict.reason, unfit))
    return Decision(False, _because(_no_rule(target), unfit))


def _is_final(refusal: Verdict) -> bool:
    """Whether a line of bridge.conf says no, or might, rather than none says yes."""
    return refusal.source is not None or refusal.undecided


def may_forward(
    peer: Peer, network: str, port: Port, rules: Sequence[Rule] = ()
) -> Decision:
    """Decide a request to forward a port of the host to the caller's guest."""
    target = Target(network)
    denied = _denied(peer, target, rules)
    if denied is not None:
        return denied
    rule, _ = _grant(peer, target, rules, None)
    if rule is None:
        return Decision(False, _no_rule(target))
    ports = _FREE_PORTS if rule.forward is None else rule.forward
    if peer.is_root or any(allowed.covers(port) for allowed in ports):
        return Decision(True, f"{port} allowed by {rule.place}")
    words = ", ".join(map(str, ports)) or "no port"
    return Decision(False, f"{port} is not among what {rule.place} allows: {words}")


def quota(peer: Peer, network: str, rules: Sequence[Rule] = ()) -> int:
    """How many NICs the caller may have on a network; 0 if it may not use it."""
    target = Target(network)
    if _denied(peer, target, rules) is not None:
        return 0
    rule, _ = _grant(peer, target, rules, None)
    return 0 if rule is None else _limit(target, rule) or 0


def _denied(peer: Peer, target: Target, rules: Sequence[Rule]) -> Decision | None:
    """The refusal by the first rule that denies, if there is one."""
    for rule in _matching(peer, target, rules):
        if rule.effect != "allow":
            return Decision(False, f"denied by {rule.place}")
    return None


def _grant(
    peer: Peer, target: Target, rules: Sequence[Rule], mac: str | None
) -> tuple[Rule | None, list[str]]:
    """The rule that allows it; and the places of those before it that would have,
    with another MAC."""
    unfit: list[str] = []
    for rule in _matching(peer, target, rules):
        if rule.effect != "allow":
            continue
        if mac is None or not rule.macs or is_among(mac, rule.macs):
            return rule, unfit
        unfit.append(rule.place)
    return None, unfit


def _matching(peer: Peer, target: Target, rules: Sequence[Rule]) -> Iterator[Rule]:
    for rule in (*rules, *_built_in(rules)):
        if _is_about(rule, target) and _concerns(rule, peer):
            yield rule


def _built_in(rules: Sequence[Rule]) -> tuple[Rule, ...]:
    named = any(DEFAULT_NETWORK in rule.networks for rule in rules)
    return () if named else (BUILT_IN,)


def _is_about(rule: Rule, target: Target) -> bool:
    if target.bridge is not None:
        return target.bridge in rule.bridges
    if target.network is None:
        return False
    return target.network in rule.networks or EVERY_NETWORK in rule.networks


def _concerns(rule: Rule, peer: Peer) -> bool:
    if rule.users is None and rule.groups is None:
        return True
    if rule.users is not None and peer.uid in rule.users:
        return True
    return rule.groups is not None and not rule.groups.isdisjoint(
        {peer.gid, *peer.groups}
    )


def is_among(mac: str, patterns: Sequence[str]) -> bool:
    """Whether a MAC is one that a rule's `macs` allow."""
    return any(fnmatchcase(mac.lower(), pattern) for pattern in patterns)


def _within_quota(peer: Peer, target: Target, nics: int, rule: Rule) -> Decision:
    limit = _limit(target, rule)
    if limit is not None and nics >= limit:
        reason = f"uid {peer.uid} has {nics} of {limit} NICs, by {rule.place}"
        return Decision(False, reason, over_quota=True, max_nics=limit)
    reason = f"allowed by {rule.place}"
    return Decision(True, reason, False, rule.trusted, limit, rule.macs)


def _limit(target: Target, rule: Rule) -> int | None:
    if rule.max_nics is None and target.bridge is None:
        return MAX_NICS
    return rule.max_nics


def _no_rule(target: Target) -> str:
    if target.network is None:
        return "no such network or bridge"
    return f"no rule allows network {target.network}"


def _because(reason: str, unfit: Sequence[str]) -> str:
    if not unfit:
        return reason
    return f"{reason}; the MAC is not among those of {', '.join(unfit)}"
