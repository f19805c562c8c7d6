# SPDX-License-Identifier: LGPL-2.1-or-later
"""`decide.closing`: taps that are closed already count for nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from support.builders import make_ledger, make_nic
from tapster.daemon.decide import closing
from tapster.daemon.decide.closing import ClosingTaps
from tapster.daemon.decide.judge import Judged
from tapster.daemon.nics.nic import Nic
from tapster.daemon.provision.tap_fd import TapDescriptor
from tapster.policy.core.decide import Decision
from tapster.policy.core.rulebook import Target

YES = Judged(Decision(True, "a rule"), Target())
NO = Judged(Decision(False, "no rule"), Target())
TOO_MANY = Judged(Decision(False, "it has 1 of 1", over_quota=True), Target())


class Taps:
    """One user's only tap, and decisions with a quota of one."""

    def __init__(self, directory: Path, *, gone: bool) -> None:
        self.ledger = make_ledger(directory)
        self.ledger.add(make_nic())
        self.gone = gone
        self.decided = 0

    def is_gone(self, nic: Nic) -> bool:
        if self.gone:
            self.ledger.remove(nic)
        return self.gone

    def judge(self) -> Judged:
        self.decided += 1
        return TOO_MANY if len(self.ledger) else YES

    def judged(self, uid: int = 1000) -> Judged:
        taps = ClosingTaps(self.ledger, self.is_gone)
        return asyncio.run(taps.wait_and_judge(uid, self.judge))


def test_a_tap_that_is_gone_is_not_counted(tmp_path: Path) -> None:
    assert Taps(tmp_path, gone=True).judged() == YES


def test_a_tap_that_stays_is_counted_at_once(tmp_path: Path) -> None:
    taps = Taps(tmp_path, gone=False)
    assert taps.judged() == TOO_MANY
    assert taps.decided == 1


def test_another_user_s_tap_is_not_looked_at(tmp_path: Path) -> None:
    taps = Taps(tmp_path, gone=True)
    assert taps.judged(uid=1001) == TOO_MANY


def test_no_other_answer_waits_for_a_tap(tmp_path: Path) -> None:
    taps = ClosingTaps(Taps(tmp_path, gone=True).ledger, lambda _: 1 // 0 == 0)
    for judged in (YES, NO):
        assert asyncio.run(taps.wait_and_judge(1000, lambda j=judged: j)) is judged  # type: ignore[misc]


def test_the_wait_for_a_tap_has_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TapDescriptor, "pending", 1)
    monkeypatch.setattr(closing, "PAUSE", 0.0)
    taps = Taps(tmp_path, gone=False)
    assert taps.judged() == TOO_MANY
    assert taps.decided == closing.TRIES + 1
