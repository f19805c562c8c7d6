# SPDX-License-Identifier: LGPL-2.1-or-later
"""`decide.judge`: what polkit was asked about is what is done, and what a
decision goes by besides the rules."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tapster.daemon.audit.record import RequestContext
from tapster.daemon.broker import Broker
from tapster.daemon.decide.judge import ATTACH, MANAGE, Consents, Judge
from tapster.daemon.decide.polkit.client import Answer
from tapster.daemon.nics.ledger import Ledger, Nic
from tapster.model import AttachRequest, NetworkDefinition, Peer, Rule, State
from tapster.policy.config.current import CurrentConfig
from tapster.policy.config.load import Authorization, Config
from tapster.policy.config.values import Names
from tapster.policy.core.decide import Decision
from tapster.policy.core.facts import Verdict
from tapster.policy.core.rulebook import DEFAULT_NETWORK, Target
from tapster.policy.foreign import bridge_conf, lxc_usernet

ALICE = Peer(1000, 1000, frozenset({1000}), 1)
YES, NO = Answer(True, "yes"), Answer(False, "polkit does not allow it")
NETWORKS = {name: NetworkDefinition(name) for name in (DEFAULT_NETWORK, "lan", "lab")}
ASKING = Rule("f:1", networks=("lan",), effect="polkit")
LAN = Target(network="lan")


class Polkit:
    """Says what it is told to, after something has happened meanwhile."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, dict[str, str], bool]] = []
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
        self.denials: list[tuple[RequestContext, str]] = []

    def denied(self, context: RequestContext, reason: str) -> None:
        self.denials.append((context, reason))


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
    return Judge(CurrentConfig(config(*rules)), ledger, told, polkit, **options)


def confirm(
    judge: Judge,
    name: str | None = None,
    consents: Consents | None = None,
    target: Callable[[], Target] = lambda: LAN,
) -> tuple[Decision, Target]:
    """A decision that asks polkit, made whole; and what it is about then."""
    request = AttachRequest(name=name)
    context = RequestContext(ALICE, "attach")

    def again() -> Decision:
        return judge.judge(ALICE, request, target())

    async def ask() -> tuple[Decision, Target]:
        decision = await judge.confirm(
            context, request, again, target, set() if consents is None else consents
        )
        return decision, judge.guest(ALICE, request, target())

    return asyncio.run(ask())


class TestPolkit:
    def test_is_asked_once_where_nothing_changes(self, ledger: Ledger) -> None:
        polkit = Polkit(YES)
        decision, _ = confirm(make(ledger, polkit, ASKING), "web")
        assert decision.allowed
        ((action, told, interactive),) = polkit.asked
        assert action == ATTACH
        del told["user"]
        assert told == {"verb": "attach", "network": "lan", "guest": "web"}
        assert not interactive

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
        polkit.meanwhile = lambda: judge._current.replace(config(other))
        decision, _ = confirm(judge, "web")
        assert decision.allowed
        assert decision.location == "f:9"
        assert len(polkit.asked) == 2

    def test_a_rule_that_denies_meanwhile_wins(self, ledger: Ledger) -> None:
        polkit = Polkit(YES)
        judge = make(ledger, polkit, ASKING)
        deny = Rule("f:2", networks=("lan",), effect="deny")
        polkit.meanwhile = lambda: judge._current.replace(config(ASKING, deny))
        decision, _ = confirm(judge, "web")
        assert not decision.allowed
        assert decision.location == "f:2"

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

    def test_a_client_that_goes_is_on_record(self, ledger: Ledger) -> None:
        events = Events()

        class Gone(Polkit):
            async def authorize(self, *_: Any) -> Answer:
                raise asyncio.CancelledError

        judge = make(ledger, Gone(YES), ASKING, events=events)
        with pytest.raises(asyncio.CancelledError):
            confirm(judge, "web")
        ((context, reason),) = events.denials
        assert context.rule == "f:1"
        assert "went while polkit was asked" in reason


class TestSight:
    """Whether a caller sees what others have: polkit may have a word there, too."""

    LAN, LAB = Target(network="lan", name="web"), Target(network="lab", name="web")

    def test_polkit_is_asked_once_whatever_number_of_rules(
        self, ledger: Ledger
    ) -> None:
        polkit = Polkit(YES)
        rules = [
            Rule(f"f:{n}", networks=(name,), effect="polkit", manage=True)
            for n, name in enumerate(("lan", "lab", "lan"))
        ]
        sees = asyncio.run(make(ledger, polkit, *rules).sight(ALICE))
        assert sees(self.LAN)
        assert sees(self.LAB)
        ((action, told, interactive),) = polkit.asked
        assert action == MANAGE
        assert set(told) == {"verb", "user"}
        assert told["verb"] == "list"
        assert not interactive

    def test_polkit_s_no_leaves_what_other_rules_allow(self, ledger: Ledger) -> None:
        asking = Rule("f:1", networks=("*",), effect="polkit", manage=True)
        granting = Rule("f:2", networks=("lab",), manage=True)
        sees = asyncio.run(make(ledger, Polkit(NO), asking, granting).sight(ALICE))
        assert not sees(self.LAN)
        assert sees(self.LAB)

    @pytest.mark.parametrize("peer", [Peer(0, 0, frozenset(), 1), ALICE])
    def test_nobody_is_asked_about_root_or_whom_no_rule_is_about(
        self, ledger: Ledger, peer: Peer
    ) -> None:
        polkit = Polkit(NO)
        rules = [
            Rule(
                "f:1",
                users=frozenset({0, 7}),
                networks=("*",),
                effect="polkit",
                manage=True,
            )
        ]
        sees = asyncio.run(make(ledger, polkit, *rules).sight(peer))
        assert sees(self.LAN) is peer.is_root
        assert polkit.asked == []


class TestFiles:
    def test_lxc_usernet_is_refused_as_the_configuration_is(
        self, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also by a system's broker that does not run as root."""
        path = tmp_path / "usernet"
        path.write_text("alice tap br0 10\n")
        path.chmod(0o666)
        tmp_path.chmod(0o755)
        monkeypatch.setattr(
            lxc_usernet.look_up,
            "__kwdefaults__",
            {"names": Names({"alice": ALICE.uid}.__getitem__, {"": 0}.__getitem__)},
        )
        monkeypatch.setattr(os, "geteuid", lambda: os.stat(path).st_uid)
        settings = Authorization(bridge_conf="/nowhere", lxc_usernet=str(path))
        for owner_only in (True, False):
            judge = make(ledger, Polkit(NO), owner_only=owner_only)
            judge._current.replace(Config(authorization=settings))
            decision = judge.judge(ALICE, AttachRequest(), Target(bridge="br0"))
            assert decision.allowed is not owner_only

    def test_what_a_user_writes_into_an_included_file_does_not_flood_the_log(
        self,
        ledger: Ledger,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        said: list[str] = []
        lines: list[object] = []

        def decide(_: str, bridges: list[str], *__: Any, **___: Any) -> Any:
            return {b: Verdict(False, "no rule", None, tuple(said)) for b in bridges}

        monkeypatch.setattr(bridge_conf, "decide_all", decide)
        log = SimpleNamespace(warning=lambda *words: lines.append(words))
        monkeypatch.setattr("tapster.daemon.decide.judge._log", log)
        judge = make(ledger, Polkit(NO))

        def told(peer: Peer, *notes: str) -> int:
            said[:] = notes
            judge.judge(peer, AttachRequest(), Target(bridge="br0"))
            return len(lines)

        for number in range(300):
            many = told(
                ALICE, f"/home/alice/b:1: {number}", f"/home/alice/b:2: {number}"
            )
        assert 0 < many <= 60
        # What others' requests find is told all the same, and once.
        assert told(Peer(1001, 1001, frozenset(), 1), "/etc/b:1: odd") == many + 1
        assert told(Peer(1001, 1001, frozenset(), 1), "/etc/b:1: odd") == many + 1


class TestWhatIsNotThere:
    """It takes as much to refuse as what is, or others who wait could tell."""

    @pytest.mark.parametrize("bridge", ["br0", "br9"])
    def test_bridge_conf_is_read_for_any_bridge(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, bridge: str
    ) -> None:
        read: list[str] = []

        def decide(_: str, bridges: list[str], *__: Any, **___: Any) -> Any:
            read.extend(bridges)
            return {b: Verdict(False, "no rule", None, ()) for b in bridges}

        monkeypatch.setattr(bridge_conf, "decide_all", decide)
        judge = make(ledger, Polkit(NO))
        target = Target(bridge=bridge) if bridge == "br0" else Target()
        decision = judge.judge(ALICE, AttachRequest(bridge=bridge), target)
        assert not decision.allowed
        assert read == [bridge]

    def test_nothing_is_kept_of_it(self, ledger: Ledger) -> None:
        judge = make(ledger, Polkit(NO))
        before = {key: len(value) for key, value in vars(ledger).items()
                  if hasattr(value, "__len__")}  # fmt: skip
        for number in range(50):
            request = AttachRequest(network=f"n{number}")
            assert not judge.judge(ALICE, request, Target()).allowed
        for key, size in before.items():
            assert len(getattr(ledger, key)) == size, key


class TestSteps:
    def test_of_very_many_rules_some_are_told(self, ledger: Ledger) -> None:
        mine = [
            Rule(f"m:{n}", users=frozenset({1000}), networks=("lan",), guests=("x",))
            for n in range(3000)
        ]
        others = [
            Rule(f"o:{n}", users=frozenset({7}), networks=("lan",)) for n in range(3000)
        ]
        judge = make(ledger, Polkit(NO), *others, *mine)
        guest = LAN._replace(name="web")
        decision, _ = judge.dry_run(ALICE, AttachRequest(name="web"), LAN, None)
        own, more = judge.steps(ALICE, guest, decision, own=True)
        assert own[0].location == "m:0"
        assert len(own) + more == 3000
        assert len(own) <= 100
        every, more = judge.steps(ALICE, guest, decision, own=False)
        assert every[0].location == "m:0"
        assert len(every) + more == 3000
        # All of it fits into what a client takes.
        assert sum(len(str(step)) for step in every) < 512 * 1024

    def test_of_few_all_are_told_in_their_order(self, ledger: Ledger) -> None:
        rules = [
            Rule("f:1", users=frozenset({7}), networks=("lan",)),
            Rule("f:2", networks=("lan",), guests=("db",)),
            Rule("f:3", networks=("lan",), effect="deny", guests=("vip",)),
            Rule("f:4", groups=frozenset({1000}), networks=("*",)),
        ]
        judge = make(ledger, Polkit(NO), *rules)
        guest = LAN._replace(name="web")
        decision, _ = judge.dry_run(ALICE, AttachRequest(name="web"), LAN, None)
        told, more = judge.steps(ALICE, guest, decision, own=True)
        assert [step.location for step in told] == ["f:2", "f:3", "f:4"]
        assert told[-1].outcome == "decides"
        assert more == 0
        told, _ = judge.steps(ALICE, guest, decision, own=False)
        assert [step.location for step in told] == ["f:1", "f:2", "f:3", "f:4"]


def test_what_nobody_foresaw_is_on_record(monkeypatch: pytest.MonkeyPatch) -> None:
    async def attach(*_: Any) -> None:
        raise ZeroDivisionError

    failed: list[str] = []
    broker: Any = Broker.__new__(Broker)
    broker.events = SimpleNamespace(failed=lambda _, reason: failed.append(reason))
    monkeypatch.setattr(Broker, "_attach_when_gone", attach)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(broker.attach(RequestContext(ALICE, "attach"), AttachRequest()))
    assert len(failed) == 1
