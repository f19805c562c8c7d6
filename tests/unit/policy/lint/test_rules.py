# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.policy.lint.rules`: what rules say that was hardly meant, and where."""

from __future__ import annotations

import pytest

from tapster.policy.config.load import read
from tapster.policy.config.toml_locations import Document
from tapster.policy.config.values import Names
from tapster.policy.lint.findings import Finding, Severity
from tapster.policy.lint.rules import Elsewhere, lint
from tapster.policy.lint.values import Host

USERS = {"alice": 1000, "bob": 1001, "root": 0}
GROUPS = {"kvm": 36, "staff": 50, "ghosts": 666, "ldap": 9000}
HOST = Host(
    Names(USERS.__getitem__, GROUPS.__getitem__),
    {*USERS.values()}.__contains__,
    {*GROUPS.values()}.__contains__,
    {36: True, 50: True, 666: False}.get,
    {"br0": True, "br1": True, "eth0": False}.get,
)
NETWORKS = """\
[networks.lan]
mode = "bridge"
bridge = "br0"
[[rules]]
users = ["root"]
networks = ["lan"]
"""


def findings(*texts: str, elsewhere: Elsewhere = Elsewhere()) -> list[Finding]:  # noqa: B008
    """Of files called 0, 1 and so on."""
    documents = [Document(str(number), text) for number, text in enumerate(texts)]
    return lint(read(documents, HOST.names), HOST, elsewhere)


def said(*texts: str) -> list[str]:
    """Place, severity and code of each."""
    return sorted(f"{f.location} {f.severity} {f.code}" for f in findings(*texts))


def one(*texts: str, **how: Elsewhere) -> Finding:
    (finding,) = findings(*texts, **how)
    assert "\n" not in finding.message
    return finding


def rules(*keys: str) -> str:
    """Rules, each in a line of its own; the first in line 1."""
    inline = ",\n".join(f"{{{rule}}}" for rule in keys)
    return f"rules = [{inline}]\n"


def lan(*keys: str) -> str:
    """The same beside a network `lan` of bridge br0; the first rule in line 1."""
    return f'{rules(*keys)}[networks.lan]\nmode = "bridge"\nbridge = "br0"\n'


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
def test_what_is_well_said(text: str) -> None:
    assert findings(text) == []


# --- rules and rules


def test_a_rule_that_can_never_match() -> None:
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


def test_a_rule_that_is_denied_whole() -> None:
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


def test_a_rule_that_only_manages() -> None:
    finding = one(lan(ALL, f"{ALICE}, manage = true, max_nics = 3"))
    assert (finding.location, finding.code) == ("0:2:1", "only-manages")


def test_denials_without_effect() -> None:
    texts = rules(
        'networks = ["*"], groups = ["staff"]',
        'networks = ["default"], users = ["alice", "bob"], effect = "deny"',
        'networks = ["default"], users = ["bob"], effect = "deny"',
        'networks = ["default"], groups = ["kvm"]',
        'bridges = ["br0"], effect = "deny"',
    )
    assert said(texts) == ["0:3:1 warning shadowed-deny", "0:5:1 note vain-deny"]
    # Who knows what bridge.conf allows.
    finding = one(texts, elsewhere=Elsewhere(may_allow=True))
    assert finding.message == (
        "this rule denies nothing that is not denied already: 0:2 denies it"
    )


# --- networks that nobody may use


def test_a_network_without_rules() -> None:
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


def test_a_network_whose_users_are_all_denied() -> None:
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


# --- names


def test_names_of_people() -> None:
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


def test_linux_bridges_that_are_none() -> None:
    text = '[networks.l]\nmode = "bridge"\nbridge = "br7"\n'
    assert said(
        text.replace("br7", "br8"),  # is not in force
        text,
        rules('networks = ["l"], bridges = ["br7", "br1", "eth0"]'),
    ) == [
        "1:3:1 note no-such-bridge",
        "2:1:54 warning not-a-bridge",
    ]


def test_patterns_that_match_nothing() -> None:
    keys = 'macs = ["52:54:00", "52:*", "01:*"], guests = ["web-", "web-*"]'
    assert said(rules(f'bridges = ["br0"], {keys}')) == [
        "0:1:38 warning impossible-mac",
        "0:1:58 warning impossible-mac",
        "0:1:77 warning impossible-guest",
    ]


# --- too much


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
def test_what_everyone_may(keys: str, codes: list[str]) -> None:
    found = findings(rules(f'networks = ["default"], {keys}'))
    assert [f.code for f in found] == codes
    assert all(f.severity is Severity.WARNING for f in found)


def test_no_checks_on_any_network() -> None:
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
def test_forwarding_to_where_it_is_not_done(networks: str, vain: bool) -> None:
    keys = f'{networks}, users = ["bob"], forward = ["tcp/8080"]'
    found = findings(lan(keys, f"{ALL}, forward = []", 'networks = ["default"]'))
    assert [f.code for f in found] == ["vain-forward"] * vain


# --- reservations of two networks of one bridge


def test_one_address_for_two_guests_of_a_bridge() -> None:
    def network(name: str, bridge: str, guest: str) -> str:
        text = f'[networks.{name}]\nmode = "bridge"\nbridge = "{bridge}"\n'
        text += f'reservations.{guest} = {{mac = "52:54:00:00:00:01"}}\n'
        return text + f'[[rules]]\nusers = ["root"]\nnetworks = ["{name}"]\n'

    finding = one(network("a", "br0", "web"), network("b", "br0", "db"))
    assert (finding.location, finding.code) == ("1:4:14", "reserved-twice")
    whose = "guest web's on network a, which is on Linux bridge br0 too"
    assert finding.message == f"52:54:00:00:00:01 is {whose}"
    assert finding.related == ("0:4",)
    assert findings(network("a", "br0", "web"), network("b", "br1", "db")) == []
    assert findings(network("a", "br0", "web"), network("b", "br0", "web")) == []
