# SPDX-License-Identifier: LGPL-2.1-or-later
"""What rules say together that was hardly meant, and where."""

from __future__ import annotations

import pytest

from support.linting import findings, lan, one, rules, said
from tapster.policy.lint.findings import Finding, Severity
from tapster.policy.lint.rules import Elsewhere

NETWORKS = """\
[networks.lan]
mode = "bridge"
bridge = "br0"
[[rules]]
users = ["root"]
networks = ["lan"]
"""


ALICE = 'users = ["alice"], networks = ["lan"]'
ALL = 'networks = ["lan"]'


# --- nothing


@pytest.mark.parametrize(
    "text",
    [
        "",
        NETWORKS,
        lan(ALICE, ALL),
        rules('networks = ["default"], groups = ["kvm"], forward = ["tcp/80"]'),
        rules('networks = ["default"], users = ["alice"], trusted = true'),
        rules('networks = ["default"], effect = "polkit", manage = true'),
        lan('networks = ["lan"]', 'networks = ["lan"], users=["bob"], effect="deny"'),
        rules('bridges = ["br0"], guests = ["web-*"], macs = ["52:54:00:*"]'),
    ],
)
def test_of_rules_in_order_nothing_is_said(text: str) -> None:
    assert findings(text) == []


# --- rules and rules


def test_a_rule_that_can_never_match_is_told_with_who_decides() -> None:
    finding = one(NETWORKS, f"[[rules]]\n{ALL}\n", rules(f"{ALICE}, max_nics = 9"))
    assert finding == Finding(
        Severity.WARNING,
        "never-matches",
        "this rule can never match: 1:1 decides all that it is about",
        "2",
        1,
        10,
        "put it first, or remove it: the first rule that matches decides",
        ("1:1",),
    )


def test_a_rule_whose_requests_are_all_denied_is_told() -> None:
    finding = one(lan(f"{ALL}, effect = 'deny', users = ['alice']", ALL, ALICE))
    assert finding.location == "0:3:1"
    assert finding.message.endswith(": 0:1 denies all that it is about")
    assert finding.related == ("0:1",)


def test_several_rules_leave_nothing_of_one() -> None:
    five = [f'networks = ["lan"], users = ["{n}"]' for n in ("alice", "bob", "root")]
    five += ['networks = ["lan"], groups = ["kvm"]']
    five += ['networks = ["lan"], groups = ["staff"]']
    last = 'users = ["alice", "bob", "root"], groups = ["kvm", "staff"]'
    finding = one(lan(*five, f"{last}, {ALL}"))
    why = "0:1, 0:2, 0:3 and 2 more decide all that it is about"
    assert finding.message == f"this rule can never match: {why}"
    assert finding.related == ("0:1", "0:2", "0:3", "0:4", "0:5")


def test_the_last_rule_that_names_the_default_network_is_told_apart() -> None:
    finding = one(
        rules(
            'networks = ["*"], users = ["bob"]', 'networks = ["default"], users=["bob"]'
        )
    )
    assert finding.code == "never-matches"
    assert "the built-in rule would hold again" in (finding.hint or "")


def test_a_rule_of_which_only_manage_has_an_effect_is_told() -> None:
    finding = one(lan(ALL, f"{ALICE}, manage = true, max_nics = 3"))
    assert (finding.location, finding.code) == ("0:2:1", "only-manages")


def test_a_denial_without_effect_is_told() -> None:
    texts = rules(
        'networks = ["*"], groups = ["staff"]',
        'networks = ["default"], users = ["alice", "bob"], effect = "deny"',
        'networks = ["default"], users = ["bob"], effect = "deny"',
        'networks = ["default"], groups = ["kvm"]',
        'bridges = ["br0"], effect = "deny"',
    )
    assert said(texts) == ["0:3:1 warning shadowed-deny", "0:5:1 note vain-deny"]
    # bridge.conf may allow it.
    finding = one(texts, elsewhere=Elsewhere(may_allow=True))
    assert finding.message == (
        "this rule denies nothing that is not denied already: 0:2 denies it"
    )


# --- networks that nobody may use


def test_a_network_that_no_rule_allows_is_told() -> None:
    finding = one(
        "", "[networks.lab]\nmode = 'isolated'\n[networks.lab.reservations]\n"
    )
    assert (finding.location, finding.code) == ("1:1:11", "closed-network")
    assert finding.severity is Severity.WARNING
    assert finding.message == "nobody may use network lab: no rule allows it"
    assert finding.hint == 'add a rule with networks = ["lab"]'


def test_the_default_network_closed_by_who_meant_one_user() -> None:
    finding = one(rules('networks = ["default"], users = ["bob"], effect = "deny"'))
    assert (finding.location, finding.severity) == ("0:1:10", Severity.WARNING)
    assert finding.message == (
        "nobody may use network default: 0:1 names it, so that the built-in rule does "
        "not hold"
    )
    assert 'networks = ["*"]' in (finding.hint or "")
    assert findings(rules('networks = ["*"], users = ["bob"], effect = "deny"')) == []


def test_a_network_closed_on_purpose_is_worth_a_note() -> None:
    finding = one(rules('networks = ["default"], effect = "deny"'))
    assert (finding.severity, finding.code) == (Severity.NOTE, "closed-network")
    assert (
        finding.message == "nobody may use network default: 0:1 denies it to everyone"
    )


def test_a_network_whose_users_are_all_denied_is_told() -> None:
    text = lan(ALICE, f"{ALICE}, effect = 'deny'")
    assert said(text) == [
        "0:1:10 warning never-matches",
        "0:3:11 warning closed-network",
    ]


# --- a Linux bridge and its network are two things


def test_a_denied_bridge_has_its_network_as_a_way_around() -> None:
    finding = one(
        lan(ALL, 'bridges = ["br0"]', 'bridges = ["br0"], users=["bob"], effect="deny"')
    )
    assert (finding.location, finding.code) == ("0:3:1", "way-around")
    assert finding.message == (
        "this rule does not deny network lan, which is on Linux bridge br0, and that "
        "is allowed elsewhere"
    )
    assert finding.hint == 'add networks = ["lan"] to it'


@pytest.mark.parametrize("elsewhere", [Elsewhere(), Elsewhere(True, ["br0"])])
def test_a_denied_network_has_its_bridge_as_a_way_around(elsewhere: Elsewhere) -> None:
    texts = [ALL, 'networks = ["lan"], users = ["bob"], effect = "deny"']
    if not elsewhere.bridges:
        texts.append('bridges = ["br0"], groups = ["kvm"]')
    finding = one(lan(*texts), elsewhere=elsewhere)
    assert (finding.location, finding.code) == ("0:2:1", "way-around")
    assert finding.message.startswith("this rule does not deny Linux bridge br0, which")
