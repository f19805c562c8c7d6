# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether one rule applies: to a caller, to a target, to the guest.

A rule applies to a request if it matches all three. `Rulebook` finds the rules that
match caller and target without looking at each; what is here is the definition.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from ...model import Peer, Rule
from .rulebook import DENY, EVERY_NETWORK, Target


def matches_peer(rule: Rule, peer: Peer) -> bool:
    """Whether a rule applies to a caller, whatever the caller asks for.

    A grant to everyone is for accounts: a subordinate uid (subuid(5)) has none. A
    denial is wider: it also holds for callers who have left the group that it names.
    """
    denies = rule.effect == DENY
    if rule.users is None and rule.groups is None:
        return denies or not peer.subordinate
    if rule.users is not None and peer.uid in rule.users:
        return True
    if rule.groups is None:
        return False
    groups = {peer.gid, *peer.groups}
    if denies:
        if peer.account_groups is None:
            return True
        groups |= peer.account_groups
    return not rule.groups.isdisjoint(groups)


def matches_target(rule: Rule, target: Target) -> bool:
    """Whether a rule applies to a network or Linux bridge, whoever asks."""
    if target.bridge is not None:
        return target.bridge in rule.bridges
    if target.network is None:
        return False
    return target.network in rule.networks or EVERY_NETWORK in rule.networks


def guest_mismatch(rule: Rule, target: Target) -> str | None:
    """The guest's name or MAC that a rule does not apply to; None if it does.

    A name or MAC that is not known yet may still become any: a grant applies to it,
    a denial does not.
    """
    if rule.effect == DENY and rule.guests and not target.name:
        return "guests of any name"
    if rule.guests and target.name and not matches_any(target.name, rule.guests):
        return f"a guest named {target.name}"
    if rule.macs and target.mac and not matches_any(target.mac, rule.macs):
        return f"the MAC {target.mac}"
    return None


def covers(rule: Rule, target: Target) -> bool:
    """Whether a rule applies to a target and the guest there, whoever asks."""
    return matches_target(rule, target) and guest_mismatch(rule, target) is None


def matches_any(text: str, patterns: Sequence[str]) -> bool:
    """Whether a guest's name or MAC matches one of a rule's patterns."""
    text = text.lower()
    return any(fnmatchcase(text, pattern) for pattern in patterns)
