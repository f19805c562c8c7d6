# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.policy.config.load`: what is set, and where exactly something is wrong."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapster.errors import ConfigError
from tapster.model import NetworkDefinition, OnTamper
from tapster.policy.config.load import SECTIONS, Config, load, parse
from tapster.policy.config.network_file import CONVERT
from tapster.policy.config.rule_file import converters
from tapster.policy.config.toml_locations import Document, Keys
from tapster.policy.config.values import NSS, Names

EXAMPLE = Path(__file__).resolve().parents[4] / "data" / "tapster.toml.example"
PLACE = re.compile(r"f\.toml:(\d+):(\d+): ")

FAKE = Names({"alice": 1000, "bob": 1001}.__getitem__, {"kvm": 36}.__getitem__)


def read(text: str) -> Config:
    return parse([("f.toml", text)], FAKE)


def fails(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text)
    message = str(caught.value)
    assert PLACE.match(message), message
    assert "\n" not in message
    return message


def test_without_files(tmp_path: Path) -> None:
    assert load(str(tmp_path)) == Config()
    assert load(str(tmp_path / "nowhere")) == Config()


def test_later_files_win_key_by_key(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "tapster.toml").write_text(
        "[limits]\nconnections = 1\nconnections_per_user = 2\n"
    )
    (tmp_path / "conf.d/20-b.toml").write_text("limits.connections = 20\n")
    (tmp_path / "conf.d/10-a.toml").write_text("limits.connections = 10\n")
    for ignored in ("30.toml.bak", ".40.toml", "README"):
        (tmp_path / "conf.d" / ignored).write_text("this is not TOML")
    limits = load(str(tmp_path)).limits
    assert (limits.connections, limits.connections_per_user) == (20, 2)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    os.symlink("nowhere", tmp_path / "tapster.toml")
    with pytest.raises(ConfigError, match=r"tapster\.toml: No such file"):
        load(str(tmp_path))
    (tmp_path / "tapster.toml").unlink()
    (tmp_path / "tapster.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"tapster\.toml: not UTF-8"):
        load(str(tmp_path))


def test_every_type() -> None:
    config = read(
        """
        [authorization]
        bridge_conf = "/x"
        [broker]
        idle_seconds = 0
        network_grace_seconds = 2.5
        default_bridge_names = []
        [guard]
        on_tamper = "detach"
        [limits]
        connections = 1
        """,
    )
    assert config.guard.on_tamper is OnTamper.DETACH
    assert config.authorization.bridge_conf == "/x"
    assert config.broker.idle_seconds == 0.0
    assert config.broker.network_grace_seconds == 2.5
    assert config.broker.default_bridge_names == ()
    assert config.limits.connections == 1


@pytest.mark.parametrize(
    ("text", "line", "column", "says"),
    [
        ("[brokr]\n", 1, 2, "unknown key 'brokr'; did you mean 'broker'?"),
        ("\n\n  [zzz]\n", 3, 4, "unknown key 'zzz'"),
        ("broker = 3\n", 1, 1, "broker must be a table"),
        ("[[broker]]\n", 1, 3, "broker must be a table"),
        (
            "[broker]\n  idle_second = 1\n",
            2,
            3,
            "unknown key 'idle_second'; did you mean 'idle_seconds'?",
        ),
        ("broker.idle_second = 1\n", 1, 8, "unknown key 'idle_second'"),
        ("broker = {idle_second = 1}\n", 1, 11, "unknown key 'idle_second'"),
        ('[broker]\n"idle_second" = 1\n', 2, 1, "unknown key 'idle_second'"),
        # the same word in another place, and words that begin alike
        ("[limits]\nconnections = 1\n[broker]\nconnections = 1\n", 4, 1, "unknown"),
        ("# bridge = 1\n[authorization]\nbridge_conf = '/x'\nbridge = 1\n", 4, 1, ""),
        ("[broker]\nidle_seconds = -1\n", 2, 1, "a number, not negative"),
        ("[broker]\nidle_seconds = nan\n", 2, 1, "a number, not negative"),
        ("[broker]\nidle_seconds = true\n", 2, 1, "a number, not negative"),
        ("[broker]\nidle_seconds = '1'\n", 2, 1, "a number, not negative"),
        (f"[broker]\nidle_seconds = 1{'0' * 400}\n", 2, 1, "idle_seconds: "),
        ("[broker]\ndefault_bridge_names = 'br0'\n", 2, 1, "a list of strings"),
        ("[broker]\ndefault_bridge_names = [1]\n", 2, 1, "a list of strings"),
        ("[guard]\non_tamper = 'restor'\n", 2, 1, "did you mean 'restore'?"),
        ("[guard]\non_tamper = ''\n", 2, 1, "is none of"),
        ("[guard]\non_tamper = true\n", 2, 1, "is not a string"),
        ("[limits]\nconnections = 0\n", 2, 1, "a whole number from 1 up"),
        ("[limits]\nconnections = 1.5\n", 2, 1, "a whole number from 1 up"),
        ("[authorization]\nbridge_conf = 'x'\n", 2, 1, "an absolute path"),
        ("[authorization]\nbridge_conf = '/\\u0000'\n".replace("'", '"'), 2, 1, "abs"),
        ("[broker]\nidle_seconds\n", 2, 13, "Expected '='"),
        ("[broker]\nidle_seconds =", 2, 15, "Invalid value"),
        ("a = '", 1, 6, ""),
        (f"a = {'1' * 5000}", 1, 1, ""),
        ("a = " + "[" * 5000, 1, 1, ""),
    ],
)
def test_the_place_of_an_error(text: str, line: int, column: int, says: str) -> None:
    message = fails(text)
    assert message.startswith(f"f.toml:{line}:{column}: ")
    assert says in message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[network.x]\n", "unknown key 'network'; did you mean 'networks'?"),
        ("[[rule]]\n", "unknown key 'rule'; did you mean 'rules'?"),
        ("networks = 3\n", "networks: 3 is not a table"),
        ("[[networks]]\n", "networks: a list is not a table"),
        ("networks.x = 3\n", "networks.x: 3 is not a table"),
        ("[rules]\n", "rules: a table is not a list: write [[rules]]"),
        ("rules = [1]\n", "1 is not a table"),
    ],
)
def test_networks_and_rules_are_what_they_must_be(text: str, says: str) -> None:
    assert says in fails(text)


def test_the_default_network_is_always_there() -> None:
    assert Config().networks == {"default": NetworkDefinition("default")}
    assert list(read("[networks.lan]\n").networks) == ["default", "lan"]
    assert not read("[networks.default]\ndhcp = false\n").networks["default"].dhcp


# --- which files are read


def test_reading_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "tapster.toml").write_text("[limits]\nconnections = 3\n")
    before = load(str(tmp_path))
    (tmp_path / "tapster.toml").write_text("[limits]\nconnections = -3\n")
    with pytest.raises(ConfigError):
        load(str(tmp_path))
    assert before.limits.connections == 3
    assert Config().limits.connections == 1024


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    """A directory of root's, with a file in each place."""
    (tmp_path / "conf.d").mkdir()
    for name in ("tapster.toml", "conf.d/a.toml"):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(0o644)
    for path in (tmp_path, *tmp_path.iterdir()):
        try:
            os.chown(path, 0, 0)
        except PermissionError:
            pytest.skip("only root can make files of root's")
    return tmp_path


@pytest.mark.parametrize("name", [".", "conf.d", "tapster.toml", "conf.d/a.toml"])
def test_what_others_may_write_is_refused(roots: Path, name: str) -> None:
    assert load(str(roots), owner_only=True) == Config()
    for mode in (0o664, 0o646):
        before = (roots / name).stat().st_mode
        (roots / name).chmod(mode | before & 0o111)
        with pytest.raises(ConfigError, match="others than root may write") as caught:
            load(str(roots), owner_only=True)
        assert str(caught.value).startswith(os.path.normpath(roots / name))
        assert load(str(roots), owner_only=False) == Config()
        (roots / name).chmod(before)
    os.chown(roots / name, 4711, 0)
    with pytest.raises(ConfigError, match="belongs to uid 4711, not to root"):
        load(str(roots), owner_only=True)
    assert load(str(roots), owner_only=False) == Config()


def test_what_a_link_leads_to_counts(roots: Path) -> None:
    other = roots / "other"
    other.write_text("[limits]\nconnections = 3\n")
    (roots / "tapster.toml").unlink()
    (roots / "tapster.toml").symlink_to(other)
    assert load(str(roots), owner_only=True).limits.connections == 3
    os.chown(other, 4711, 0)
    with pytest.raises(ConfigError, match=r"tapster\.toml: belongs to uid 4711"):
        load(str(roots), owner_only=True)


def test_who_asks_says_whether_owners_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tapster.toml").touch()
    (tmp_path / "tapster.toml").chmod(0o666)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert load(str(tmp_path)) == Config()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path))):
        load(str(tmp_path))


@pytest.mark.parametrize("owner_only", [True, False])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, owner_only: bool) -> None:
    # Who is not root owns the directory, which is looked at before.
    says = "not a regular file" if not owner_only else "not a regular|belongs to uid"
    os.mkfifo(tmp_path / "tapster.toml", 0o600)
    with pytest.raises(ConfigError, match=says):
        load(str(tmp_path), owner_only=owner_only)
    (tmp_path / "tapster.toml").unlink()
    (tmp_path / "tapster.toml").mkdir()
    with pytest.raises(ConfigError, match=says):
        load(str(tmp_path), owner_only=owner_only)


# --- the example


def settings() -> str:
    """The example with all that it only shows."""
    return re.sub(r"^#(?=[\w\[])", "", EXAMPLE.read_text(), flags=re.M)


def test_the_example_says_the_defaults() -> None:
    text = EXAMPLE.read_text()
    assert read(text) == Config()
    for section in SECTIONS:
        assert f"\n[{section}]\n" in text
        for key in dataclasses.fields(getattr(Config(), section)):
            assert re.search(rf"^#?{key.name} = ", text, re.M), key.name


def test_the_example_shows_every_key() -> None:
    text = settings()
    data = Document("f.toml", text).data
    shown = {key for network in data["networks"].values() for key in network}
    assert shown == {*CONVERT, "reservations"}
    web = data["networks"]["lab"]["reservations"]["web"]
    assert set(web) == {"ipv4", "ipv6", "mac", "user"}
    (rule,) = data["rules"]
    assert set(rule) == set(converters(NSS))
    config = read(text)
    assert list(config.networks) == ["default", "lab", "lan"]
    assert len(config.rules) == 1
    # What is shown as the default of mode "bridge" is it.
    lan = NetworkDefinition("lan", mode=config.networks["lan"].mode, bridge="br0")
    assert config.networks["lan"] == lan
    assert not lan.is_isolating


# --- places


TOML = """\
a.b . "c d" = 1 # a comment with [brackets] and = signs
'e' = [1, {x = 2, "y" = [
  3, # three ]
  \'\'\'
]\'\'\'\',
]}]
s = \"\"\"
k = 1 \\\"\"\" [no] \"\"\"\"\"
t = { u = "}\\" = ", v.w = 'x' }
[[r]]
[ r . "n" ]
k = 1979-05-27 07:32:00
[[r]]
n.k = inf
[[r.m]]
[r.m.o]
"""


def every(data: object, before: Keys = ()) -> Iterator[Keys]:
    """The way to each key and to each value in a list."""
    items: Iterable[tuple[str | int, object]] = ()
    if isinstance(data, dict):
        items = data.items()
    elif isinstance(data, list):
        items = enumerate(data)
    for key, value in items:
        yield (*before, key)
        yield from every(value, (*before, key))


def test_places() -> None:
    document = Document("f", TOML)
    found = {keys: document.location(*keys)[2:] for keys in every(document.data)}
    assert found == {
        ("a",): "1:1",
        ("a", "b"): "1:3",
        ("a", "b", "c d"): "1:7",
        ("e",): "2:1",
        ("e", 0): "2:8",
        ("e", 1): "2:11",
        ("e", 1, "x"): "2:12",
        ("e", 1, "y"): "2:19",
        ("e", 1, "y", 0): "3:3",
        ("e", 1, "y", 1): "4:3",
        ("s",): "7:1",
        ("t",): "9:1",
        ("t", "u"): "9:7",
        ("t", "v"): "9:21",
        ("t", "v", "w"): "9:23",
        ("r",): "10:3",
        ("r", 0): "10:3",
        ("r", 0, "n"): "11:7",
        ("r", 0, "n", "k"): "12:1",
        ("r", 1): "13:3",
        ("r", 1, "n"): "14:1",
        ("r", 1, "n", "k"): "14:3",
        ("r", 1, "m"): "15:5",
        ("r", 1, "m", 0): "15:5",
        ("r", 1, "m", 0, "o"): "16:6",
    }
    assert document.location("r", 1, "zzz", 3) == document.location("r", 1)
    assert document.location("zzz") == "f:1:1"
    assert document.line("r", 0, "n") == "f:11"
    crlf = Document("f", TOML.replace("\n", "\r\n"))
    assert {keys: crlf.location(*keys)[2:] for keys in every(crlf.data)} == found


# --- whatever is in a file


WORDS = """
nat isolated bridge ovn user shared br0 10.1.2.0/24 10.1.2.3/24 none fe80::/64
fd00::/64 lab.internal 9.9.9.9 fd00::9 any internet tcp/22 udp/5-3 100mbit
1.0000000001gbit tcp/80$web:80 lease 02:00:00:00:00:01 52:54:00:* alice kvm
allow deny polkit * default lan
"""
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["C"]))
QUOTED = TEXTS.map(lambda s: "'" + s.replace("'", "") + "'")
TRIPLE = st.text("a\n#[]{}=,.'\\", max_size=8).map(
    lambda s: '"""' + s.replace("\\", "\\\\") + '"""'
)
SCALARS = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.booleans().map(lambda b: str(b).lower()),
    st.just("0x" + "f" * 5000),  # more than Python writes
    st.just("1979-05-27T07:32:00Z"),
    QUOTED,
    TRIPLE,
    st.sampled_from(WORDS.split()).map(lambda word: repr(word.replace("$", " "))),
)
KEYS = st.sampled_from(
    [
        *CONVERT,
        *converters(NSS),
        *("reservations", "web", "ipv4", "ipv6", "mac", "user", "ingress"),
        *("bridge_conf", "idle_seconds", "default_bridge_names", "connections"),
        *("zzz", "'it is'", '"a\\"b"', "''"),
    ]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda v: f"[{', '.join(v)}]")
        | st.dictionaries(KEYS, inner, max_size=3).map(
            lambda v: "{" + ", ".join(f"{k} = {x}" for k, x in v.items()) + "}"
        )
    ),
    max_leaves=4,
)
HEADERS = st.sampled_from(
    [
        *("[authorization]", "[broker]", "[limits]", "[zzz]", "[networks]"),
        *("[networks.default]", "[networks.lan]", "[ networks . 'lab' ]"),
        *("[networks.lan.reservations]", "[networks.lan.rate]", "[rules]"),
        *("[[rules]]", "[[rules]]", "[[networks.lan]]", "[rules.macs]"),
    ]
)
LINES = st.one_of(
    HEADERS,
    st.tuples(KEYS, VALUES).map(" = ".join),
    st.tuples(KEYS, KEYS, VALUES).map(lambda t: f"{t[0]}.{t[1]} = {t[2]}"),
    st.just("# = ["),
)
# A table and some of its keys: what gets past the first line more often.
TABLES = st.tuples(HEADERS, st.dictionaries(KEYS, VALUES, max_size=4)).map(
    lambda t: "\n".join([t[0], *(f"{k} = {v}" for k, v in t[1].items())])
)


@given(st.lists(LINES).map("\n".join) | st.lists(TABLES).map("\n".join) | st.text())
def test_nothing_but_a_config_error(text: str) -> None:
    try:
        config = read(text)
    except ConfigError as error:
        assert PLACE.match(str(error))
        assert "\n" not in str(error)
        assert len(str(error)) < 1000
    else:
        assert "default" in config.networks


@given(st.lists(LINES).map("\n".join) | st.lists(TABLES).map("\n".join))
def test_every_key_is_found_where_it_is(text: str) -> None:
    try:
        document = Document("f", text)
    except ConfigError as error:
        assert "not understood" not in str(error)
        return
    lines = text.split("\n")
    for keys in every(document.data):
        line, column = map(int, document.location(*keys).split(":")[1:])
        there = lines[line - 1][column - 1 :]
        if isinstance(keys[-1], str) and re.fullmatch(r"\w+", keys[-1]):
            assert there.lstrip("'\"").startswith(keys[-1])


def test_the_names_of_this_machine() -> None:
    assert NSS.uid("root") == 0
    for resolve in (NSS.uid, NSS.gid):
        with pytest.raises(KeyError):
            resolve("no such name as this")
    with pytest.raises(ConfigError, match=r"f:1:20: users: there is no user 'a\\x00"):
        parse([("f", 'rules = [{users = ["a\\u0000b"], networks = ["default"]}]')])
