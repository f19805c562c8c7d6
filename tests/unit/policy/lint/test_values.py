# SPDX-License-Identifier: LGPL-2.1-or-later
"""What single rules say that was hardly meant, and where."""

from __future__ import annotations

import pytest

from support.linting import findings, lan, one, rules, said
from tapster.policy.lint.findings import Severity


def test_a_user_or_group_that_is_named_twice_or_has_no_name_is_told() -> None:
    keys = 'networks = ["lan"], users = ["alice", 1000, "alice", 1001, "bob", 7]'
    keys += ', groups = ["kvm", 36, "ghosts", 4711, "ldap", "ghosts"]'
    found = {(f.column, f.code): f.message for f in findings(lan(keys))}
    assert list(found.values()) == [
        "1000 is user 'alice' again",
        "'alice' is named twice",
        "'bob' is user 1001 again",
        "no user has the number 7",
        "36 is group 'kvm' again",
        "nobody is in group 'ghosts'",
        "no group has the number 4711",
        "'ghosts' is named twice",
    ]
    assert {code for _, code in found} == {
        "named-twice",
        "nameless-user",
        "nameless-group",
        "empty-group",
    }
    assert len(found) == 8  # each at its own name


def test_an_empty_group_is_told_of_once() -> None:
    text = lan(
        *[f'groups = ["ghosts"], users = [{n}], networks = ["lan"]' for n in (0, 1000)]
    )
    assert [f.code for f in findings(text)] == ["empty-group"]


def test_a_pattern_that_matches_nothing_is_told() -> None:
    keys = 'macs = ["52:54:00", "52:*", "01:*"], guests = ["web-", "web-*"]'
    assert said(rules(f'bridges = ["br0"], {keys}')) == [
        "0:1:38 warning impossible-mac",
        "0:1:58 warning impossible-mac",
        "0:1:77 warning impossible-guest",
    ]


@pytest.mark.parametrize(
    ("keys", "codes"),
    [
        ("trusted = true", ["trusted-for-everyone"]),
        ("manage = true", ["manage-for-everyone"]),
        (
            'forward = ["tcp/1024", "udp/53", "tcp/1023-1024"]',
            ["privileged-forward"] * 2,
        ),
        ('users = ["bob"], trusted = true, manage = true, forward = ["tcp/1"]', []),
        ('effect = "polkit", trusted = true, manage = true, forward = ["tcp/1"]', []),
        ("trusted = false, manage = false, forward = []", []),
    ],
)
def test_what_should_not_be_for_everyone_is_told(keys: str, codes: list[str]) -> None:
    found = findings(rules(f'networks = ["default"], {keys}'))
    assert [f.code for f in found] == codes
    assert all(f.severity is Severity.WARNING for f in found)


def test_no_checks_against_spoofing_on_any_network_is_told() -> None:
    finding = one(rules('networks = ["*"], users = ["root"], trusted = true'))
    assert (finding.location, finding.code) == ("0:1:47", "trusted-everywhere")


@pytest.mark.parametrize(
    ("networks", "vain"),
    [
        ('networks = ["lan"]', True),
        ('bridges = ["br1"]', True),
        ('networks = ["lan", "default"]', False),
        ('networks = ["*"]', False),
    ],
)
def test_forward_without_a_nat_network_is_told(networks: str, vain: bool) -> None:
    keys = f'{networks}, users = ["bob"], forward = ["tcp/8080"]'
    found = findings(
        lan(keys, 'networks = ["lan"], forward = []', 'networks = ["default"]')
    )
    assert [f.code for f in found] == ["vain-forward"] * vain
