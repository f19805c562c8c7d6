# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is known of this host's users, groups and bridges."""

from __future__ import annotations

import grp
import pwd
from types import SimpleNamespace

import pytest

from tapster.policy.lint import host


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("", True),
        ("passwd: files systemd\ngroup: files [SUCCESS=merge] systemd\n", True),
        ("passwd: files sss\ngroup: files\n", False),
        ("passwd:\tfiles\ngroup: files ldap # x\n", False),
        ("passwd: files # ldap\nhosts: ldap\n", True),
        ("initgroups: sss\n", False),
        ("passwd: compat\n", False),
    ],
)
def test_users_can_be_listed_where_they_are_in_files(text: str, answer: bool) -> None:
    assert host.lists_all(text) is answer


@pytest.mark.parametrize("enumerable", [True, False])
def test_a_group_has_members_or_that_cannot_be_told(
    monkeypatch: pytest.MonkeyPatch, enumerable: bool
) -> None:
    members = {1: ["x"], 2: [], 3: []}
    monkeypatch.setattr(host, "is_enumerable", lambda: enumerable)
    monkeypatch.setattr(
        grp, "getgrgid", lambda gid: SimpleNamespace(gr_mem=members[gid])
    )
    monkeypatch.setattr(pwd, "getpwall", lambda: [SimpleNamespace(pw_gid=2)])
    host.primary_groups.cache_clear()
    told = [host.has_members(gid) for gid in (1, 2, 3, 4)]
    assert told == ([True, True, False, None] if enumerable else [True] + [None] * 3)
    host.primary_groups.cache_clear()


def test_a_name_is_looked_up_once() -> None:
    asked: list[str] = []

    def resolve(name: str) -> int:
        asked.append(name)
        return {"a": 1}[name]

    answer = host.once(resolve)
    for _ in range(2):
        assert answer("a") == 1
        with pytest.raises(KeyError):
            answer("b")
    assert asked == ["a", "b"]


def test_this_host_is_asked_for_its_devices_and_people() -> None:
    assert host.is_bridge("lo") is False
    for name in ("no-such-device", "", "..", "a/b", "a\0b", "../net/lo"):
        assert host.is_bridge(name) is None
    assert host.has_user(0) and host.has_group(0)
    assert not host.has_user(2**32 - 7) and not host.has_group(2**32 - 7)
