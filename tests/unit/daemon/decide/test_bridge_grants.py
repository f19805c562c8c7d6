# SPDX-License-Identifier: LGPL-2.1-or-later
"""`decide.bridge_grants`: whose files count, and what is said about them."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from support.builders import make_ledger, make_peer
from support.deciding import ALICE, make_judge
from tapster.daemon.decide.bridge_grants import BridgeGrants
from tapster.daemon.nics.ledger import Ledger
from tapster.model import AttachRequest, Peer
from tapster.policy.config.current import CurrentConfig
from tapster.policy.config.load import Authorization, Config
from tapster.policy.config.values import Names
from tapster.policy.core.facts import Verdict
from tapster.policy.core.rulebook import Target
from tapster.policy.foreign import bridge_conf, lxc_usernet


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return make_ledger(tmp_path)


@pytest.mark.parametrize("owner_only", [True, False])
def test_an_lxc_usernet_that_others_can_write_to_is_refused_as_the_configuration_is(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner_only: bool
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
    current = CurrentConfig(Config(authorization=settings))
    judge = make_judge(ledger, current, owner_only=owner_only)
    judged = judge.decide(ALICE, AttachRequest(), Target(bridge="br0"))
    assert judged.decision.allowed is not owner_only


def test_what_a_user_writes_into_an_included_file_does_not_flood_the_log(
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    lines: list[object] = []

    def decide(_: str, bridges: list[str], *__: Any, **___: Any) -> Any:
        return {b: Verdict(False, "no rule", None, tuple(said)) for b in bridges}

    monkeypatch.setattr(bridge_conf, "decide_all", decide)
    log = SimpleNamespace(warning=lambda *words: lines.append(words))
    monkeypatch.setattr("tapster.daemon.decide.bridge_grants._log", log)
    grants = BridgeGrants(CurrentConfig(Config()), ledger)

    def told(peer: Peer, *notes: str) -> int:
        said[:] = notes
        grants.verdicts(peer, ["br0"])
        return len(lines)

    for number in range(300):
        many = told(ALICE, f"/home/alice/b:1: {number}", f"/home/alice/b:2: {number}")
    assert 0 < many <= 60
    # What others' requests find is told all the same, and once.
    assert told(make_peer(1001), "/etc/b:1: odd") == many + 1
    assert told(make_peer(1001), "/etc/b:1: odd") == many + 1
