# SPDX-License-Identifier: LGPL-2.1-or-later
"""`decide.permissions`: leave to forward, manage and reload, and polkit's word."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from support.builders import make_peer
from support.deciding import ALICE, NO, YES, FakeEvents, FakePolkit, make_config
from tapster.daemon.audit.request_context import RequestContext
from tapster.daemon.decide.consent import Consent
from tapster.daemon.decide.permissions import Permissions
from tapster.daemon.decide.polkit.client import Answer
from tapster.daemon.decide.question import FORWARD, MANAGE
from tapster.model import Port, Rule
from tapster.policy.config.current import CurrentConfig
from tapster.policy.core.rulebook import Target

HTTP = Port("tcp", 8080, 8080)
MANAGING = Rule("f:1", networks=("*",), effect="polkit", manage=True)
BOBS = Target(network="lan", name="web")


def make(polkit: FakePolkit, *rules: Rule) -> Permissions:
    events: Any = FakeEvents()
    return Permissions(CurrentConfig(make_config(*rules)), Consent(polkit, events))


@pytest.mark.parametrize(("answer", "allowed"), [(YES, True), (NO, False)])
def test_polkit_is_told_the_port_that_is_to_be_forwarded(
    answer: Answer, allowed: bool
) -> None:
    polkit = FakePolkit(answer)
    rule = Rule("f:1", networks=("lan",), effect="polkit")
    context = RequestContext(ALICE, "add-forward")
    context.port = str(HTTP)
    permissions = make(polkit, rule)
    decision = asyncio.run(permissions.forward(context, "lan", "web", HTTP, True))
    assert decision.allowed is allowed
    assert context.rule == "f:1"
    ((action, told, interactive),) = polkit.asked
    assert (action, interactive) == (FORWARD, True)
    assert {**told, "user": ""} == {
        "verb": "add-forward",
        "user": "",
        "network": "lan",
        "guest": "web",
        "port": "tcp/8080",
    }


@pytest.mark.parametrize(("answer", "allowed"), [(YES, True), (NO, False)])
def test_polkit_may_let_a_user_manage_another_s_guest(
    answer: Answer, allowed: bool
) -> None:
    polkit = FakePolkit(answer)
    context = RequestContext(ALICE, "detach")
    managed = make(polkit, MANAGING).manage(context, BOBS, False)
    assert asyncio.run(managed) is allowed
    ((action, told, _),) = polkit.asked
    assert action == MANAGE
    assert (told["network"], told["guest"]) == ("lan", "web")


def test_root_manages_and_reloads_without_polkit() -> None:
    polkit = FakePolkit(NO)
    permissions = make(polkit, MANAGING)
    context = RequestContext(make_peer(0), "reload")
    assert asyncio.run(permissions.manage(context, BOBS, False))
    assert asyncio.run(permissions.reload(context, False)).allowed
    assert polkit.asked == []


def test_who_manages_some_networks_may_not_reload() -> None:
    some = Rule("f:1", networks=("lan",), manage=True)
    context = RequestContext(ALICE, "reload")
    decision = asyncio.run(make(FakePolkit(YES), some).reload(context, False))
    assert not decision.allowed
