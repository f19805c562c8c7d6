# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.policy.config.load`: what is set, and where exactly something is wrong."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.configuring import fails, parsed
from support.toml_texts import LINES, TABLES
from tapster.errors import ConfigError
from tapster.model import NetworkDefinition, OnTamper
from tapster.policy.config.load import SECTIONS, Config, load, parse
from tapster.policy.config.network_file import CONVERT
from tapster.policy.config.rule_file import converters
from tapster.policy.config.toml_locations import Document
from tapster.policy.config.values import NSS

EXAMPLE = Path(__file__).resolve().parents[4] / "data" / "tapster.toml.example"
LOCATION = re.compile(r"0:(\d+):(\d+): ")


def read(text: str) -> Config:
    return parsed(text)


def test_without_files_all_settings_are_defaults(tmp_path: Path) -> None:
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


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    os.symlink("nowhere", tmp_path / "tapster.toml")
    with pytest.raises(ConfigError, match=r"tapster\.toml: No such file"):
        load(str(tmp_path))
    (tmp_path / "tapster.toml").unlink()
    (tmp_path / "tapster.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"tapster\.toml: not UTF-8"):
        load(str(tmp_path))


def test_a_setting_of_each_type_is_read() -> None:
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
def test_an_error_has_the_location_of_its_key(
    text: str, line: int, column: int, says: str
) -> None:
    message = fails(text)
    assert message.startswith(f"0:{line}:{column}: ")
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
def test_networks_and_rules_of_another_type_are_refused(text: str, says: str) -> None:
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
def test_a_file_that_others_may_write_is_refused(roots: Path, name: str) -> None:
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


def test_the_owner_of_what_a_link_leads_to_counts(roots: Path) -> None:
    other = roots / "other"
    other.write_text("[limits]\nconnections = 3\n")
    (roots / "tapster.toml").unlink()
    (roots / "tapster.toml").symlink_to(other)
    assert load(str(roots), owner_only=True).limits.connections == 3
    os.chown(other, 4711, 0)
    with pytest.raises(ConfigError, match=r"tapster\.toml: belongs to uid 4711"):
        load(str(roots), owner_only=True)


def test_owners_count_if_the_reader_is_root_or_says_so(
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
def test_a_fifo_is_refused_and_not_waited_for(tmp_path: Path, owner_only: bool) -> None:
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


# --- whatever is in a file


@given(st.lists(LINES).map("\n".join) | st.lists(TABLES).map("\n".join) | st.text())
def test_any_text_is_a_configuration_or_a_config_error(text: str) -> None:
    try:
        config = read(text)
    except ConfigError as error:
        assert LOCATION.match(str(error))
        assert "\n" not in str(error)
        assert len(str(error)) < 1000
    else:
        assert "default" in config.networks


def test_names_of_users_and_groups_are_looked_up_on_this_host() -> None:
    assert NSS.uid("root") == 0
    for resolve in (NSS.uid, NSS.gid):
        with pytest.raises(KeyError):
            resolve("no such name as this")
    with pytest.raises(ConfigError, match=r"f:1:20: users: there is no user 'a\\x00"):
        parse([("f", 'rules = [{users = ["a\\u0000b"], networks = ["default"]}]')])
