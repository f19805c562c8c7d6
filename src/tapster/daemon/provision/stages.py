# SPDX-License-Identifier: LGPL-2.1-or-later
"""Changes of the kernel as named stages, each with its undo beside it.

A stage that fails takes back all stages before it, last first, so that nothing is
left of what could not be finished. A broker that is killed between two stages
takes nothing back itself: the next broker does (`daemon/reconcile.py`), from what
it finds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

_log = logging.getLogger(__name__)


class Stage(NamedTuple):
    """One step: `undo` is called only if `do` returned."""

    name: str
    do: Callable[[], object]
    undo: Callable[[], object]


def nothing_to_undo() -> None:
    """The undo of a stage that the undo of an earlier one covers."""


def reached(name: str) -> None:
    """Called after each stage, and does nothing. Tests that kill the broker between
    two stages put a function of their own here."""


def run(stages: Sequence[Stage]) -> None:
    """Do all stages in order, or none of them.

    :raises Exception: whatever the failing stage raised, after the undoing.
    """
    done: list[Stage] = []
    try:
        for stage in stages:
            stage.do()
            done.append(stage)
            reached(stage.name)
    except BaseException:
        undo(done)
        raise


def undo(stages: Sequence[Stage]) -> None:
    """Take back all stages, last first; a failure is logged, and the rest goes on."""
    for stage in reversed(stages):
        try:
            stage.undo()
        except Exception:  # noqa: BLE001 - the other stages must be taken back too
            _log.exception("cannot undo %s", stage.name)
