# SPDX-License-Identifier: LGPL-2.1-or-later
"""`decide.judge`: what a decision goes by besides the rules, and its explanation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.builders import make_ledger
from support.deciding import ALICE, LAN, make_config, make_judge
from tapster.daemon.decide.judge import Judge
from tapster.daemon.nics.ledger import Ledger
from tapster.model import AttachRequest, Rule
from tapster.policy.config.current import CurrentConfig
from tapster.policy.core.facts import Verdict
from tapster.policy.core.rulebook import Target
from tapster.policy.foreign import bridge_conf


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return make_ledger(tmp_path)


def make(ledger: Ledger, *rules: Rule) -> Judge:
    return make_judge(ledger, CurrentConfig(make_config(*rules)))


# It takes as much to refuse what does not exist as what does, or others who wait
# could tell.


@pytest.mark.parametrize("bridge", ["br0", "br9"])
def test_bridge_conf_is_read_for_a_bridge_that_does_not_exist_too(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, bridge: str
) -> None:
    read: list[str] = []

    def decide(_: str, bridges: list[str], *__: Any, **___: Any) -> Any:
        read.extend(bridges)
        return {b: Verdict(False, "no rule", None, ()) for b in bridges}

    monkeypatch.setattr(bridge_conf, "decide_all", decide)
    target = Target(bridge=bridge) if bridge == "br0" else Target()
    judged = make(ledger).decide(ALICE, AttachRequest(bridge=bridge), target)
    assert not judged.decision.allowed
    assert read == [bridge]


def test_nothing_is_kept_of_what_does_not_exist(ledger: Ledger) -> None:
    judge = make(ledger)
    before = {key: len(value) for key, value in vars(ledger).items()
              if hasattr(value, "__len__")}  # fmt: skip
    for number in range(50):
        request = AttachRequest(network=f"n{number}")
        assert not judge.decide(ALICE, request, Target()).decision.allowed
    for key, size in before.items():
        assert len(getattr(ledger, key)) == size, key


def test_an_explanation_shows_some_of_very_many_rules(ledger: Ledger) -> None:
    mine = [
        Rule(f"m:{n}", users=frozenset({1000}), networks=("lan",), guests=("x",))
        for n in range(3000)
    ]
    others = [
        Rule(f"o:{n}", users=frozenset({7}), networks=("lan",)) for n in range(3000)
    ]
    judge = make(ledger, *others, *mine)
    judged = judge.dry_run(ALICE, AttachRequest(name="web"), LAN, None)
    own, more = judge.steps(ALICE, judged, own=True)
    assert own[0].location == "m:0"
    assert len(own) + more == 3000
    assert len(own) <= 100
    every, more = judge.steps(ALICE, judged, own=False)
    assert every[0].location == "m:0"
    assert len(every) + more == 3000
    # All of it fits into what a client takes.
    assert sum(len(str(step)) for step in every) < 512 * 1024


def test_an_explanation_shows_all_of_a_few_rules_in_their_order(ledger: Ledger) -> None:
    rules = [
        Rule("f:1", users=frozenset({7}), networks=("lan",)),
        Rule("f:2", networks=("lan",), guests=("db",)),
        Rule("f:3", networks=("lan",), effect="deny", guests=("vip",)),
        Rule("f:4", groups=frozenset({1000}), networks=("*",)),
    ]
    judge = make(ledger, *rules)
    judged = judge.dry_run(ALICE, AttachRequest(name="web"), LAN, None)
    told, more = judge.steps(ALICE, judged, own=True)
    assert [step.location for step in told] == ["f:2", "f:3", "f:4"]
    assert told[-1].outcome == "decides"
    assert more == 0
    told, _ = judge.steps(ALICE, judged, own=False)
    assert [step.location for step in told] == ["f:1", "f:2", "f:3", "f:4"]
