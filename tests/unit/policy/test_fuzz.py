# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whole policies: what is written is what is read, what is broken is refused, and
what is damaged opens nothing that an undamaged rule denies."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tapster.errors import ConfigError
from tapster.model import Peer, Port, Rule
from tapster.policy.config.load import Config, load, parse
from tapster.policy.config.values import Names
from tapster.policy.core.decide import decide
from tapster.policy.core.facts import Facts, Verdict
from tapster.policy.core.rulebook import Target

UIDS = {"ann": 1000, "ben": 1001, "zoë": 1002}
GIDS = {"kvm": 36, "vms": 2000}
NAMES = Names(UIDS.__getitem__, GIDS.__getitem__)
NETWORKS = ["default", "lan", "lab"]
BRIDGES = ["br0", "br1", "brücke"]

Values = dict[str, Any]


def some(*of: Any, least: int = 1) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(of), min_size=least, max_size=4, unique=True)


WHOM = {
    "users": some("ann", "ben", "zoë", 1000, 1003, 2**32 - 2),
    "groups": some("kvm", "vms", 36, 0),
}
WHERE = {"networks": some(*NETWORKS, "*"), "bridges": some(*BRIDGES)}
GUESTS = {"guests": some("web-*", "db?", "*", "vm1")}
TERMS = {
    "max_nics": st.integers(1, 10000),
    "macs": some("52:54:00:*", "02:??:*", "*"),
    "trusted": st.booleans(),
    "forward": some("tcp/80", "udp/5000-5010", "tcp/1-65535", least=0),
    "ttl": st.integers(1, 366 * 86400) | st.sampled_from(["90s", "8h", "7d"]),
    "manage": st.booleans(),
}


@st.composite
def rules(draw: st.DrawFn) -> Values:
    """The keys of one rule, in any order; "effect" may be left out if it is allow."""
    effect = draw(st.sampled_from(["allow", "deny", "polkit"]))
    optional = {**WHOM, **GUESTS, **({} if effect == "deny" else TERMS)}
    values: Values = draw(st.fixed_dictionaries({}, optional=optional))
    for key in draw(st.sampled_from([["networks"], ["bridges"], [*WHERE]])):
        values[key] = draw(WHERE[key])
    if effect != "allow" or draw(st.booleans()):
        values["effect"] = effect
    return dict(draw(st.permutations(list(values.items()))))


@st.composite
def short_rules(draw: st.DrawFn) -> Values:
    """A rule of few keys, so that two of them often have none in common."""
    values: Values = {}
    for key in draw(st.sampled_from(["", "", "users", "groups", "guests"])).split():
        values |= {key: draw({**WHOM, **GUESTS}[key])}
    where = draw(st.sampled_from([*WHERE]))
    values[where] = draw(WHERE[where])
    if draw(st.booleans()):
        values["effect"] = "deny"
    return values


def meant(values: Values) -> Rule:
    """The rule that these keys are, wherever it stands."""

    def numbers(key: str, table: dict[str, int]) -> frozenset[int] | None:
        if key not in values:
            return None
        return frozenset(table.get(word, word) for word in values[key])

    def seconds(ttl: int | str | None) -> int | None:
        if not isinstance(ttl, str):
            return ttl
        return int(ttl[:-1]) * {"s": 1, "h": 3600, "d": 86400}[ttl[-1]]

    forward = None
    if "forward" in values:
        words = [re.split("[/-]", word) for word in values["forward"]]
        forward = tuple(Port(w[0], int(w[1]), int(w[-1])) for w in words)
    return Rule(
        users=numbers("users", UIDS),
        groups=numbers("groups", GIDS),
        networks=tuple(values.get("networks", ())),
        bridges=tuple(values.get("bridges", ())),
        effect=values.get("effect", "allow"),
        max_nics=values.get("max_nics"),
        macs=tuple(values.get("macs", ())),
        trusted=values.get("trusted", False),
        forward=forward,
        guests=tuple(values.get("guests", ())),
        ttl=seconds(values.get("ttl")),
        manage=values.get("manage", False),
    )


# --- as text


def quoted(word: str, style: int) -> str:
    """A string as TOML has it: plain, literal, or with what may be escaped."""
    if style == 1:
        return f"'{word}'"
    escaped = json.dumps(word, ensure_ascii=style == 2)
    return escaped.replace("*", "\\u002A") if style == 2 else escaped


def written(value: Any, style: int) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return [str(value), f"+{value}", hex(value)][style]
    if isinstance(value, str):
        return quoted(value, style)
    inner = [written(item, style) for item in value]
    if style == 1:  # on lines of their own, a comment on each, a comma behind all
        return "[\n" + "".join(f"  {item}, # ] = [\n" for item in inner) + "]"
    return f"[{', '.join(inner)}]"


class Block(NamedTuple):
    """A table of a file: its text, and the rule it is, if it is one."""

    text: str
    values: Values | None = None


HEADERS = ["[[rules]]", "[[rules]] # [x]", "  [[ rules ]]", '[["rules"]]']
STYLES = st.integers(0, 2)


@st.composite
def blocks(draw: st.DrawFn, of: st.SearchStrategy[Values] | None = None) -> list[Block]:
    """A file, in parts."""
    found = [Block(f"[networks.{name}]\n") for name in NETWORKS[1:]]
    found.append(Block(draw(st.sampled_from(["", "# a comment\n", "\n\n"]))))
    for values in draw(st.lists(rules() if of is None else of, min_size=1, max_size=5)):
        head = draw(st.sampled_from(HEADERS))
        lines = [f"{k} = {written(v, draw(STYLES))}" for k, v in values.items()]
        blank = draw(st.sampled_from(["", "\n", "# effect = 'allow'\n"]))
        found.append(Block("\n".join([head, *lines]) + "\n" + blank, values))
    return found


def joined(parts: Sequence[Block]) -> str:
    return "".join(part.text for part in parts)


@settings(max_examples=settings().max_examples * 3 // 2, deadline=None)
@given(blocks(), st.lists(blocks(), max_size=2))
def test_what_is_written_is_what_is_read(
    main: list[Block], more: list[list[Block]]
) -> None:
    """In the order of the files, each with its location."""
    files = [main, *([b for b in parts if b.values is not None] for parts in more)]
    config = parse([(str(n), joined(parts)) for n, parts in enumerate(files)], NAMES)
    expected = []
    for number, parts in enumerate(files):
        line = 1
        for part in parts:
            if part.values is not None:
                expected.append((f"{number}:{line}", meant(part.values)))
            line += part.text.count("\n")
    found = [(rule.location, rule) for rule in config.rules]
    assert [location for location, _ in found] == [location for location, _ in expected]
    for (location, rule), (_, wanted) in zip(found, expected, strict=True):
        assert {**fields(rule), "location": ""} == fields(wanted), location
    assert sorted(config.networks) == sorted(NETWORKS)


def fields(rule: Rule) -> dict[str, Any]:
    return {name: getattr(rule, name) for name in Rule.__slots__}


# --- broken


PLACE = re.compile(r"(main|more)\.toml:[1-9][0-9]*:[1-9][0-9]*: \S")
PIECES = st.sampled_from(
    [
        *("[[rules]]\n", "[rules]\n", "[networks.lan]\n", "[", "]", "{", "}", "=", ","),
        *("'", '"', '"""', "'''", "\\", "#", "\n", " ", ".", "\0", "\x7f", "\r", "é"),
        *("users", "networks = ['*']\n", "effect = 'deny'\n", "-1", "nan", "9" * 5000),
        *("true", "1979-05-27", "\\ud800", "rules.users = 1\n", "[" * 3000, "😀"),
    ]
) | st.text(max_size=5)


@settings(max_examples=4 * settings().max_examples, deadline=None)
@given(st.data(), blocks(), st.sampled_from(["main.toml", "more.toml"]))
def test_broken_files_are_refused_with_a_location(
    data: st.DataObject, parts: list[Block], broken: str
) -> None:
    text = joined(parts)
    for _ in range(data.draw(st.integers(1, 3))):
        here = data.draw(st.integers(0, len(text)))
        there = data.draw(st.integers(here, min(here + 20, len(text))))
        text = text[:here] + data.draw(PIECES) + text[there:]
    files = {"main.toml": joined(parts[:2]), "more.toml": "", broken: text}
    try:
        config = parse(list(files.items()), NAMES)
    except ConfigError as error:
        message = str(error)
        assert PLACE.match(message) and "\n" not in message
        assert len(message) < 1000
        line = int(message.split(":")[1])
        assert line <= files[message.split(":")[0]].count("\n") + 1
    else:
        assert config.problem is None
        for rule in config.rules:
            assert rule.networks or rule.bridges
            assert rule.effect in ("allow", "deny", "polkit")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.binary(max_size=200))
def test_bytes_are_refused_with_their_file(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "tapster.toml").write_bytes(data)
    try:
        load(str(tmp_path), owner_only=False, names=NAMES)
    except ConfigError as error:
        assert str(error).startswith(f"{tmp_path}/tapster.toml:")
        assert str(error).isprintable()


# --- damaged


PEERS = [
    Peer(uid, uid, frozenset(groups), 1)
    for uid, groups in product((1000, 1001, 1003), ((), (36,)))
]
TARGETS = [
    Target(network, bridge, name, mac)
    for network, bridge in [("default", None), ("lan", None), (None, "br0")]
    for name, mac in [(None, None), ("web-1", "52:54:00:00:00:01"), ("vm1", None)]
]
FACTS = Facts(verdict=Verdict(True, "allowed by bridge.conf", None, ()))


def denials(config: Config) -> dict[tuple[Peer, Target], str]:
    """What a rule denies: whom, what, and the location of the rule."""
    found = {}
    for peer, target in product(PEERS, TARGETS):
        facts = FACTS if target.bridge else Facts()
        decision = decide(peer, target, config.book, facts)
        if decision.rule is not None and decision.rule.effect == "deny":
            assert not decision.allowed and decision.location is not None
            found[peer, target] = decision.location
    return found


def spans(parts: Sequence[Block]) -> dict[str, tuple[int, int]]:
    """The bytes that each rule depends on: from the end of the line before it to
    the bracket of the next table, which is what ends it."""
    found = {}
    offset, line = 0, 1
    for part in parts:
        size = len(part.text.encode())
        if part.values is not None:
            found[f"f:{line}"] = (offset - 1, offset + size + 2)
        offset += size
        line += part.text.count("\n")
    return found


class Damaged(NamedTuple):
    """A file's bytes, and those that are not what or where they were."""

    data: bytes
    first: int
    last: int


def damages(raw: bytes, offset: int) -> Iterator[Damaged]:
    """A byte is another, or is gone, or one too many, or the end is missing."""
    yield Damaged(raw[:offset], offset, len(raw))
    yield Damaged(raw[:offset] + raw[offset + 1 :], offset, offset)
    for byte in (b"#", b"\n", b" ", b"[", b'"', b"x", b"="):
        yield Damaged(raw[:offset] + byte + raw[offset + 1 :], offset, offset)
        yield Damaged(raw[:offset] + byte + raw[offset:], offset, offset)


@settings(max_examples=settings().max_examples // 5, deadline=None)
@given(blocks(short_rules()), st.randoms(use_true_random=False))
def test_damage_opens_nothing_that_a_whole_rule_denies(
    parts: list[Block], random: Random
) -> None:
    """A rule that denies, and is not itself hit, denies as before, or nothing is
    loaded.

    There are no texts of many lines in these files: their quotes could pair
    otherwise, and take in what is between them.
    """
    raw = joined(parts).encode()
    before = denials(parse([("f", raw.decode())], NAMES))
    # Most damage is an error. What is not is where lines begin and end.
    ends = [found.end() for found in re.finditer(rb"\n", raw)]
    near = {end + step for end in ends for step in (-1, 0, 1)} | {0, 1}
    offsets = near | set(random.sample(range(len(raw)), 10))
    for offset in sorted(offset for offset in offsets if offset < len(raw)):
        for damaged in damages(raw, offset):
            try:
                after = denials(parse([("f", damaged.data.decode())], NAMES))
            except (ConfigError, UnicodeDecodeError):
                continue
            for pair, rule in before.items():
                first, last = spans(parts)[rule]
                is_hit = damaged.first <= last and first <= damaged.last
                assert is_hit or pair in after, (damaged, pair, rule)


@pytest.mark.parametrize("cut", range(1, 6))
def test_a_cut_file_may_have_lost_a_rule(cut: int) -> None:
    """What is not promised: a file without its end may be one that was never
    longer. Files are written beside and renamed, so that they are not cut."""
    text = '[[rules]]\nnetworks = ["default"]\n[[rules]]\nnetworks = ["*"]\n'
    lines = (text + 'effect = "deny"\n').splitlines(keepends=True)
    assert len(lines) == 5
    if cut in (1, 3):
        with pytest.raises(ConfigError):
            parse([("f", "".join(lines[:cut]))], NAMES)
        return
    config = parse([("f", "".join(lines[:cut]))], NAMES)
    denied = (PEERS[0], TARGETS[0]) in denials(config)
    assert denied == (cut == 5)
