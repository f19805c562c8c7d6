# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.daemon.judge`: what polkit was asked about is what is done, and what a
decision goes by besides the rules."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tapster.daemon.audit import Act
from tapster.daemon.judge import ATTACH, Consents, Judge
from tapster.daemon.ledger import Ledger, Nic
from tapster.daemon.polkit import Answer
from tapster.model import AttachRequest, NetworkDefinition, Peer, Rule, State
from tapster.policy.config import Config
from tapster.policy.decide import Decision
from tapster.policy.rulebook import DEFAULT_NETWORK, Target

ALICE = Peer(1000, 1000, frozenset({1000}), 1)
YES, NO = Answer(True, "yes"), Answer(False, "polkit does not allow it")
NETWORKS = {name: NetworkDefinition(name) for name in (DEFAULT_NETWORK, "lan", "lab")}
ASKING = Rule("f:1", networks=("lan",), effect="polkit")
LAN = Target(network="lan")


class Polkit:
    """Says what it is told to, after something has happened meanwhile."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, Mapping[str, str], bool]] = []
        self.meanwhile: Callable[[], None] = lambda: None

    async def authorize(
        self, _peer: Peer, action: str, details: Mapping[str, str], interactive: bool
    ) -> Answer:
        self.asked.append((action, dict(details), interactive))
        await asyncio.sleep(0)
        self.meanwhile()
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    @property
    def guests(self) -> list[str | None]:
        return [details.get("guest") for _, details, _ in self.asked]


class Events:
    """What was told to have been denied, and why."""

    def __init__(self) -> None:
        self.denied: list[tuple[Act, str]] = []

    def denied_act(self, act: Act, reason: str) -> None:
        self.denied.append((act, reason))


def config(*rules: Rule) -> Config:
    return Config(networks=NETWORKS, rules=rules)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(str(tmp_path / "nics"))


def add(ledger: Ledger, name: str, network: str = "lan", uid: int = ALICE.uid) -> None:
    number = len(ledger) + 1
    ledger.add(
        Nic(
            ifname=f"tapsterl{number}",
            ifindex=number,
            bridge="br0",
            bridge_index=99,
            network=network,
            uid=uid,
            user=str(uid),
            pid=1,
            name=name,
            mac=None,
            ipv4=None,
            ipv6=None,
            mtu=1500,
            state=State.WAITING,
        )
    )


def make(
    ledger: Ledger, polkit: Any, *rules: Rule, events: Any = None, **options: Any
) -> Judge:
    told: Any = events or Events()
    return Judge(config(*rules), ledger, told, polkit, **options)


def confirm(
    judge: Judge,
    name: str | None = None,
    consents: Consents | None = None,
    target: Callable[[], Target] = lambda: LAN,
) -> tuple[Decision, Target]:
    """A decision that asks polkit, made whole; and what it is about then."""
    request = AttachRequest(name=name)
    act = Act(ALICE, "attach")

    def again() -> Decision:
        return judge.judge(ALICE, request, target())

    async def ask() -> tuple[Decision, Target]:
        decision = await judge.confirm(
            act, request, again, target, set() if consents is None else consents
        )
        return decision, judge.guest(ALICE, request, target())

    return asyncio.run(ask())


class TestPolkit:
    def test_is_asked_once_where_nothing_changes(self, ledger: Ledger) -> None:
        polkit = Polkit(YES)
        decision, _ = confirm(make(ledger, polkit, ASKING), "web")
        assert decision.allowed
        told = {"user": polkit.asked[0][1]["user"], "network": "lan", "guest": "web"}
        assert polkit.asked == [(ATTACH, told, False)]

    def test_is_asked_about_the_name_that_the_guest_gets(self, ledger: Ledger) -> None:
        """Its yes to vm1 is none to the next that is free, once vm1 is not."""
        polkit = Polkit(YES, NO)
        polkit.meanwhile = lambda: (
            add(ledger, "vm1") if len(polkit.asked) == 1 else None
        )
        decision, guest = confirm(make(ledger, polkit, ASKING))
        assert polkit.guests == ["vm1", "vm2"]
        assert guest.name == "vm2"
        assert not decision.allowed

    def test_is_asked_about_what_the_name_means_by_then(self, ledger: Ledger) -> None:
        targets = [LAN]
        asking = Rule("f:1", networks=("*",), effect="polkit")
        polkit = Polkit(YES)
        polkit.meanwhile = lambda: targets.__setitem__(0, Target(network="lab"))
        decision, _ = confirm(
            make(ledger, polkit, asking), "web", target=lambda: targets[0]
        )
        assert decision.allowed
        assert [told["network"] for _, told, _ in polkit.asked] == ["lan", "lab"]

    def test_is_asked_again_by_another_rule(self, ledger: Ledger) -> None:
        polkit = Polkit(YES)
        judge = make(ledger, polkit, ASKING)
        other = Rule("f:9", networks=("lan",), effect="polkit")
        polkit.meanwhile = lambda: setattr(judge, "config", config(other))
        decision, _ = confirm(judge, "web")
        assert decision.allowed
        assert decision.place == "f:9"
        assert len(polkit.asked) == 2

    def test_a_rule_that_denies_meanwhile_wins(self, ledger: Ledger) -> None:
        polkit = Polkit(YES)
        judge = make(ledger, polkit, ASKING)
        deny = Rule("f:2", networks=("lan",), effect="deny")
        polkit.meanwhile = lambda: setattr(judge, "config", config(ASKING, deny))
        decision, _ = confirm(judge, "web")
        assert not decision.allowed
        assert decision.place == "f:2"

    def test_a_quota_that_is_reached_meanwhile_holds(self, ledger: Ledger) -> None:
        polkit = Polkit(YES)
        one = Rule("f:1", networks=("lan",), effect="polkit", max_nics=1)
        polkit.meanwhile = lambda: add(ledger, "db")
        decision, _ = confirm(make(ledger, polkit, one), "web")
        assert decision.over_quota

    def test_is_not_asked_twice_in_one_request(self, ledger: Ledger) -> None:
        """Which may be decided anew, for the network had to come up."""
        polkit, consents = Polkit(YES), set[Any]()
        judge = make(ledger, polkit, ASKING)
        assert confirm(judge, "web", consents)[0].allowed
        assert confirm(judge, "web", consents)[0].allowed
        assert polkit.guests == ["web"]

    def test_is_not_asked_for_ever(self, ledger: Ledger) -> None:
        polkit = Polkit(YES)
        polkit.meanwhile = lambda: add(ledger, f"vm{len(polkit.asked)}")
        judge = make(
            ledger, polkit, Rule("f:1", networks=("lan",), effect="polkit", max_nics=99)
        )
        decision, _ = confirm(judge)
        assert not decision.allowed
        assert len(polkit.asked) < 20
