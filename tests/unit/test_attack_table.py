# SPDX-License-Identifier: LGPL-2.1-or-later
"""The table of attacks in the documentation lists what there is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attack import registry, table
from attack.column import Outcome

ROOT = Path(__file__).resolve().parents[2]
ATTACKS = registry.load()
HELD, BROKE = Outcome(True), Outcome(False, "a | b <c> *d*")


def columns() -> dict[str, dict[str, Outcome]]:
    return {
        "peer": {
            a.name: Outcome(None, a.not_for_peer, applies=False)
            if a.not_for_peer
            else BROKE
            for a in ATTACKS
        },
        "tapster": {a.name: BROKE if a.known else HELD for a in ATTACKS},
    }


def test_the_page_lists_every_attack() -> None:
    page = (ROOT / "docs" / "attacks.md").read_text()
    assert table.names(page) == table.order(ATTACKS), "make attack ARGS=--write"


def test_a_table_that_was_written_is_read_again() -> None:
    text = table.as_markdown(ATTACKS, columns())
    page = table.put(f"a\n{table.BEGIN}what was there{table.END}\nb\n", text)
    assert (
        page.startswith("a\n")
        and page.endswith("\nb\n")
        and "what was there" not in page
    )
    assert table.names(page) == table.order(ATTACKS)
    assert table.put(page, text) == page
    assert "a \\| b" in page


def test_a_page_without_marks_is_left_alone() -> None:
    with pytest.raises(ValueError, match="attacks: begin"):
        table.put("nothing", "table")


def test_the_summary_counts() -> None:
    text = table.summary(ATTACKS, columns())
    count = sum(not a.known for a in ATTACKS)
    assert f"tapster: {count} of {count} held." in text
    absent = sum(bool(a.not_for_peer) for a in ATTACKS if not a.known)
    assert f"qemu-bridge-helper: 0 of {count} held, {count - absent} broke" in text


def test_json_has_every_attack_and_site() -> None:
    rows = json.loads(table.as_json(ATTACKS, columns()))
    assert [row["attack"] for row in rows] == [a.name for a in ATTACKS]
    assert all({"peer", "tapster", "would"} <= set(row) for row in rows)


def test_text_has_every_attack() -> None:
    text = table.as_text(ATTACKS, columns())
    assert all(f"\n{a.name}\n" in text for a in ATTACKS)


def test_each_says_what_it_would_achieve() -> None:
    assert all(a.would and not a.would.endswith(".") for a in ATTACKS)
    assert len(table.order(ATTACKS)) == len(ATTACKS) >= 40
