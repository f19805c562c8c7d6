# SPDX-License-Identifier: LGPL-2.1-or-later
"""Values of any kind: what is taken, and which part of it is wrong."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any

import pytest

from tapster.policy.config import values
from tapster.policy.config.toml_locations import Invalid, UnknownKey
from tapster.policy.config.values import (
    choice,
    duration,
    each,
    identity,
    integer,
    table,
)

PEOPLE = {"alice": 1000}
NOBODY: dict[str, int] = {}


class Fruit(StrEnum):
    APPLE = "apple"
    PEAR = "pear"


@pytest.mark.parametrize(
    ("convert", "value", "result"),
    [
        (values.string, "", ""),
        (values.boolean, False, False),
        (integer(1, 9), 9, 9),
        (each(values.string), ["a", "b"], ("a", "b")),
        (each(values.string), [], ()),
        (choice(Fruit), "pear", Fruit.PEAR),
        (values.label, "web-1", "web-1"),
        (values.name_pattern, "Web-*", "web-*"),
        (duration, 90, 90),
        (duration, "90s", 90),
        (duration, "30m", 1800),
        (duration, "8h", 28_800),
        (duration, "366d", values.LONGEST),
        (identity("user", PEOPLE.__getitem__), "alice", 1000),
        (identity("user", PEOPLE.__getitem__), 7, 7),
    ],
)
def test_a_value_is_taken(
    convert: Callable[[Any], object], value: object, result: object
) -> None:
    assert convert(value) == result


@pytest.mark.parametrize(
    ("convert", "value", "says"),
    [
        (values.string, 1, "1 is not a string"),
        (values.boolean, 0, "0 is neither true nor false"),
        (integer(1, 9), True, "true is not a whole number"),
        (integer(1, 9), 1.0, "1.0 is not a whole number"),
        (integer(1, 9), 10, "10 is not from 1 to 9"),
        (each(values.string), "a", "'a' is not a list"),
        (each(values.string, "leave it out"), [], "the list is empty; leave it out"),
        (choice(Fruit), "peer", "did you mean 'pear'?"),
        (choice(Fruit, "fig"), "fig", "'fig' is not in this version"),
        (duration, "0s", "is not a time"),
        (duration, "367d", "is not from 1 to"),
        (
            identity("user", NOBODY.__getitem__),
            "7",
            "'7'; a number has no quotes",
        ),
        (identity("group", NOBODY.__getitem__), -1, "-1 is not from 0 to 4294967294"),
        (table, [], "a list is not a table"),
    ],
)
def test_a_value_is_refused_in_one_line(
    convert: Callable[[Any], object], value: object, says: str
) -> None:
    with pytest.raises(Invalid) as caught:
        convert(value)
    assert says in str(caught.value)
    assert caught.value.keys == ()


def test_the_keys_lead_to_the_part_that_is_wrong() -> None:
    ports = {"ports": each(integer(1, 9))}
    assert table({"ports": [1, 2]}, ports) == {"ports": (1, 2)}
    with pytest.raises(Invalid, match="99 is not from 1 to 9") as caught:
        table({"ports": [1, 99]}, ports)
    assert caught.value.keys == ("ports", 1)
    with pytest.raises(UnknownKey, match="'port'; did you mean 'ports'") as unknown:
        table({"port": []}, ports)
    assert unknown.value.keys == ("port",)


def test_a_long_value_is_shown_cut() -> None:
    assert values.shown("x" * 100) == f"'{'x' * 58}…"
    assert values.shown(10**5000) == "this number"
    assert values.shown([1]) == "a list"
