# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.networks.definition_changes`: what differs, and what may change at once."""

from __future__ import annotations

import dataclasses

from hypothesis import given

from support.definitions import DEFINITIONS
from tapster.model import NetworkDefinition
from tapster.networks import definition_changes
from tapster.networks.definition_changes import LIVE


@given(DEFINITIONS, DEFINITIONS)
def test_differences_are_what_makes_one_the_other(
    one: NetworkDefinition, other: NetworkDefinition
) -> None:
    names = definition_changes.differences(one, other)
    assert definition_changes.differences(other, one) == names
    assert bool(names) is (one != other)
    assert definition_changes.with_properties(one, other, names) == other
    live = definition_changes.with_properties(one, other, names & LIVE)
    assert definition_changes.differences(live, other) == names - LIVE


def test_what_takes_effect_at_once_are_fields() -> None:
    assert {field.name for field in dataclasses.fields(NetworkDefinition)} > LIVE
