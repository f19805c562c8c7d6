# SPDX-License-Identifier: LGPL-2.1-or-later
"""What to do about a tap that is not as it was made. Pure.

What its holder did with the descriptor alone is tampering, and ends as the policy
says (`[guard] on_tamper`). Everything else takes CAP_NET_ADMIN: it is an
administrator's error, or another program's, and is put back. Nobody is fought
with: a tap that has to be put back again and again ends in quarantine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple

from ...model import OnTamper, State
from ..nics.expected import IRREVERSIBLE, Drift, in_words

RESTORATIONS = 5  # of one NIC ...
WITHIN = 60.0  # ... in so many seconds
_TOO_OFTEN = f", more than {RESTORATIONS} times within {WITHIN:.0f} s"


class Action(Enum):
    NOTHING = auto()
    RESTORE = auto()  # put back what can be put back
    QUARANTINE = auto()  # off its bridge, for good
    DETACH = auto()  # remove the tap
    SHUT = auto()  # it is in quarantine: down, and off any bridge


class Reaction(NamedTuple):
    action: Action
    drift: Sequence[Drift] = ()  # that it is about
    words: str = ""  # what happened, for people; "" if nobody is told


@dataclass(slots=True)
class History:
    """What was done about one NIC before."""

    restored: deque[float] = field(default_factory=lambda: deque(maxlen=RESTORATIONS))
    # Tampering that was told, and that nobody but the holder can undo.
    told: set[Drift] = field(default_factory=set)

    def may_restore(self, now: float) -> bool:
        """Whether the NIC was not restored too often of late.

        :param now: seconds, by the clock of the event loop.
        """
        full = len(self.restored) == RESTORATIONS
        return not (full and now - self.restored[0] < WITHIN)


def new_tampering(drift: Sequence[Drift], history: History) -> list[Drift]:
    """What of it the holder did, and nobody was told of yet."""
    return [d for d in drift if d.is_unprivileged and d not in history.told]


def decide_reaction(
    state: State,
    policy: OnTamper,
    drift: Sequence[Drift],
    history: History,
    now: float,
) -> Reaction:
    """Decide about one NIC.

    :param state: the NIC's.
    :param policy: what is done about tampering.
    :param drift: how its tap differs, what its holder can do first.
    :param now: seconds, by the clock of the event loop.
    """
    if not drift:
        return Reaction(Action.NOTHING)
    if state is State.QUARANTINED:
        words = f"changed in quarantine: {in_words(drift)}; put back"
        return Reaction(Action.SHUT, drift, words if history.may_restore(now) else "")
    tampering = new_tampering(drift, history)
    if tampering:
        return _to_tampering(policy, drift, tampering, history.may_restore(now))
    rest = [d for d in drift if not d.is_unprivileged]
    if not rest:
        return Reaction(Action.NOTHING)  # it was told, and can't be undone
    words = f"changed by who has CAP_NET_ADMIN: {in_words(rest)}"
    if history.may_restore(now):
        return Reaction(Action.RESTORE, rest, words)
    return Reaction(Action.QUARANTINE, rest, words + _TOO_OFTEN)


def _to_tampering(
    policy: OnTamper,
    drift: Sequence[Drift],
    tampering: Sequence[Drift],
    may_restore: bool,
) -> Reaction:
    words = f"tampered with: {in_words(tampering)}"
    if policy is OnTamper.DETACH:
        return Reaction(Action.DETACH, drift, words)
    if policy is OnTamper.QUARANTINE:
        return Reaction(Action.QUARANTINE, drift, words)
    if may_restore:
        return Reaction(Action.RESTORE, drift, words)
    return Reaction(Action.QUARANTINE, drift, words + _TOO_OFTEN)


def irreversible(drift: Sequence[Drift]) -> list[Drift]:
    """What of it nobody but the holder of the descriptor can undo."""
    return [d for d in drift if d.what in IRREVERSIBLE]
