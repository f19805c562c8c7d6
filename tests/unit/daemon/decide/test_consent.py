# SPDX-License-Identifier: LGPL-2.1-or-later
"""`decide.consent`: what polkit was asked about is what is done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.builders import make_ledger
from support.deciding import (
    ALICE,
    ASKING,
    LAN,
    NO,
    YES,
    FakeEvents,
    FakePolkit,
    add_guest,
    make_config,
    make_judge,
)
from tapster.daemon.audit.request_context import RequestContext
from tapster.daemon.decide.consent import Consent, Consents
from tapster.daemon.decide.judge import Judged
from tapster.daemon.decide.polkit.client import Answer
from tapster.daemon.decide.question import ATTACH
from tapster.daemon.nics.ledger import Ledger
from tapster.model import AttachRequest, Rule
from tapster.policy.config.current import CurrentConfig
from tapster.policy.core.rulebook import Target


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return make_ledger(tmp_path)


@pytest.fixture
def current() -> CurrentConfig:
    return CurrentConfig(make_config(ASKING))


@pytest.fixture
def polkit() -> FakePolkit:
    return FakePolkit(YES)


@pytest.fixture
def attach(ledger: Ledger, current: CurrentConfig, polkit: FakePolkit) -> Attach:
    return Attach(ledger, current, polkit)


class Attach:
    """Has requests to attach decided, with polkit's consent."""

    def __init__(
        self, ledger: Ledger, current: CurrentConfig, polkit: FakePolkit
    ) -> None:
        self.events = FakeEvents()
        events: Any = self.events
        self.judge = make_judge(ledger, current)
        self.consent = Consent(polkit, events)

    def __call__(
        self,
        name: str | None = None,
        consents: Consents | None = None,
        target: Callable[[], Target] = lambda: LAN,
    ) -> Judged:
        request = AttachRequest(name=name)

        def judge() -> Judged:
            return self.judge.decide(ALICE, request, target())

        return asyncio.run(
            self.consent.confirm(
                RequestContext(ALICE, "attach"),
                ATTACH,
                judge(),
                judge,
                interactive=False,
                consents=consents,
            )
        )


def test_polkit_is_asked_once_where_nothing_changes(
    attach: Attach, polkit: FakePolkit
) -> None:
    assert attach("web").decision.allowed
    ((action, told, interactive),) = polkit.asked
    assert action == ATTACH
    del told["user"]
    assert told == {"verb": "attach", "network": "lan", "guest": "web"}
    assert not interactive


def test_polkit_is_asked_about_the_name_that_the_guest_gets(
    attach: Attach, polkit: FakePolkit, ledger: Ledger
) -> None:
    """Its yes to vm1 is no yes to vm2, where vm1 was taken meanwhile."""
    polkit.answers = [YES, NO]
    polkit.meanwhile = lambda: (
        add_guest(ledger, "vm1") if len(polkit.asked) == 1 else None
    )
    judged = attach()
    assert polkit.guests == ["vm1", "vm2"]
    assert judged.target.name == "vm2"
    assert not judged.decision.allowed


def test_polkit_is_asked_about_what_a_name_means_by_then(
    attach: Attach, polkit: FakePolkit, current: CurrentConfig
) -> None:
    targets = [LAN]
    current.replace(make_config(Rule("f:1", networks=("*",), effect="polkit")))
    polkit.meanwhile = lambda: targets.__setitem__(0, Target(network="lab"))
    assert attach("web", target=lambda: targets[0]).decision.allowed
    assert [told["network"] for _, told, _ in polkit.asked] == ["lan", "lab"]


def test_polkit_is_asked_again_where_another_rule_decides_by_then(
    attach: Attach, polkit: FakePolkit, current: CurrentConfig
) -> None:
    other = Rule("f:9", networks=("lan",), effect="polkit")
    polkit.meanwhile = lambda: current.replace(make_config(other))
    decision = attach("web").decision
    assert decision.allowed
    assert decision.location == "f:9"
    assert len(polkit.asked) == 2


def test_a_rule_that_denies_by_then_wins(
    attach: Attach, polkit: FakePolkit, current: CurrentConfig
) -> None:
    deny = Rule("f:2", networks=("lan",), effect="deny")
    polkit.meanwhile = lambda: current.replace(make_config(ASKING, deny))
    decision = attach("web").decision
    assert not decision.allowed
    assert decision.location == "f:2"


def test_a_quota_that_is_reached_by_then_holds(
    attach: Attach, polkit: FakePolkit, current: CurrentConfig, ledger: Ledger
) -> None:
    one = Rule("f:1", networks=("lan",), effect="polkit", max_nics=1)
    current.replace(make_config(one))
    polkit.meanwhile = lambda: add_guest(ledger, "db")
    assert attach("web").decision.over_quota


def test_polkit_is_asked_once_in_a_request_that_is_decided_twice(
    attach: Attach, polkit: FakePolkit
) -> None:
    """As where its network had to come up first."""
    consents: Consents = set()
    assert attach("web", consents).decision.allowed
    assert attach("web", consents).decision.allowed
    assert polkit.guests == ["web"]


def test_a_request_puts_so_many_questions_to_polkit_and_no_more(
    attach: Attach, polkit: FakePolkit, current: CurrentConfig, ledger: Ledger
) -> None:
    many = Rule("f:1", networks=("lan",), effect="polkit", max_nics=99)
    current.replace(make_config(many))
    polkit.meanwhile = lambda: add_guest(ledger, f"vm{len(polkit.asked)}")
    assert not attach().decision.allowed
    assert len(polkit.asked) < 20


def test_a_client_that_goes_while_polkit_is_asked_is_on_record(
    ledger: Ledger, current: CurrentConfig
) -> None:
    class Gone(FakePolkit):
        async def authorize(self, *_: Any) -> Answer:
            raise asyncio.CancelledError

    attach = Attach(ledger, current, Gone(YES))
    with pytest.raises(asyncio.CancelledError):
        attach("web")
    ((context, reason),) = attach.events.denials
    assert context.rule == "f:1"
    assert "went while polkit was asked" in reason
