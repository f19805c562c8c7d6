# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.policy.config.rule_file`: [[rules]]."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from support.configuring import fails, parsed
from tapster.model import Peer, Port, Rule
from tapster.policy.config.rule_file import converters
from tapster.policy.config.values import NSS
from tapster.policy.core.decide import decide
from tapster.policy.core.rulebook import Rulebook, Target

PAGE = Path(__file__).resolve().parents[4] / "docs/man/tapster.toml.5"


def rules(*texts: str) -> tuple[Rule, ...]:
    return parsed(*texts).rules


def rule(keys: str) -> Rule:
    """A rule of these keys, the first of them in line 3."""
    (found,) = rules(f"[networks.lan]\n[[rules]]\n{keys}\n")
    return found


def test_a_rule_may_have_every_key() -> None:
    found = rule(
        """
        users = ["alice", 1001, 1000]
        groups = ["kvm", 0]
        networks = ["lan", "default"]
        bridges = ["br1"]
        effect = "allow"
        max_nics = 4
        macs = ["52:54:00:*", "0A:??:*"]
        trusted = true
        forward = ["tcp/80", "tcp/8000-8999"]
        guests = ["Web-*", "db?"]
        ttl = "8h"
        manage = true
        """
    )
    assert found == Rule(
        "0:2",
        frozenset({1000, 1001}),
        frozenset({0, 36}),
        ("lan", "default"),
        ("br1",),
        "allow",
        4,
        ("52:54:00:*", "0a:??:*"),
        True,
        (Port("tcp", 80, 80), Port("tcp", 8000, 8999)),
        ("web-*", "db?"),
        8 * 3600,
        True,
    )
    assert type(found.effect) is str


def test_keys_that_are_left_out_have_their_defaults() -> None:
    assert rule('networks = ["*"]') == Rule("0:2", networks=("*",))
    assert rule('bridges = ["br1"]') == Rule("0:2", bridges=("br1",))
    found = rule('networks = ["lan"]\neffect = "deny"\nusers = ["bob"]')
    assert found == Rule("0:2", frozenset({1001}), networks=("lan",), effect="deny")
    # None of the ports is not the same as no word on them.
    assert rule('networks = ["lan"]\nforward = []').forward == ()


def test_rules_of_all_files_are_in_the_order_of_the_files() -> None:
    found = rules(
        '[[rules]]\nnetworks = ["lan"]\n[[rules]]\nnetworks = ["default"]\n',
        '[networks.lan]\n[[rules]]\nbridges = ["b"]\n',
        "",
        'rules = [{bridges = ["c"]}]\n',
    )
    assert [rule.location for rule in found] == ["0:1", "0:3", "1:2", "3:1"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "2:3: a rule needs networks or bridges"),
        ('users = ["alice"]', "2:3: a rule needs networks or bridges"),
        ('user = ["alice"]', "3:1: unknown key 'user'; did you mean 'users'?"),
        ('users = "alice"', "3:1: users: 'alice' is not a list"),
        ("users = []", "3:1: users: the list is empty; leave it out for everyone"),
        ('users = ["alice",\n  "eve"]', "4:3: users: there is no user 'eve'"),
        ('users = ["1000"]', "no user '1000'; a number has no quotes"),
        ("users = [-1]", "-1 is not from 0 to"),
        ("users = [4294967295]", "4294967295 is not from 0 to"),
        ("users = [true]", "true is not a whole number"),
        ("groups = []", "groups: the list is empty"),
        ('groups = ["alice"]', "3:11: groups: there is no group 'alice'"),
        ("networks = []", "networks: the list is empty"),
        ('networks = "lan"', "networks: 'lan' is not a list"),
        ("networks = [1]", "3:13: networks: 1 is not a string"),
        (
            'networks = ["lan", "defualt"]',
            "3:20: networks: there is no network 'defualt'; did you mean 'default'?",
        ),
        ('networks = ["*lan"]', "there is no network '*lan'"),
        ("bridges = []", "bridges: the list is empty"),
        ('bridges = ["*"]', "3:12: bridges: '*' is for networks"),
        ('bridges = ["tapbr0"]', "this program's own"),
        ('bridges = ["a b"]', "not an interface's name"),
        ('guests = ["a_b"]', "3:11: guests: 'a_b' is not a pattern for guests' names"),
        ("guests = []", "3:1: guests: the list is empty; leave it out for any"),
        ('ttl = "8 h"', "3:1: ttl: '8 h' is not a time, as in 30m, 8h or 7d"),
        ("ttl = 0", "3:1: ttl: 0 is not from 1 to 31622400"),
        ("manage = 1", "3:1: manage: 1 is neither true nor false"),
        ('effect = "Allow"', 'effect: \'Allow\' is none of "allow", "deny"'),
        ("max_nics = 0", "max_nics: 0 is not from 1 to 10000"),
        ("max_nics = 10001", "max_nics: 10001 is not from 1 to 10000"),
        ('max_nics = "4"', "'4' is not a whole number"),
        ("macs = []", "macs: the list is empty; leave it out for any"),
        ('macs = ["52-54-*"]', "3:9: macs: '52-54-*' is not a pattern"),
        ('macs = ["[0-9]*"]', "not a pattern"),
        ('macs = [""]', "not a pattern"),
        ('macs = ["***************:**"]', "not a pattern"),
        ("trusted = 1", "trusted: 1 is neither true nor false"),
        ('forward = ["8080"]', "forward: '8080' is not a port"),
        ("forward = 8080", "forward: 8080 is not a list"),
    ],
)
def test_a_rule_with_a_wrong_value_is_refused_with_its_location(
    text: str, says: str
) -> None:
    message = fails(f"[networks.lan]\n[[rules]]\n{text}\n")
    assert message.startswith("0:")
    assert says in message


@pytest.mark.parametrize(
    "key", ["max_nics = 1", 'macs = ["02:*"]', "trusted = false", "forward = []"]
)
def test_a_rule_that_denies_has_no_terms(key: str) -> None:
    text = f'[[rules]]\nnetworks = ["default"]\n{key}\n'
    assert rules(text)
    message = fails(f'{text}effect = "deny"\n')
    assert message.startswith("0:3:1: ")
    assert 'not for effect = "deny"' in message


def test_a_rule_s_network_may_be_defined_in_a_later_file() -> None:
    text = '[[rules]]\nnetworks = ["lan"]\n'
    assert fails(text).startswith("0:2:13: networks: there is no network 'lan'")
    assert rules(text, "[networks.lan]\n")
    # The location is that of the file whose rule it is.
    assert fails("", "", text).startswith("2:2:13: ")


def test_a_rule_s_location_is_in_the_reason_of_a_decision() -> None:
    found = rules('\n\n[[rules]]\nusers = ["alice"]\nnetworks = ["default"]\n')
    alice = Peer(1000, 1000, frozenset(), 1)
    decision = decide(alice, Target("default"), Rulebook(found))
    assert decision.reason == "allowed by 0:3"


def test_every_key_of_a_rule_is_in_the_manual_page() -> None:
    part = PAGE.read_text().split(".Ss [[rules]]\n")[1].split("\n.Sh ")[0]
    told = re.findall(r"^\.It Cm (\w+)", part, re.M)
    assert told == list(converters(NSS))
    rest = Rule()
    assert (rest.effect, rest.trusted) == ("allow", False)
    assert ".It Cm effect No = Qq allow\n" in part
    assert ".It Cm trusted No = false\n" in part
