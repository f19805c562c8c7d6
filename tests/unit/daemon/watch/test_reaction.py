# SPDX-License-Identifier: LGPL-2.1-or-later
"""`watch.reaction`: what is done about a tap that is not as it was made."""

from __future__ import annotations

import pytest

from tapster.daemon.nics.expected import Drift
from tapster.daemon.watch.reaction import (
    RESTORATIONS,
    WITHIN,
    Action,
    History,
    decide_reaction,
    irreversible,
)
from tapster.model import OnTamper, State

STOLEN = Drift("MAC", "fe:00:00:00:00:01", "02:00:00:00:00:02")
KEPT = Drift("persistent", "no", "yes")
OWNED = Drift("owner", "none", "1000")
MOVED = Drift("bridge", "4", "none")
NOW = 1000.0

ALL = list(OnTamper)


def restored(times: int, at: float = NOW) -> History:
    history = History()
    history.restored.extend([at] * times)
    return history


@pytest.mark.parametrize("policy", ALL)
@pytest.mark.parametrize("state", list(State))
def test_a_tap_as_it_was_made_is_left_alone(state: State, policy: OnTamper) -> None:
    assert decide_reaction(state, policy, [], History(), NOW).action is Action.NOTHING


@pytest.mark.parametrize(
    ("policy", "action"),
    [
        (OnTamper.RESTORE, Action.RESTORE),
        (OnTamper.QUARANTINE, Action.QUARANTINE),
        (OnTamper.DETACH, Action.DETACH),
    ],
)
@pytest.mark.parametrize("state", [State.ACTIVE, State.WAITING, State.REFUSED])
def test_tampering_ends_as_the_policy_says(
    state: State, policy: OnTamper, action: Action
) -> None:
    drift = [STOLEN, MOVED]
    reaction = decide_reaction(state, policy, drift, History(), NOW)
    assert reaction.action is action
    assert reaction.drift == drift  # what was changed beside it is restored, too
    assert reaction.words == f"tampered with: {STOLEN}"


@pytest.mark.parametrize("policy", ALL)
def test_what_takes_a_privilege_is_put_back_whatever_the_policy(
    policy: OnTamper,
) -> None:
    reaction = decide_reaction(State.ACTIVE, policy, [MOVED], History(), NOW)
    assert reaction.action is Action.RESTORE
    assert reaction.words == f"changed by who has CAP_NET_ADMIN: {MOVED}"


@pytest.mark.parametrize("drift", [STOLEN, MOVED])
def test_what_has_to_be_put_back_too_often_ends_in_quarantine(drift: Drift) -> None:
    def react(times: int, at: float) -> Action:
        history = restored(times, at)
        return decide_reaction(
            State.ACTIVE, OnTamper.RESTORE, [drift], history, NOW
        ).action

    assert react(RESTORATIONS - 1, NOW - 1) is Action.RESTORE
    assert react(RESTORATIONS, NOW - WITHIN) is Action.RESTORE  # long enough ago
    assert react(RESTORATIONS, NOW - WITHIN + 0.1) is Action.QUARANTINE
    assert react(RESTORATIONS + 3, NOW) is Action.QUARANTINE


def test_a_quarantine_for_frequency_says_so() -> None:
    reaction = decide_reaction(
        State.ACTIVE, OnTamper.RESTORE, [STOLEN], restored(RESTORATIONS), NOW
    )
    assert reaction.words.endswith(", more than 5 times within 60 s")


def test_what_only_the_holder_can_undo_is_told_once() -> None:
    history = History(told={KEPT})
    react = decide_reaction(State.ACTIVE, OnTamper.RESTORE, [KEPT], history, NOW)
    assert react.action is Action.NOTHING
    # what is new beside it counts, and what takes a privilege is still put back
    react = decide_reaction(State.ACTIVE, OnTamper.RESTORE, [KEPT, OWNED], history, NOW)
    assert react.words == f"tampered with: {OWNED}"
    react = decide_reaction(State.ACTIVE, OnTamper.RESTORE, [KEPT, MOVED], history, NOW)
    assert (react.action, react.drift) == (Action.RESTORE, [MOVED])


@pytest.mark.parametrize("policy", ALL)
def test_a_tap_in_quarantine_is_shut_again_and_told_within_measure(
    policy: OnTamper,
) -> None:
    reaction = decide_reaction(State.QUARANTINED, policy, [MOVED], History(), NOW)
    assert reaction.action is Action.SHUT
    assert reaction.words == f"changed in quarantine: {MOVED}; put back"
    often = restored(RESTORATIONS)
    reaction = decide_reaction(State.QUARANTINED, policy, [MOVED], often, NOW)
    assert (reaction.action, reaction.words) == (Action.SHUT, "")


def test_persistence_and_owners_are_irreversible() -> None:
    assert irreversible([STOLEN, KEPT, OWNED, MOVED]) == [KEPT, OWNED]
