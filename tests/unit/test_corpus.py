# SPDX-License-Identifier: LGPL-2.1-or-later
"""All that fuzzing has found, and what it starts from, fed once more: see
tools/fuzz/. An input of one parser is one of all the others, too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from fuzz import run, wire
from fuzz.targets import TARGETS
from tapster.policy.foreign import mounts

# Of a call that wants no answer, the answer is closed by Python.
pytestmark = pytest.mark.filterwarnings("ignore:owned FileDescriptor:ResourceWarning")

CORPUS = Path(__file__).resolve().parents[1] / "corpus"
INPUTS = sorted(CORPUS.glob("*/*"))


@pytest.fixture(scope="module", autouse=True)
def _one_listener() -> Iterator[None]:
    with suppress(OSError):
        mounts.why_not(0)  # opens a file for good, which is none of an input's
    wire.wire(b"\0\0{}")  # starts it
    yield
    wire.close()


def test_every_target_has_a_corpus() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS) == set(run.NAMES)


def test_the_corpus_is_small() -> None:
    assert sum(path.stat().st_size for path in INPUTS) < 256 * 1024


@pytest.mark.parametrize("path", INPUTS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_input(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_of_others(name: str) -> None:
    for path in INPUTS:
        TARGETS[name](path.read_bytes())
