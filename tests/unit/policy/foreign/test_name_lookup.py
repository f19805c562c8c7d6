# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names are looked up in a thread that nobody waits for long.

`test_lxc_usernet.py` has the same for requests that are decided by a file.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from tapster.policy.config.values import Names
from tapster.policy.foreign import name_lookup
from tapster.policy.foreign.name_lookup import NameLookup

UIDS, GIDS = {"alice": 1001}, {"kvm": 36}
NAMES = Names(UIDS.__getitem__, GIDS.__getitem__)
WANTED = frozenset({b"alice", b"@kvm", b"alice2"})


def test_users_and_groups_have_their_numbers_and_nobody_has_none() -> None:
    found = NameLookup(NAMES, WANTED, {}, is_slow=False)
    assert found.numbers == {b"alice": 1001, b"@kvm": 36, b"alice2": None}
    assert not found.is_under_way


def test_what_was_known_before_stays_until_it_is_known_anew() -> None:
    held = threading.Event()

    def wait(name: str) -> int:
        held.wait()
        return UIDS[name]

    slow = Names(wait, GIDS.__getitem__)
    found = NameLookup(slow, frozenset({b"alice"}), {b"alice": 7}, is_slow=True)
    assert found.is_under_way
    assert found.numbers == {b"alice": 7}
    assert found.serves(slow, frozenset({b"alice"}))  # nobody asks a second time
    held.set()
    found._has_ended.wait()
    assert found.numbers == {b"alice": 1001}


def test_an_answer_serves_the_same_names_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = NameLookup(NAMES, WANTED, {}, is_slow=False)
    assert found.serves(NAMES, WANTED)
    assert found.serves(NAMES, frozenset({b"alice"}))
    assert not found.serves(NAMES, WANTED | {b"bob"})
    assert not found.serves(Names(*NAMES[::-1]), WANTED)
    monkeypatch.setattr(name_lookup, "SECONDS", 0.0)
    assert not found.serves(NAMES, WANTED)


def test_without_a_thread_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_self: threading.Thread) -> None:
        raise RuntimeError

    starts: Callable[[threading.Thread], None] = fail
    monkeypatch.setattr(threading.Thread, "start", starts)
    found = NameLookup(NAMES, WANTED, {}, is_slow=False)
    assert (found.numbers, found.is_under_way) == ({}, False)
