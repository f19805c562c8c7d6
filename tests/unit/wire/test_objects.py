# SPDX-License-Identifier: LGPL-2.1-or-later
"""The objects of replies: what the broker writes is what the client reads."""

from __future__ import annotations

from typing import Any, get_type_hints

import pytest
from asyncvarlink.conversion import VarlinkType

from fakes import broker
from tapster.client import fields
from tapster.wire import objects

STEPS: dict[str, Any] = {"steps": (list[objects.Step], False)}


@pytest.mark.parametrize(
    ("told", "read", "faked"),
    [
        (objects.Nic, fields.NIC, broker.NIC),
        (objects.NetworkInfo, fields.NETWORK, broker.NETWORK),
        (objects.ForwardInfo, fields.FORWARD, broker.FORWARD),
        (objects.Finding, fields.FINDING, broker.FINDING),
        (objects.Step, fields.STEP, broker.STEP),
        (objects.Explanation, {**fields.EXPLANATION, **STEPS}, broker.EXPLANATION),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_client_reads_what_the_broker_writes(
    told: type[Any], read: dict[str, tuple[type, bool]], faked: dict[str, Any]
) -> None:
    names = {bool: "bool", int: "int", str: "str", list: "list[str]"}
    wanted = {
        name: names.get(kind, str(kind)) + (" | None" if nullable else "")
        for name, (kind, nullable) in read.items()
    }
    kinds = get_type_hints(told)
    assert {
        name: kind.__name__ if type(kind) is type else str(kind)
        for name, kind in kinds.items()
    } == wanted
    on_wire = VarlinkType.from_type_annotation(told)
    made = told(**faked)
    if faked is broker.EXPLANATION:
        made.steps = [objects.Step(**step) for step in faked["steps"]]
    assert on_wire.tojson(made) == faked
