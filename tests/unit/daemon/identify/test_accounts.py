# SPDX-License-Identifier: LGPL-2.1-or-later
"""`identify.accounts`: names are for people, and nobody waits long for one."""

from __future__ import annotations

import os
import pwd
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tapster.daemon.identify import accounts
from tapster.daemon.identify.accounts import Account


class Nss:
    """Answers at once about some, and about the others when it is let."""

    def __init__(self) -> None:
        self.let = threading.Event()
        self.asked: list[int] = []

    def __call__(self, uid: int) -> Any:
        self.asked.append(uid)
        if uid >= 5000:
            self.let.wait(20)
        if uid % 2:
            raise KeyError(uid)
        return SimpleNamespace(pw_name=f"user{uid}", pw_gid=uid)


@pytest.fixture
def nss(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nss]:
    made = Nss()
    monkeypatch.setattr(pwd, "getpwuid", made)
    monkeypatch.setattr(os, "getgrouplist", lambda _, gid: [gid, 7])
    accounts._accounts.clear()
    yield made
    made.let.set()
    for _ in range(1000):
        if not accounts._under_way:
            break
        threading.Event().wait(0.01)
    assert not accounts._under_way
    accounts._accounts.clear()


def test_a_uid_s_name_is_its_account_s_or_the_number(nss: Nss) -> None:
    assert accounts.user_name(1000) == "user1000"
    assert accounts.user_name(1001) == "1001"
    assert accounts.user_name(1000) == "user1000"
    assert nss.asked == [1000, 1001]


def test_a_uid_that_is_not_known_in_time_is_a_number(nss: Nss) -> None:
    assert accounts.user_name(5000) == "5000"
    # Others' are told meanwhile, and it is not asked about a second time.
    assert accounts.user_name(1000) == "user1000"
    assert accounts.user_name(5000) == "5000"
    assert nss.asked == [5000, 1000]
    nss.let.set()
    while accounts.user_name(5000) == "5000":
        pass


def test_thousands_of_uids_wait_for_a_few(nss: Nss) -> None:
    for uid in range(5000, 9000):
        assert accounts.user_name(uid) == str(uid)
    assert len(nss.asked) <= accounts._LOOKUPS


def test_a_name_that_was_known_is_told_until_another_is(
    nss: Nss, monkeypatch: pytest.MonkeyPatch
) -> None:
    nss.let.set()
    assert accounts.user_name(5002) == "user5002"
    nss.let.clear()
    monkeypatch.setattr(accounts, "_SECONDS", -1.0)
    assert accounts.user_name(5002) == "user5002"


def test_groups_are_the_account_s_or_not_known(nss: Nss) -> None:
    assert accounts.account_of(1000) == Account("user1000", frozenset({1000, 7}))
    assert accounts.account_of(1001) == Account(None, frozenset())
    assert accounts.account_of(5000) == Account(None, None)
