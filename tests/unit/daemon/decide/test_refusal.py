# SPDX-License-Identifier: LGPL-2.1-or-later
"""`decide.refusal`: a caller is told the same whatever exists; the log has why."""

from __future__ import annotations

from typing import Any

import pytest

from support.deciding import ALICE, FakeEvents
from tapster.daemon.audit.request_context import RequestContext
from tapster.daemon.decide.refusal import refuse
from tapster.errors import BrokerFailure, NotAuthorized, QuotaExceeded, RequestError
from tapster.policy.config.load import Config
from tapster.policy.core.decide import Decision


def refused(
    decision: Decision, config: Config | None = None, **asked: Any
) -> tuple[RequestError, FakeEvents]:
    events: Any = FakeEvents()
    context = RequestContext(ALICE, "attach")
    for name, value in asked.items():
        setattr(context, name, value)
    with pytest.raises(RequestError) as caught:
        refuse(context, decision, config or Config(), events)
    assert context.rule == decision.location
    assert events.denials == [(context, decision.reason)]
    return caught.value, events


def test_a_denial_says_neither_why_nor_what_exists() -> None:
    answers = {
        refused(Decision(False, reason, location=rule), network="lan")[0].oneline()
        for reason, rule in (("denied by f:1", "f:1"), ("no such network", None))
    }
    assert len(answers) == 1


@pytest.mark.parametrize(
    ("asked", "what"),
    [({}, "default"), ({"network": "lan"}, "lan"), ({"bridge": "br0"}, "br0")],
)
def test_a_denial_names_what_was_asked_for(asked: dict[str, Any], what: str) -> None:
    error, _ = refused(Decision(False, "no rule"), **asked)
    assert isinstance(error, NotAuthorized)
    assert f"{what!r}" in error.message


def test_a_quota_that_is_reached_is_told() -> None:
    own, _ = refused(Decision(False, "4 of 4", over_quota=True, max_nics=4))
    all_users, _ = refused(Decision(False, "9 of 9", over_quota=True, full=True))
    assert isinstance(own, QuotaExceeded) and "(4)" in own.message
    assert isinstance(all_users, QuotaExceeded) and "network" in all_users.message


def test_a_wrong_configuration_is_told_without_its_errors() -> None:
    problem = "/etc/tapster/tapster.toml:3: a secret"
    error, _ = refused(Decision(False, problem), Config(problem=problem))
    assert isinstance(error, BrokerFailure)
    assert "secret" not in error.oneline()
