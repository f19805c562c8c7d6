# SPDX-License-Identifier: LGPL-2.1-or-later
"""`decide.visibility`: who sees what others have; polkit may have a word there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from support.builders import make_peer
from support.deciding import ALICE, NO, YES, FakePolkit, make_config
from tapster.daemon.decide.question import MANAGE
from tapster.daemon.decide.visibility import Visibility
from tapster.model import Peer, Rule
from tapster.policy.config.current import CurrentConfig
from tapster.policy.core.rulebook import Target
from tapster.wire.objects import Event

LAN, LAB = Target(network="lan", name="web"), Target(network="lab", name="web")
ROOT, BOB = make_peer(0), make_peer(1001)


def make(polkit: FakePolkit, *rules: Rule) -> Visibility:
    return Visibility(CurrentConfig(make_config(*rules)), polkit)


def sees(peer: Peer, polkit: FakePolkit, *rules: Rule) -> Callable[[Target], bool]:
    return asyncio.run(make(polkit, *rules).of_others(peer))


def test_polkit_is_asked_once_whatever_the_number_of_rules() -> None:
    polkit = FakePolkit(YES)
    rules = [
        Rule(f"f:{n}", networks=(name,), effect="polkit", manage=True)
        for n, name in enumerate(("lan", "lab", "lan"))
    ]
    seen = sees(ALICE, polkit, *rules)
    assert seen(LAN)
    assert seen(LAB)
    ((action, told, interactive),) = polkit.asked
    assert action == MANAGE
    assert set(told) == {"verb", "user"}
    assert told["verb"] == "list"
    assert not interactive


def test_polkit_s_no_leaves_what_other_rules_allow() -> None:
    asking = Rule("f:1", networks=("*",), effect="polkit", manage=True)
    granting = Rule("f:2", networks=("lab",), manage=True)
    seen = sees(ALICE, FakePolkit(NO), asking, granting)
    assert not seen(LAN)
    assert seen(LAB)


@pytest.mark.parametrize("peer", [ROOT, ALICE])
def test_polkit_is_not_asked_about_root_or_whom_no_rule_is_about(peer: Peer) -> None:
    polkit = FakePolkit(NO)
    rule = Rule(
        "f:1", users=frozenset({0, 7}), networks=("*",), effect="polkit", manage=True
    )
    assert sees(peer, polkit, rule)(LAN) is peer.is_root
    assert polkit.asked == []


def event(what: str = "attached", **fields: object) -> Event:
    given = {"uid": BOB.uid, "owner": BOB.uid, "network": "lan", "name": "web"}
    return Event("2026-01-02T03:04:05.678+00:00", what, **{**given, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("peer", "seen"), [(ROOT, True), (BOB, True), (ALICE, False)], ids=["0", "b", "a"]
)
def test_a_watcher_is_told_of_its_own_and_root_of_everything(
    peer: Peer, seen: bool
) -> None:
    assert make(FakePolkit(YES)).may_see(peer, event()) is seen


def test_a_watcher_is_told_of_what_it_manages_without_polkit_being_asked() -> None:
    polkit = FakePolkit(YES)
    managing = Rule("f:1", networks=("lan",), manage=True)
    asking = Rule("f:2", networks=("lab",), effect="polkit", manage=True)
    visibility = make(polkit, managing, asking)
    assert visibility.may_see(ALICE, event(network="lan", bridge="tapbr1"))
    assert not visibility.may_see(ALICE, event(network="lab"))
    assert polkit.asked == []


def test_a_network_of_all_users_is_told_to_those_who_may_use_it() -> None:
    visibility = make(FakePolkit(YES), Rule("f:1", networks=("lab",)))
    shared = event("network", network="lab", owner=None, uid=-1, name=None)
    hidden = event("network", network="lan", owner=None, uid=-1, name=None)
    assert visibility.may_see(ALICE, shared)
    assert not visibility.may_see(ALICE, hidden)
    assert visibility.may_see(ROOT, hidden)
