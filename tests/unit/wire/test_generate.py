# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is generated is committed, and is complete."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tapster.client import fields
from tapster.wire import errors as wire_errors
from tapster.wire import generate, interface, objects


@pytest.mark.parametrize("path", generate.FILES, ids=lambda path: path.name)
def test_committed_file_is_the_generated_one(path: Path) -> None:
    assert path.read_text() == generate.FILES[path](), "run `make varlink`"


def test_every_error_for_callers_is_on_the_wire() -> None:
    on_wire = {kind.__name__ for kind in interface.BrokerInterface.errors}
    assert on_wire == {kind.__name__ for kind in generate.request_errors()}
    assert wire_errors.INTERFACE == generate.INTERFACE


def test_fields_of_the_client_import_nothing_at_run_time() -> None:
    assert sys.modules["tapster.client.fields"] is fields
    loaded = {name for name in vars(fields) if not name.startswith("__")}
    assert {name for name in loaded if not name.isupper()} == {"annotations"}


@pytest.mark.parametrize(
    ("hint", "field"),
    [
        (str, "(str, False)"),
        (int | None, "(int, True)"),
        (list[str], "(list, False)"),
        (list[objects.Nic], None),
    ],
    ids=str,
)
def test_field_is_a_type_and_whether_it_may_be_null(
    hint: object, field: str | None
) -> None:
    assert generate.field_of(hint) == field


@pytest.mark.parametrize("hint", [float, int | str, int | str | None, dict[str, str]])
def test_field_that_the_client_cannot_check_is_not_generated(hint: object) -> None:
    with pytest.raises(TypeError):
        generate.field_of(hint)
