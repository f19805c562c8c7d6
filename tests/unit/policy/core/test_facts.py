# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a decision goes by, where nothing else is said."""

from __future__ import annotations

from tapster.model import Rule
from tapster.policy.core.facts import Facts, Share, Usernet


def test_shares_add_up() -> None:
    usernet = Usernet((Share("alice", 1, 1), Share("@kvm", 3, 2)), "/u:1, /u:2")
    assert (usernet.nics, usernet.used) == (4, 3)


def test_without_facts_nobody_has_anything_and_nothing_is_limited() -> None:
    facts = Facts()
    assert facts.used(Rule(networks=("*",)), True) == 0
    assert (facts.verdict, facts.usernet, facts.network_limit) == (None, None, None)
