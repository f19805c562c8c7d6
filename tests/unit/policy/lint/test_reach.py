# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whom the rules leave what: examples. `test_coverage.py` holds what is said against
the broker's decisions."""

from __future__ import annotations

from typing import Any

import pytest

from support.policies import allow, deny
from tapster.model import Rule
from tapster.policy.lint.reach import bypasses, closed_networks, redundant_denials

NETWORKS = ("default", "lan", "wan")
ON = {"br0": ["lan"], "br1": ["wan"]}
ALICE, BOB = frozenset({1}), frozenset({2})
BOTH = ALICE | BOB
ALL = ("*",)


@pytest.mark.parametrize(
    ("rules", "vain"),
    [
        ([deny()], [0]),
        ([deny(), allow(users=ALICE)], []),
        ([deny(users=BOB), allow(users=ALICE)], [0]),
        ([deny(users=BOB), allow(groups=ALICE)], []),
        ([deny(networks=ALL)], []),  # the built-in rule
        ([deny(networks=ALL), allow(networks=("default",), users=ALICE)], []),
        ([deny(networks=ALL, users=BOB), allow(networks=("default",), users=ALICE)],
         [0]),
        ([deny(networks=("default",))], []),
        ([deny(), allow(networks=ALL)], []),
        ([deny(networks=(), bridges=("br0",)), allow(networks=ALL)], [0]),
        ([deny(networks=(), bridges=("br0",)), allow(bridges=("br0",))], []),
    ],
)  # fmt: skip
def test_redundant_denials_are_found(rules: list[Rule], vain: list[int]) -> None:
    assert redundant_denials(rules, bridges_elsewhere=False) == vain
    with_bridges = [n for n in vain if not rules[n].bridges]
    assert redundant_denials(rules, bridges_elsewhere=True) == with_bridges


@pytest.mark.parametrize(
    ("rules", "closed"),
    [
        ([], ["lan", "wan"]),
        ([allow()], ["wan"]),
        ([allow(networks=ALL, users=ALICE)], []),
        ([allow(users=BOTH), deny(users=ALICE)], ["wan"]),
        ([allow(users=BOTH), deny(users=ALICE), deny(users=BOB)], ["lan", "wan"]),
        ([allow(users=BOB), deny(guests=("*",))], ["wan"]),
        ([deny(networks=("default",), users=ALICE)], ["default", "lan", "wan"]),
        ([deny(networks=ALL)], ["default", "lan", "wan"]),
        ([allow(effect="polkit"), allow(networks=("wan",))], []),
    ],
)
def test_closed_networks_are_found(rules: list[Rule], closed: list[str]) -> None:
    assert closed_networks(rules, NETWORKS) == closed


BR0: dict[str, Any] = {"networks": (), "bridges": ("br0",)}


@pytest.mark.parametrize(
    ("rules", "found"),
    [
        ([deny(**BR0), allow()], [(0, "network", "lan")]),
        ([deny(), allow(**BR0)], [(0, "bridge", "br0")]),
        ([deny(networks=ALL), allow(**BR0)], [(0, "bridge", "br0")]),
        ([deny(bridges=("br0",)), allow(), allow(**BR0)], []),
        ([deny(**BR0), deny(), allow()], []),
        ([deny(**BR0, users=BOB), allow(users=ALICE)], []),
        ([deny(**BR0, users=BOB), allow(users=BOTH), deny(users=BOB)], []),
        ([deny(**BR0, users=BOTH), allow(users=ALICE), deny(users=ALICE)], []),
        ([deny(**BR0, groups=BOB), allow(users=BOTH)], [(0, "network", "lan")]),
        ([deny(**BR0), allow(networks=("default",))], []),
    ],
)
def test_bypasses_are_found(
    rules: list[Rule], found: list[tuple[int, str, str]]
) -> None:
    assert list(bypasses(rules, ON)) == found
