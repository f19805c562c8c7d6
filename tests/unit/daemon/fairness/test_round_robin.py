# SPDX-License-Identifier: LGPL-2.1-or-later
"""`daemon.fairness.round_robin`: a queue per user, and users in turn."""

from __future__ import annotations

from tapster.daemon.fairness.round_robin import RoundRobin


def filled(*items: tuple[int, str]) -> RoundRobin[str]:
    robin: RoundRobin[str] = RoundRobin()
    for uid, item in items:
        robin.add(uid, item)
    return robin


def drained(robin: RoundRobin[str]) -> list[str]:
    found = []
    while robin:
        found.append(robin.take(next(iter(robin))))
    return found


def test_users_take_turns_and_each_user_s_items_keep_their_order() -> None:
    robin = filled((1, "a"), (1, "b"), (1, "c"), (2, "x"), (3, "y"))
    assert len(robin) == 5
    assert drained(robin) == ["a", "x", "y", "b", "c"]
    assert not robin


def test_a_user_who_is_skipped_goes_behind_the_others() -> None:
    robin = filled((1, "a"), (2, "x"))
    robin.skip(1)
    assert drained(robin) == ["x", "a"]


def test_a_user_s_items_move_to_another_round_robin_in_their_order() -> None:
    robin, other = filled((1, "a"), (2, "x"), (1, "b")), filled((3, "y"))
    robin.move(1, other)
    assert 1 not in robin and 1 in other
    assert (drained(robin), drained(other)) == (["x"], ["y", "a", "b"])
