# SPDX-License-Identifier: LGPL-2.1-or-later
"""docs/policy.md is true: each file in it is loaded as the broker loads it, each
question asked is decided as the broker decides it, and each table has what there is.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from tapster.cli import explain as command
from tapster.daemon import detach
from tapster.daemon.audit.request_context import RequestContext
from tapster.daemon.decide.question import ATTACH, FORWARD, MANAGE
from tapster.daemon.decide.refusal import refuse
from tapster.daemon.publish import forward_table
from tapster.errors import RequestError
from tapster.model import Peer, Port, Rule
from tapster.networks.definition_json import parse_port
from tapster.policy.config import rule_file
from tapster.policy.config.load import BRIDGE_CONF, Authorization, Config, parse
from tapster.policy.config.values import NSS, Names, duration
from tapster.policy.core import decide as policy
from tapster.policy.core.decide import MAX_NICS, Decision
from tapster.policy.core.explain import explain
from tapster.policy.core.facts import Facts, Share, Source, Usernet, Verdict
from tapster.policy.core.rulebook import BUILT_IN, DEFAULT_NETWORK, Rulebook, Target
from tapster.policy.foreign import bridge_conf, lxc_usernet_lines
from tapster.policy.foreign.access import Contents
from tapster.policy.lint.check import check_files
from tapster.policy.lint.findings import Severity
from tapster.policy.lint.host import Host

PAGE = Path(__file__).resolve().parents[2] / "docs" / "policy.md"
TEXT = PAGE.read_text()
MAIN = "/etc/tapster/tapster.toml"


def section(title: str, level: int = 2) -> str:
    """What is below a heading, to the next that is as high."""
    mark = "#" * level
    found = re.search(
        rf"^{mark} {re.escape(title)}\n(.*?)(?=^#{{2,{level}}} |\Z)", TEXT, re.M | re.S
    )
    assert found, title
    return found[1]


def rows(text: str, head: str) -> list[list[str]]:
    """The cells of the table whose head starts so."""
    lines = text.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(f"| {head} |"))
    table = itertools.takewhile(lambda line: line.startswith("|"), lines[start + 2 :])
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


# --- the examples


class Example:
    """One of the page's: its configuration, its people, other files, questions."""

    def __init__(self, title: str, text: str) -> None:
        self.title = title
        (self.toml,) = re.findall(r"^```toml\n(.*?)^```$", text, re.M | re.S)
        people = rows(text, "user")
        names = [re.findall(r"`([\w-]+)`", cell) for row in people for cell in row]
        self.groups_of = {u[0]: g for u, g in zip(*[iter(names)] * 2, strict=True)}
        groups = sorted(set(itertools.chain.from_iterable(self.groups_of.values())))
        self.uids = {name: 2001 + n for n, name in enumerate(self.groups_of)}
        self.gids = {name: 3001 + n for n, name in enumerate(groups)}
        self.names = Names(self.uids.__getitem__, self.gids.__getitem__)
        self.config = parse([(MAIN, self.toml)], self.names)
        # Each file's text, and the group that alone may read it.
        self.files: dict[str, tuple[str, str]] = {}
        for path, group, content in re.findall(
            r"^`(/etc/\S+)`(?:, which is of root and group `(\w+)`, mode 0640)?:\n\n"
            r"```text\n(.*?)^```$",
            text,
            re.M | re.S,
        ):
            self.files[path] = content, group
        self.questions = rows(text, "who")

    def __repr__(self) -> str:
        return self.title

    def peer(self, user: str) -> Peer:
        if user == "root":
            return Peer(0, 0, frozenset({0}), 1)
        groups = frozenset(self.gids[name] for name in self.groups_of[user])
        return Peer(self.uids[user], 100, groups | {100}, 1)

    def facts(self, peer: Peer, target: Target, has: str) -> Facts:
        """What a broker would have found, if the user, or all, had so many NICs."""
        number, _, of_all = has.partition(" ")
        count = 0 if of_all or not has else int(number)
        in_all = int(number) if of_all else count
        definition = self.config.networks.get(target.network or "")
        facts = Facts(lambda *_: count, network_nics=in_all)
        if definition is not None:
            return facts._replace(network_limit=definition.max_nics)
        assert target.bridge is not None
        settings = self.config.authorization
        verdict = bridge_conf.judge(
            settings.bridge_conf,
            target.bridge,
            lambda path, _: self.load(peer, path),
            strict_includes=settings.strict_includes,
        )
        return facts._replace(
            verdict=verdict, usernet=self.usernet(peer, target.bridge, count)
        )

    def load(self, peer: Peer, path: bytes) -> Contents:
        if path.decode() not in self.files:
            raise FileNotFoundError(2, "No such file or directory")
        text, group = self.files[path.decode()]
        if group and self.gids[group] not in peer.groups and not peer.is_root:
            raise PermissionError(13, "Permission denied")
        return Contents(text.encode(), (1, hash(path)))

    def usernet(self, peer: Peer, bridge: str, count: int) -> Usernet | None:
        path = self.config.authorization.lxc_usernet
        if not path:
            return None
        lines = [
            line
            for line in lxc_usernet_lines.parse(self.files[path][0].encode())
            if line.bridge == bridge.encode()
        ]
        numbers: dict[bytes, int | None] = {
            **{name.encode(): uid for name, uid in self.uids.items()},
            **{f"@{name}".encode(): gid for name, gid in self.gids.items()},
        }
        grant = lxc_usernet_lines.weigh(path, lines, numbers, peer)
        assert not grant.notes
        shares = []
        for name, number in grant.allotments:  # the first with something left pays
            shares.append(Share(name, number, min(number, count)))
            count -= shares[-1].used
        return Usernet(tuple(shares), ", ".join(grant.locations))


def examples() -> Iterator[Example]:
    text = section("Examples")
    for part in re.split(r"^### ", text, flags=re.M)[1:]:
        title, _, body = part.partition("\n")
        yield Example(title, body)


EXAMPLES = list(examples())


class Question(NamedTuple):
    example: Example
    who: str
    asks: str
    has: str
    answer: str
    why: str

    def __repr__(self) -> str:
        return f"{self.who} {self.asks} {self.has}".replace(" ", "_")


QUESTIONS = [
    Question(
        example, who.strip("`"), asks.strip("`"), has, answer, why.replace("`", "")
    )
    for example in EXAMPLES
    for who, asks, has, answer, why in example.questions
]


def target_of(example: Example, options: Any) -> Target:
    """As `daemon.resolve` and `Judge.with_guest` have it."""
    network = options.network or DEFAULT_NETWORK
    name = options.name or "vm1"
    if options.bridge is not None:
        return Target(None, options.bridge, name, options.mac)
    assert network in example.config.networks
    return Target(network, None, name, options.mac)


def ask(question: Question) -> tuple[Decision, Target]:
    example, book = question.example, question.example.config.book
    verb, *words = shlex.split(question.asks)
    options = command.parse(words)
    peer, target = example.peer(question.who), target_of(example, options)
    if verb == "reload":
        return policy.may_reload(peer, book), target
    if verb == "manage":
        return policy.may_manage(peer, target, book), target
    facts = example.facts(peer, target, question.has)
    decision = policy.decide(peer, target, book, facts)
    if verb == "attach":
        return decision, target
    assert verb == "forward"
    assert decision.allowed or decision.over_quota
    return policy.may_forward(peer, target, parse_port(options.forward), book), target


def answer(decision: Decision) -> str:
    if decision.over_quota:
        return "too many"
    if not decision.allowed:
        return "denied"
    return "polkit" if decision.ask else "allowed"


@pytest.mark.parametrize("question", QUESTIONS, ids=repr)
def test_the_answer_is_the_broker_s(question: Question) -> None:
    decision, target = ask(question)
    assert answer(decision) == question.answer, decision
    example, why = question.example, question.why
    by, _, terms = why.partition(": ")
    if number := re.fullmatch(r"rule (\d+)(?:, .*)?", by):
        assert decision.rule is example.config.rules[int(number[1]) - 1], decision
    elif by == "the built-in rule":
        assert decision.rule is BUILT_IN, decision
    elif by == "the network":
        assert decision.full, decision
    else:
        assert decision.rule is None, decision
        paths = {
            "bridge.conf": list(example.files),
            "lxc-usernet": [example.config.authorization.lxc_usernet],
        }
        if by in paths:
            assert decision.location
            assert decision.location.rpartition(":")[0].split(":")[0] in paths[by]
        else:
            assert decision.location is None, decision
            words = {"root": "root", "another's": "another user's"}
            assert decision.reason == words.get(by, decision.reason)
            assert by in words or by == "no rule"
    if question.asks.startswith("attach") and question.answer != "denied":
        check_terms(decision, terms)
    if decision.rule is not None and not question.asks.startswith("reload"):
        peer = example.peer(question.who)
        steps = explain(peer, target, example.config.book, decision)
        (deciding,) = [step for step in steps if step.outcome == "decides"]
        assert deciding.location == decision.location


def check_terms(decision: Decision, terms: str) -> None:
    """How many and how long are told where there is a limit, and only there."""
    number = re.search(r"\b(\d+) NICs\b", terms)
    if not decision.full:
        assert decision.max_nics == (int(number[1]) if number else None), decision
    time = re.search(r"\bfor (\d+[smhd])\b", terms)
    if decision.allowed:
        assert decision.ttl == (duration(time[1]) if time else None), decision


@pytest.mark.parametrize("example", EXAMPLES, ids=repr)
def test_an_example_is_whole(example: Example) -> None:
    # Rules bear their numbers, and each decides something.
    numbers = re.findall(r"^\[\[rules\]\] +# (\d+)$", example.toml, re.M)
    assert numbers == [str(n + 1) for n in range(len(example.config.rules))]
    told = {question.why for question in QUESTIONS if question.example is example}
    deciding = {n for why in told for n in re.findall(r"^rule (\d+)", why)}
    assert deciding == set(numbers)
    # Everybody asks, and somebody is refused.
    asking = {row[0].strip("`") for row in example.questions}
    assert asking - {"root"} == set(example.groups_of)
    assert {"allowed", "denied"} <= {row[3] for row in example.questions}


@pytest.mark.parametrize("example", EXAMPLES, ids=repr)
def test_the_check_has_nothing_but_notes_on_an_example(
    example: Example, tmp_path: Path
) -> None:
    """`tapster policy check`, on a host that has these people and bridges."""
    if os.geteuid():
        pytest.skip("bridge.conf is warned of if it is not root's")
    host = Host(
        names=example.names,
        has_user=lambda uid: uid in example.uids.values(),
        has_group=lambda gid: gid in example.gids.values(),
        has_members=lambda _: True,
        is_bridge=lambda _: True,
    )
    files = {BRIDGE_CONF: ("", ""), **example.files, MAIN: (example.toml, "")}
    if "[authorization]" not in example.toml:
        moving = f'[authorization]\nbridge_conf = "{BRIDGE_CONF}"\n'
        files[MAIN] = moving + example.toml, ""
    for path, (text, _) in files.items():
        for moved in files:
            text = text.replace(moved, str(tmp_path / Path(moved).name))
        written = tmp_path / Path(path).name
        written.write_text(text)
        written.chmod(0o644)
    main = str(tmp_path / Path(MAIN).name)
    report = check_files([main], host, lambda: b"")
    assert report.rules == len(example.config.rules)
    found = [f for f in report.findings if f.severity is not Severity.NOTE]
    assert found == []


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 6
    assert len(QUESTIONS) >= 60
    blocks = re.findall(r"^```toml$", TEXT, re.M)
    assert len(blocks) == len(EXAMPLES)
    assert {question.answer for question in QUESTIONS} == {
        "allowed",
        "denied",
        "too many",
        "polkit",
    }


# --- the tables


def test_every_key_of_a_rule_is_in_the_table() -> None:
    table = rows(section("Every key of a rule"), "key")
    told = {row[0].strip("`"): row[1] for row in table}
    assert set(told) == set(rule_file.converters(NSS))
    assert len(told) == len(table)
    defaults = {field.name: field.default for field in dataclasses.fields(Rule)}
    for key, default in told.items():
        if default.startswith("`"):
            literal = default.strip("`").replace("false", "False")
            assert ast.literal_eval(literal) == defaults[key], key
    assert told["max_nics"] == f"{MAX_NICS} on networks"
    assert policy._FREE_PORTS[0].first == int(told["forward"].split()[1])


def test_every_key_of_authorization_is_in_the_table() -> None:
    text = section("Every key of a rule").partition("`[authorization]`")[2]
    told = {row[0].strip("`"): row[1].strip("`") for row in rows(text, "key")}
    assert {
        key: ast.literal_eval(value.replace("false", "False"))
        for key, value in told.items()
    } == dataclasses.asdict(Authorization())


@pytest.mark.parametrize("key", rule_file._OF_ALLOW)
def test_what_a_rule_that_denies_has_not(key: str) -> None:
    (row,) = [
        r for r in rows(section("Every key of a rule"), "key") if r[0] == "`effect`"
    ]
    assert "with that, neither `macs` nor any key below" in row[2]
    order = [r[0].strip("`") for r in rows(section("Every key of a rule"), "key")]
    assert key == "macs" or order.index(key) > order.index("effect")


SOURCE = Source("/etc/qemu/bridge.conf", 1, "a line")
VERDICTS = [
    Verdict(False, "no rule of it", None, ()),
    Verdict(True, "allowed by it", SOURCE, ()),
    Verdict(False, "denied by it", SOURCE, ()),
    Verdict(False, "an error", None, (), undecided=True),
]


@pytest.mark.parametrize("usernet", [None, 0, 2])
@pytest.mark.parametrize("column", range(len(VERDICTS)))
@pytest.mark.parametrize("row", range(4))
def test_who_has_a_word_on_a_linux_bridge(
    row: int, column: int, usernet: int | None
) -> None:
    table = rows(section("Linux bridges"), "rules")
    assert len(table) == 4
    effect, *cells = table[row]
    effect = effect.strip("`")
    rules = [Rule("f:1", bridges=("br0",), effect=effect)] if effect != "none" else []
    granted = None if usernet is None else Usernet((Share("a", usernet, 0),), "u:1")
    facts = Facts(verdict=VERDICTS[column], usernet=granted)
    peer = Peer(1000, 1000, frozenset({1000}), 1)
    decision = policy.decide(peer, Target(bridge="br0"), Rulebook(rules), facts)
    cell = cells[column].replace("`", "")
    if cell == "as lxc-usernet says":
        assert decision.allowed is bool(usernet)
        assert decision.location == ("u:1" if usernet else None)
        return
    expected, _, by = cell.partition(" by ")
    assert answer(decision) == expected
    if by == "the rule":
        assert decision.rule is rules[0]
    else:
        assert by == "bridge.conf"
        assert decision.rule is None
        assert decision.reason == VERDICTS[column].reason


@pytest.mark.parametrize(
    ("decision", "problem"),
    [
        (Decision(False, "no rule allows it"), None),
        (Decision(False, "f:1 has 4", over_quota=True, max_nics=4), None),
        (Decision(False, "it has 9", over_quota=True, full=True, max_nics=4), None),
        (Decision(False, "it is wrong"), "it is wrong"),
    ],
)
def test_what_callers_are_told(decision: Decision, problem: str | None) -> None:
    told = [row[1] for row in rows(section("What is told", 3), "what is so")]
    events: Any = SimpleNamespace(denied=lambda *_: None)
    context = RequestContext(Peer(1000, 1000, frozenset(), 1), "attach")
    context.network = "lan"
    with pytest.raises(RequestError) as err:
        refuse(context, decision, Config(problem=problem), events)
    assert err.value.message in told


def test_what_callers_are_told_of_a_nic_that_is_not_theirs() -> None:
    told = [row[1] for row in rows(section("What is told", 3), "what is so")]
    (words,) = re.findall(r'NoSuchNic\(\s*"([^"]+)"', inspect.getsource(detach))
    assert words in told
    assert len(told) == 5  # this one, and those above


def test_the_actions_of_polkit_are_in_the_table() -> None:
    told = [row[0].strip("`") for row in rows(section("polkit"), "action")]
    assert told == [ATTACH, FORWARD, MANAGE]


def test_numbers_in_the_text() -> None:
    (limit,) = re.findall(r"limit of their own: (\d+) of a user", TEXT)
    assert int(limit) == forward_table.USER_LIMIT
    assert f"{MAX_NICS}\nNICs on the network `default`" in TEXT
    peer = Peer(1000, 1000, frozenset(), 1)
    for port, allowed in ((1023, False), (1024, True)):
        found = policy.may_forward(
            peer, Target(DEFAULT_NETWORK), Port("tcp", port, port), Rulebook()
        )
        assert found.allowed is allowed


def test_links_within_the_page_lead_somewhere() -> None:
    headings = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^##+ (.+)$", TEXT, re.M)
    }
    links = re.findall(r"\]\(#([^)]+)\)", TEXT)
    assert links
    assert set(links) <= headings
