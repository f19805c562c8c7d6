# SPDX-License-Identifier: LGPL-2.1-or-later
"""`decide.admission`: from the words of a request to a yes that holds now."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from support.builders import make_ledger
from support.deciding import (
    ALICE,
    ASKING,
    NO,
    YES,
    FakeEvents,
    FakePolkit,
    add_guest,
    make_config,
    make_judge,
)
from tapster.daemon.audit.request_context import RequestContext
from tapster.daemon.decide.admission import Admission
from tapster.daemon.decide.closing import ClosingTaps
from tapster.daemon.decide.consent import Consent
from tapster.daemon.decide.judge import Judged
from tapster.daemon.nics.ledger import Ledger
from tapster.errors import NotAuthorized, QuotaExceeded
from tapster.model import AttachRequest, Rule
from tapster.policy.config.current import CurrentConfig

ALLOWING = Rule("f:1", networks=("lan",), max_nics=1)


class Requests:
    """Has Alice's requests decided."""

    def __init__(self, ledger: Ledger, *rules: Rule) -> None:
        self.current = CurrentConfig(make_config(*rules))
        self.ledger = ledger
        self.polkit = FakePolkit(YES)
        self.events = FakeEvents()
        self.gone: list[str] = []  # names of guests whose taps are gone
        events: Any = self.events
        self.admission = Admission(
            self.current,
            make_judge(ledger, self.current),
            Consent(self.polkit, events),
            ClosingTaps(ledger, self._is_gone),
            events,
            lambda _: None,
        )

    def _is_gone(self, nic: Any) -> bool:
        if nic.name in self.gone:
            self.ledger.remove(nic)
            return True
        return False

    def decide(self, **asked: Any) -> tuple[Judged, RequestContext]:
        context = RequestContext(ALICE, "attach")
        deciding = self.admission.decide(context, AttachRequest(**asked), set())
        return asyncio.run(deciding), context


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return make_ledger(tmp_path)


def test_a_request_that_is_allowed_has_its_rule_on_record(ledger: Ledger) -> None:
    requests = Requests(ledger, ALLOWING)
    judged, context = requests.decide(network="lan", name="web")
    assert judged.decision.allowed
    assert (judged.target.network, judged.target.name) == ("lan", "web")
    assert context.rule == "f:1"
    assert requests.events.denials == []


def test_a_request_that_is_denied_is_on_record_with_the_reason(ledger: Ledger) -> None:
    requests = Requests(ledger, ALLOWING)
    with pytest.raises(NotAuthorized):
        requests.decide(network="lab")
    ((_, reason),) = requests.events.denials
    assert "lab" in reason


def test_a_request_over_quota_is_told_so(ledger: Ledger) -> None:
    add_guest(ledger, "db")
    requests = Requests(ledger, ALLOWING)
    with pytest.raises(QuotaExceeded):
        requests.decide(network="lan")
    assert len(requests.events.denials) == 1


def test_a_tap_that_was_closed_before_is_not_counted(ledger: Ledger) -> None:
    add_guest(ledger, "db")
    requests = Requests(ledger, ALLOWING)
    requests.gone = ["db"]
    assert requests.decide(network="lan")[0].decision.allowed


def test_what_polkit_denies_is_denied_with_its_reason(ledger: Ledger) -> None:
    requests = Requests(ledger, ASKING)
    requests.polkit.answers = [NO]
    with pytest.raises(NotAuthorized):
        requests.decide(network="lan")
    ((context, reason),) = requests.events.denials
    assert reason.endswith(f"but {NO.reason}")
    assert context.rule == "f:1"


def test_a_network_that_is_removed_while_polkit_is_asked_is_denied(
    ledger: Ledger,
) -> None:
    requests = Requests(ledger, ASKING)
    current = requests.current
    requests.polkit.meanwhile = lambda: current.replace(type(current.value)())
    with pytest.raises(NotAuthorized):
        requests.decide(network="lan")
    assert len(requests.polkit.asked) == 1
