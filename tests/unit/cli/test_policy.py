# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster policy check`: what the broker would refuse, and what else there is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.command import tapster
from tapster.cli import policy
from tapster.errors import ConfigError
from tapster.policy.config.load import parse
from tapster.policy.config.values import Names
from tapster.policy.lint import check as check_module
from tapster.policy.lint.check import check_directory, check_files
from tapster.policy.lint.findings import Finding, Severity
from tapster.policy.lint.host import Host

NOBODY = 65534
RULE = '[[rules]]\nusers = ["root"]\nnetworks = ["lan"]\n'
LAN = "[networks.lan]\n"


@pytest.fixture
def etc() -> Iterator[Path]:
    """A configuration's directory that everyone may read; bridge.conf is empty."""
    path = Path(tempfile.mkdtemp(prefix="tapster-test-"))
    path.chmod(0o755)
    (path / "conf.d").mkdir(mode=0o755)
    write(path / "bridge.conf", "")
    write(
        path / "tapster.toml", f"[authorization]\nbridge_conf = '{path}/bridge.conf'\n"
    )
    yield path
    shutil.rmtree(path)


def write(path: Path, text: str, mode: int = 0o644) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def check(*arguments: str, **how: Any) -> subprocess.CompletedProcess[str]:
    return tapster("policy", "check", *arguments, broker="/nowhere", **how)


def lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The findings without their hints; nothing may have gone wrong."""
    assert done.stderr == ""
    return [line for line in done.stdout.splitlines() if not line.startswith("  ")]


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for root's files")


# --- what is said, and how


@as_root
def test_a_configuration_in_order_is_counted(etc: Path) -> None:
    write(etc / "conf.d/1.toml", LAN + RULE)
    done = check("--config", str(etc))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "1 rule, 2 networks: nothing to report\n"
    done = check("--config", str(etc), "--json", "--strict")
    assert (done.returncode, done.stdout) == (0, "[]\n")


@as_root
def test_unknown_names_are_told_all_at_once(etc: Path) -> None:
    one, two = etc / "conf.d/1.toml", etc / "conf.d/2.toml"
    write(
        one,
        '[networks.lan]\n[networks.lan.reservations]\nw = {user = "no one"}\n'
        '[[rules]]\nusers = ["root", "no-body"]\nnetworks = ["lan"]\n',
    )
    write(
        two,
        '[[rules]]\nusers = ["no-body"]\ngroups = ["no-group", "root"]\n'
        'networks = ["lna", "lan"]\n',
    )
    done = check("--config", str(etc))
    assert done.returncode == 1
    assert lines(done) == [
        (
            f"{one}:3:6: error: reservations.w.user: there is no user 'no one' "
            "[unknown-user]"
        ),
        f"{one}:5:18: error: users: there is no user 'no-body' [unknown-user]",
        f"{two}:2:10: error: users: there is no user 'no-body' [unknown-user]",
        f"{two}:3:11: error: groups: there is no group 'no-group' [unknown-group]",
        (
            f"{two}:4:13: error: networks: there is no network 'lna'; "
            "did you mean 'lan'? [unknown-network]"
        ),
    ]


@as_root
def test_what_is_no_toml_is_told_of_each_file(etc: Path) -> None:
    write(etc / "conf.d/1.toml", "[[rules]\n")
    write(etc / "conf.d/2.toml", "\nx = \n")
    write(etc / "conf.d/3.toml", '[[rules]]\nusers = ["no-body"]\n')
    found = lines(check("--config", str(etc)))
    assert [line.partition(": ")[0] for line in found] == [
        f"{etc}/conf.d/1.toml:1:8",
        f"{etc}/conf.d/2.toml:2:5",
        f"{etc}/conf.d/3.toml:2:10",
    ]


@as_root
def test_the_reader_s_first_error_is_told_beside_unknown_names(etc: Path) -> None:
    write(etc / "conf.d/1.toml", '[[rules]]\nusers = ["no-body"]\nmax_nics = 0\n')
    write(etc / "conf.d/2.toml", "[networks.lan]\nmdoe = 'nat'\n")
    done = check("--config", str(etc))
    assert done.returncode == 1
    assert lines(done) == [
        (
            f"{etc}/conf.d/1.toml:2:10: error: users: there is no user 'no-body' "
            "[unknown-user]"
        ),
        f"{etc}/conf.d/1.toml:3:1: error: max_nics: 0 is not from 1 to 10000 [invalid]",
    ]


@as_root
def test_the_exit_status_is_about_errors_or_with_strict_warnings(etc: Path) -> None:
    write(etc / "conf.d/1.toml", LAN)
    done = check("--config", str(etc))
    assert done.returncode == 0
    assert done.stdout == (
        f"{etc}/conf.d/1.toml:1:11: warning: nobody may use network lan: no rule "
        'allows it [closed-network]\n  add a rule with networks = ["lan"]\n'
    )
    assert check("--config", str(etc), "--strict").returncode == 1
    write(etc / "conf.d/1.toml", RULE.replace('["root"]', '["root", 0]') + LAN)
    done = check("--config", str(etc), "--strict")
    assert (done.returncode, len(lines(done))) == (0, 1)
    assert ": note: 0 is user 'root' again " in done.stdout


@as_root
def test_json_has_all_fields_of_a_finding(etc: Path) -> None:
    write(etc / "conf.d/1.toml", LAN + RULE + RULE)
    done = check("--config", str(etc), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert json.loads(done.stdout) == [
        {
            "severity": "warning",
            "code": "never-matches",
            "message": f"this rule can never match: {etc}/conf.d/1.toml:2 decides all "
            "that it is about",
            "file": f"{etc}/conf.d/1.toml",
            "line": 5,
            "column": 3,
            "hint": "put it first, or remove it: the first rule that matches decides",
            "related": [f"{etc}/conf.d/1.toml:2"],
        }
    ]


def test_a_finding_cannot_command_a_terminal() -> None:
    finding = Finding(
        Severity.NOTE, "x", "a\x1b[31m\nb", "f\n", 1, hint="c\x07d\n", related=()
    )
    assert policy.describe(finding) == "f?:1: note: a?[31m?b [x]\n  c?d?"
    assert policy.words(finding)["severity"] == "note"
    assert policy.describe(Finding(Severity.ERROR, "x", "a")) == "error: a [x]"


# --- other files


@as_root
def test_bridge_conf_and_lxc_usernet_are_looked_at(etc: Path) -> None:
    write(etc / "bridge.conf", "allow br0\nallow\n", 0o666)
    write(etc / "usernet", "no-body tap br0 1\n")
    text = f"authorization.lxc_usernet = '{etc}/usernet'\n"
    write(etc / "conf.d/1.toml", text)
    done = check("--config", str(etc))
    assert done.returncode == 1
    found = [line for line in lines(done) if "no-such-bridge" not in line]
    assert [line.partition(": ")[0].removeprefix(f"{etc}/") for line in found] == [
        "bridge.conf",
        "bridge.conf:2",
        "usernet:1",
    ]
    (etc / "usernet").chmod(0o666)
    (last,) = [line for line in lines(check("--config", str(etc))) if "usernet" in line]
    assert last.startswith(f"{etc}/usernet: error: others than root may write to it")
    for name in ("usernet", "bridge.conf"):
        (etc / name).unlink()
    found = lines(check("--config", str(etc)))
    assert found == [
        (
            f"{etc}/tapster.toml:2:1: warning: there is no file {etc}/bridge.conf "
            "[no-such-file]"
        ),
        (
            f"{etc}/conf.d/1.toml:1:15: warning: there is no file {etc}/usernet "
            "[no-such-file]"
        ),
    ]


@as_root
def test_what_bridge_conf_says_of_rules(etc: Path) -> None:
    write(etc / "bridge.conf", "deny lo\nallow lo2\n")
    deny = '[[rules]]\nnetworks = ["lan"]\nusers = ["daemon"]\neffect = "deny"\n'
    text = f'{RULE}bridges = ["lo"]\n{deny}[networks.lan]\nmode = "bridge"\n'
    write(etc / "conf.d/1.toml", f'{text}bridge = "lo2"\n')
    found = lines(check("--config", str(etc)))
    codes = [line.rpartition(" ")[2] for line in found if "bridge.conf" not in line]
    assert "[way-around]" in codes
    (denied,) = [line for line in found if line.endswith("[denied-bridge]")]
    assert denied.startswith(f"{etc}/conf.d/1.toml:4:12: warning: {etc}/bridge.conf:1 ")


# --- drafts


@as_root
def test_drafts_are_all_there_is_in_their_order(etc: Path) -> None:
    one, two = write(etc / "one", RULE), write(etc / "two", LAN)
    conf = str(etc / "tapster.toml")
    done = check(conf, one, two, "--json")
    assert [f for f in json.loads(done.stdout) if f["severity"] != "note"] == []
    done = check(conf, one, "--json")
    assert [f["code"] for f in json.loads(done.stdout) if f["severity"] == "error"] == [
        "unknown-network"
    ]


def test_a_draft_may_come_on_the_standard_input(etc: Path) -> None:
    conf = (etc / "tapster.toml").read_text()
    done = check("-", stdin=None, input=conf + LAN)
    assert lines(done)[0].startswith(
        "<stdin>:3:11: warning: nobody may use network lan"
    )
    done = check("-", stdin=None, input="\udcff", errors="surrogateescape")
    assert done.returncode == 1
    assert lines(done) == ["<stdin>: error: not UTF-8 [refused-file]"]


@pytest.mark.parametrize("kind", ["none", "directory", "fifo", "below a file"])
def test_what_cannot_be_read_is_no_draft(etc: Path, kind: str) -> None:
    path = etc / "draft"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)  # nobody will ever write to it
    elif kind == "below a file":
        path = etc / "tapster.toml" / "x"
    done = check(str(path), str(etc / "tapster.toml"))
    assert done.returncode == 1
    (line,) = (line for line in lines(done) if "error" in line)
    assert line.startswith(
        f"{path.parent if kind == 'below a file' else path}: error: "
    )


# --- whose files they are


@as_root
def test_root_is_told_what_its_broker_refuses(etc: Path) -> None:
    write(etc / "conf.d/1.toml", "", 0o664)
    done = check("--config", str(etc))
    assert (done.returncode, done.stdout.splitlines()) == (
        1,
        [
            (
                f"{etc}/conf.d/1.toml: error: others than root may write to it "
                "(mode 0664) [refused-file]"
            ),
            f"  chmod go-w {etc}/conf.d/1.toml",
        ],
    )
    # A draft may be anybody's.
    conf = str(etc / "tapster.toml")
    done = check(conf, str(etc / "conf.d/1.toml"))
    assert (done.returncode, len(lines(done))) == (0, 1)
    assert "1.toml: note: others may write to it (mode 0664): a broker" in done.stdout


@as_root
def test_others_are_told_what_root_s_broker_would_refuse(etc: Path) -> None:
    draft = write(etc / "draft", "")
    os.chown(draft, NOBODY, NOBODY)
    write(etc / "conf.d/1.toml", "", 0o666)
    done = check(str(etc / "tapster.toml"), draft, **unprivileged())
    assert (done.returncode, lines(done)) == (
        0,
        [
            (
                f"{draft}: note: it belongs to uid {NOBODY}, not to root: a broker "
                "that runs as root refuses it [refused-file]"
            )
        ],
    )
    done = check("--config", str(etc), **unprivileged())
    assert (done.returncode, len(lines(done))) == (0, 1)
    (etc / "conf.d/1.toml").chmod(0o600)
    done = check("--config", str(etc), **unprivileged())
    assert done.returncode == 1
    assert lines(done) == [
        f"{etc}/conf.d/1.toml: error: Permission denied [refused-file]"
    ]


@as_root
def test_others_are_told_what_they_may_not_read(etc: Path) -> None:
    write(etc / "secret", "deny br0\n", 0o600)
    write(etc / "bridge.conf", f"include {etc}/secret\n")
    write(etc / "usernet", "", 0o600)
    write(etc / "conf.d/1.toml", f"authorization.lxc_usernet = '{etc}/usernet'\n")
    found = lines(check("--config", str(etc), **unprivileged()))
    told = ": note: not checked, as you may not read it"
    assert [line.partition(told)[0] for line in found] == [
        f"{etc}/bridge.conf:1",
        f"{etc}/usernet",
    ]
    assert lines(check("--config", str(etc))) == [
        (
            f"{etc}/secret:1: note: there is no Linux bridge 'br0' on this host "
            "[no-such-bridge]"
        )
    ]


@pytest.mark.parametrize("system", [True, False])
def test_the_system_s_configuration_has_to_be_root_s(
    etc: Path, monkeypatch: pytest.MonkeyPatch, system: bool
) -> None:
    """Anybody who checks it is told so; another one may be a user's own broker's."""
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
    if system:
        monkeypatch.setattr(check_module, "DEFAULT_DIRECTORY", str(etc))
    (etc / "conf.d").chmod(0o775)
    found = [f for f in check_directory(f"{etc}/", HOST).findings if f.file]
    (drop_ins,) = [f for f in found if f.file and f.file.endswith("conf.d")]
    assert drop_ins.severity is (Severity.ERROR if system else Severity.NOTE)
    assert drop_ins.message.endswith("a broker that runs as root refuses it")


def unprivileged() -> dict[str, Any]:
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []}


def test_a_directory_without_files_is_not_what_was_meant(etc: Path) -> None:
    (etc / "tapster.toml").unlink()
    for path in (etc, etc / "nowhere"):
        found = lines(check("--config", str(path)))
        assert found[0] == (
            f"{path}: warning: there is neither tapster.toml nor any conf.d/*.toml "
            "[no-files]"
        )


# --- it is the broker's reader

PARTS = st.sampled_from(
    [
        LAN, '[networks.lan]\nmode = "bridge"\n', "[networks.x]\nmtu=1\n", RULE,
        '[[rules]]\nnetworks = ["x"]\n', '[[rules]]\nusers = ["a"]\n',
        '[[rules]]\nusers = ["a\\u0000"]\nnetworks = ["*"]\n',
        '[[rules]]\ngroups = ["root", 7]\nnetworks = ["default"]\neffect = "deny"\n',
        "rules = 1\n", "rules = [1]\n", "[[rules]]\nusers = [[1]]\n", "networks = 1\n",
        "[networks]\nx = 1\n", "[networks.x]\nreservations = 1\n", "[[networks]]\n",
        '[networks.x.reservations]\na = {user = "a"}\n', "[x]\n", "x =\n", "# x\n",
    ]
)  # fmt: skip
FAKE = Names({"root": 0}.__getitem__, {"root": 0}.__getitem__)
HOST = Host(FAKE, lambda _: True, lambda _: True, lambda _: None, lambda _: True)


@settings(max_examples=3 * settings().max_examples, deadline=None)
@given(st.lists(PARTS, max_size=4).map("".join))
def test_an_error_is_what_the_broker_refuses(text: str) -> None:
    text = f"authorization.bridge_conf = '/nowhere/x'\n{text}"
    try:
        parse([("<stdin>", text)], FAKE)
        first = None
    except ConfigError as error:
        first = error.message
    found = check_files(["-"], HOST, text.encode)
    errors = [f for f in found.findings if f.severity is Severity.ERROR]
    assert bool(errors) is (first is not None)
    if first is not None:
        assert first in [f"{error.location}: {error.message}" for error in errors]


# --- the command line


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["x"], ["--json"], ["check", "--config"], ["check", "--conf", "x"],
        ["check", "--config", "x", "y"], ["check", "-", "-"], ["check", "--rootless"],
    ],
)  # fmt: skip
def test_a_wrong_command_line_is_refused(arguments: list[str]) -> None:
    done = tapster("policy", *arguments, broker="/nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: tapster policy ")
