# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.policy.decide`: who may have what, from facts alone."""

from __future__ import annotations

import pytest

from tapster.model import Peer
from tapster.policy.bridge_conf import Verdict
from tapster.policy.decide import MAX_NICS, Target, decide

ALICE = Peer(1000, 1000, frozenset({1000}), 1)
ROOT = Peer(0, 0, frozenset({0}), 1)
YES = Verdict(True, "allowed by a line", None, ())
NO = Verdict(False, "denied by a line", None, ())
DEFAULT = Target(network="default")


@pytest.mark.parametrize("nics", [0, 1, MAX_NICS - 1])
def test_everybody_may_use_the_default_network(nics: int) -> None:
    decision = decide(ALICE, DEFAULT, nics, None)
    assert decision.allowed
    assert not decision.over_quota


@pytest.mark.parametrize("peer", [ALICE, ROOT])
@pytest.mark.parametrize("nics", [MAX_NICS, MAX_NICS + 1])
def test_the_quota(peer: Peer, nics: int) -> None:
    decision = decide(peer, DEFAULT, nics, None)
    assert not decision.allowed
    assert decision.over_quota
    assert str(peer.uid) in decision.reason


@pytest.mark.parametrize("peer", [ALICE, ROOT])
def test_a_bridge_is_as_its_verdict_says(peer: Peer) -> None:
    target = Target(bridge="br0")
    assert decide(peer, target, 0, YES) == (True, YES.reason, False)
    assert decide(peer, target, 0, NO) == (False, NO.reason, False)
    # The quota is the default network's.
    assert decide(peer, target, 1000, YES).allowed


@pytest.mark.parametrize("peer", [ALICE, ROOT])
@pytest.mark.parametrize(
    "target", [Target(), Target(network="lan"), Target(bridge="br0"), Target("", None)]
)
def test_default_deny(peer: Peer, target: Target) -> None:
    decision = decide(peer, target, 0, None)
    assert not decision.allowed
    assert not decision.over_quota
    assert decision.reason


def test_a_bridge_is_never_allowed_as_a_network() -> None:
    assert not decide(ALICE, Target("default", "br0"), 0, NO).allowed
