# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether one rule applies: to a caller, to a target, to the guest."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.policies import ALICE, BOB, BR0, LAN, MAC, allow, deny
from tapster.model import Peer, Rule
from tapster.policy.core.matching import (
    covers,
    guest_mismatch,
    matches_any,
    matches_peer,
    matches_target,
)
from tapster.policy.core.rulebook import Target

KVM = frozenset({36})  # alice's by what her process inherited
LEFT = replace(ALICE, groups=frozenset(), account_groups=KVM)
UNKNOWN = replace(LEFT, account_groups=None)
SUBORDINATE = Peer(100_004, 100_004, frozenset(), 1, subordinate=True)


@pytest.mark.parametrize(
    ("rule", "peers"),
    [
        (allow(), [ALICE, BOB, LEFT, UNKNOWN]),
        (deny(), [ALICE, BOB, LEFT, UNKNOWN, SUBORDINATE]),
        (allow(users=frozenset({1000})), [ALICE, LEFT, UNKNOWN]),
        (allow(users=frozenset({100_004})), [SUBORDINATE]),
        (allow(groups=KVM), [ALICE]),
        # Who has left a group, or may have, is still denied what the group is.
        (deny(groups=KVM), [ALICE, LEFT, UNKNOWN]),
        (allow(groups=frozenset({100})), [BOB]),  # by its gid alone
    ],
)
def test_a_rule_applies_to_these_callers(rule: Rule, peers: list[Peer]) -> None:
    everybody = [ALICE, BOB, LEFT, UNKNOWN, SUBORDINATE]
    assert [peer for peer in everybody if matches_peer(rule, peer)] == peers


@pytest.mark.parametrize(
    ("rule", "target", "applies"),
    [
        (allow(), LAN, True),
        (allow(networks=("*",)), LAN, True),
        (allow(), Target("wan"), False),
        (allow(networks=("*",)), BR0, False),  # which is for networks alone
        (allow(bridges=("br0",)), BR0, True),
        (allow(bridges=("br0",)), Target("lan", "br1"), False),  # the bridge counts
        (allow(networks=("*",)), Target(), False),
    ],
)
def test_a_rule_applies_to_this_target(
    rule: Rule, target: Target, applies: bool
) -> None:
    assert matches_target(rule, target) is applies
    assert covers(rule, target) is applies


@pytest.mark.parametrize(
    ("rule", "name", "mac", "mismatch"),
    [
        (allow(guests=("web-*",)), "web-1", None, None),
        (allow(guests=("web-*",)), None, None, None),  # some name will do
        (deny(guests=("web-*",)), None, None, "guests of any name"),
        (allow(guests=("web-*",)), "db", None, "a guest named db"),
        (allow(macs=("52:54:*",)), None, MAC, None),
        (allow(macs=("02:*",)), None, MAC, f"the MAC {MAC}"),
        (allow(macs=("02:*",)), None, None, None),
    ],
)
def test_what_of_a_guest_a_rule_does_not_apply_to(
    rule: Rule, name: str | None, mac: str | None, mismatch: str | None
) -> None:
    target = LAN._replace(name=name, mac=mac)
    assert guest_mismatch(rule, target) == mismatch
    assert covers(rule, target) is (mismatch is None)


def test_a_word_matches_patterns_in_any_case() -> None:
    assert matches_any("Web-1", ("db", "web-?"))
    assert not matches_any("web-10", ("db", "web-?"))
    assert not matches_any("web-1", ())
