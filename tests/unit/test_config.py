# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.policy.config`: what is set, and where exactly something is wrong."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapster.errors import ConfigError
from tapster.policy.config import Config, _merge, load

EXAMPLE = Path(__file__).resolve().parents[2] / "data" / "tapster.toml.example"
PLACE = re.compile(r"f\.toml:(\d+):(\d+): ")


def fails(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        _merge(Config(), "f.toml", text)
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
    config = _merge(
        Config(),
        "f.toml",
        """
        [authorization]
        bridge_conf = "/x"
        [broker]
        idle_seconds = 0
        network_grace_seconds = 2.5
        default_bridge_names = []
        [limits]
        connections = 1
        """,
    )
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


def test_the_example_says_the_defaults() -> None:
    text = EXAMPLE.read_text()
    assert _merge(Config(), "f.toml", text) == Config()
    for section in dataclasses.fields(Config):
        assert f"\n[{section.name}]\n" in text
        for key in dataclasses.fields(getattr(Config(), section.name)):
            assert re.search(rf"^{key.name} = ", text, re.M), key.name


SCALARS = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.booleans().map(lambda b: str(b).lower()),
    st.text(st.characters(codec="utf-8", exclude_categories=["C"])).map(
        lambda s: "'" + s.replace("'", "") + "'"
    ),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner).map(lambda v: f"[{', '.join(v)}]")
)
SECTIONS = st.sampled_from(["authorization", "broker", "limits", "zzz"])
KEYS = st.sampled_from(
    ["bridge_conf", "idle_seconds", "default_bridge_names", "connections", "zzz"]
)
LINES = st.one_of(
    SECTIONS.map(lambda s: f"[{s}]"),
    st.tuples(KEYS, VALUES).map(" = ".join),
    st.tuples(SECTIONS, KEYS, VALUES).map(lambda t: f"{t[0]}.{t[1]} = {t[2]}"),
)


@given(st.lists(LINES).map("\n".join) | st.text())
def test_nothing_but_a_config_error(text: str) -> None:
    try:
        _merge(Config(), "f.toml", text)
    except ConfigError as error:
        assert PLACE.match(str(error))
        assert "\n" not in str(error)
