# SPDX-License-Identifier: LGPL-2.1-or-later
"""`decide.quota`: which NICs of a user a rule's quota counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from support.builders import make_ledger, make_nic
from tapster.daemon.decide.quota import used
from tapster.daemon.nics.ledger import Ledger
from tapster.model import Rule, State

ALICE, BOB = 1000, 1001
GIVEN = "0a:00:00:00:00:01"  # as the broker gives them: never 52
ASKED = "52:54:00:00:00:01"

Add = Callable[..., None]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return make_ledger(tmp_path)


@pytest.fixture
def add(ledger: Ledger) -> Add:
    def add(
        network: str | None = "lan",
        mac: str | None = GIVEN,
        macs: Sequence[str] = (),
        uid: int = ALICE,
        name: str = "",
    ) -> None:
        number = len(ledger) + 1
        ledger.add(
            make_nic(
                number,
                network=network,
                uid=uid,
                name=name or f"vm{number}",
                bridge="br0",
                mac=mac,
                state=State.WAITING if mac is None else State.ACTIVE,
                macs=tuple(macs),
            )
        )

    return add


def count(ledger: Ledger, *, on_bridges: bool = True, **keys: Any) -> int:
    rule = Rule("f:1", **{"networks": ("lan",), **keys})
    return used(ledger, ALICE, rule, on_bridges)


def test_a_quota_is_for_all_networks_and_bridges_of_its_rule_together(
    ledger: Ledger, add: Add
) -> None:
    add("lan")
    add("lab")
    add("lab", uid=BOB)
    add(None)
    both: dict[str, Any] = {"networks": ("lan", "lab", "lan"), "bridges": ("br0",)}
    assert count(ledger) == 1
    assert count(ledger, **both) == 3
    assert count(ledger, on_bridges=False, **both) == 2
    assert count(ledger, networks=("*", "lan")) == 2
    assert count(ledger, networks=(), bridges=("br0",)) == 1
    assert count(ledger, networks=(), bridges=("br1",)) == 0


def test_a_quota_counts_only_guests_that_its_rule_is_about(
    ledger: Ledger, add: Add
) -> None:
    add(name="web-1")
    add(name="db", mac=ASKED)
    assert count(ledger, guests=("web-*",)) == 1
    assert count(ledger, macs=("52:54:00:*",)) == 1
    assert count(ledger, guests=("web-*",), macs=("52:*",)) == 0


def test_a_mac_that_was_not_asked_for_is_no_way_around_a_quota(
    ledger: Ledger, add: Add
) -> None:
    """The rule says what may be asked for; what the broker gives is not like it."""
    macs = ("52:54:00:*",)
    add(macs=macs)
    add(macs=macs, mac=None)  # it is to show one
    add(macs=macs, mac=ASKED)
    add(macs=("02:*",), mac="02:00:00:00:00:01")  # by another rule
    assert count(ledger, macs=macs) == 3
