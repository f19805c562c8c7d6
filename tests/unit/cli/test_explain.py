# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster explain`: what is asked, how the answer reads, and the exit status."""

from __future__ import annotations

import json
import os
import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.broker import EXPLANATION, STEP, FakeBroker, encode, error, say
from support.command import tapster
from tapster import errors
from tapster.cli import explain
from tapster.client import attach as client

pytestmark = pytest.mark.usefixtures("no_leaked_fd")

RULE = EXPLANATION["rule"]
NOTHING: dict[str, str | None] = dict.fromkeys(explain.ASKED)
PASSED = {
    "place": "/etc/tapster/conf.d/10-lab.toml:12",
    "effect": "deny",
    "outcome": "not about\x1b this user",
}
FULL = {
    **EXPLANATION,
    "reason": f"allowed by {RULE}",
    "polkit": True,
    "network_max_nics": 20,
    "network_nics": 19,
    "steps": [PASSED, STEP],
    "notes": ["/etc/qemu/bridge.conf:3: od\nd", "more"],
}
DENIED = {
    **EXPLANATION,
    "allowed": False,
    "reason": f"denied by {RULE}",
    "max_nics": None,
    "nics": 0,
}
OVER = {
    **EXPLANATION,
    "allowed": False,
    "reason": "uid 1000 has 5 of 4 NICs",
    "nics": 5,
}
# What all but root are told where the answer is no.
WITHHELD = {
    **DENIED,
    "reason": "you may not use it, or it does not exist",
    "rule": None,
    "steps": [],
}


def answer(told: dict[str, Any]) -> bytes:
    return encode({"explanation": told})


def ask(
    path: str, told: dict[str, Any], *arguments: str
) -> tuple[int, list[str], dict[str, Any]]:
    """Status, lines and what was asked; of what else there is nothing."""
    with FakeBroker(path, say(answer(told)), say(encode({"tier": "system"}))) as broker:
        done = tapster("explain", *arguments, broker=path)
    assert done.stderr == ""
    assert broker.requests[0]["method"] == "io.tapster.Broker.Explain"
    lines = done.stdout.splitlines()
    return done.returncode, lines, broker.requests[0]["parameters"]


# What is asked ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        ("", {}),
        ("--user alice", {"user": "alice"}),
        ("--user 1000 --bridge br0", {"user": "1000", "bridge": "br0"}),
        (
            "--network lan --name web1 --mac 52:54:00:AB:00:01 --forward tcp/08080",
            {
                "network": "lan",
                "name": "web1",
                "mac": "52:54:00:ab:00:01",
                "forward": "tcp/8080",
            },
        ),
    ],
)
def test_options_of_explain_are_the_request_that_is_asked_about(
    path: str, arguments: str, asked: dict[str, str]
) -> None:
    assert ask(path, EXPLANATION, *arguments.split())[2] == asked


@pytest.mark.parametrize(
    "arguments",
    [
        "--forward 8080",
        "--forward tcp/80-90",
        "--bridge br0 --forward tcp/8080",
        "--network lan --bridge br0",
        "web1",
        "--us alice",
    ],
)
def test_a_wrong_command_line_is_refused_before_anybody_is_asked(
    arguments: str,
) -> None:
    done = tapster("explain", *arguments.split(), broker="/nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(("usage: tapster explain ", "tapster: "))


def test_a_refusal_is_one_line_and_no_verdict(path: str) -> None:
    name = "io.tapster.Broker.NotAuthorized"
    no = error(name, message="only root may ask about other users", hint="use sudo")
    with FakeBroker(path, say(no)):
        done = tapster("explain", "--user", "bob", "--json", broker=path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "tapster: only root may ask about other users (use sudo)\n"


# How it reads -----------------------------------------------------------------


def test_root_is_told_the_rule_the_quota_and_every_step(path: str) -> None:
    status, lines, _ = ask(path, FULL, "--network", "lan", "--name", "web1")
    assert status == 0
    assert lines == [
        f"allowed by {RULE}",
        "  user     alice (uid 1000)",
        "  request  attach guest web1 to network lan",
        f"  rule     {RULE}",
        "  polkit   has to allow it, too",
        "  quota    1 of 4 NICs by that rule, 3 left",
        "  network  19 of 20 NICs of all users together, 1 left",
        "",
        "RULE                                EFFECT  OUTCOME",
        "/etc/tapster/conf.d/10-lab.toml:12  deny    not about? this user",
        "/etc/tapster/tapster.toml:7         allow   decides",
        "",
        "note: /etc/qemu/bridge.conf:3: od?d",
        "note: more",
    ]


def test_denial_is_shown_with_every_rule(path: str) -> None:
    status, lines, _ = ask(path, DENIED, "--bridge", "br0")
    assert status == 1
    assert lines[:4] == [
        f"denied by {RULE}",
        "  user     alice (uid 1000)",
        "  request  attach a guest to bridge br0",
        f"  rule     {RULE}",
    ]
    assert "sudo" not in "\n".join(lines)


def test_exceeded_quota_has_nothing_left(path: str) -> None:
    status, lines, _ = ask(path, OVER)
    assert status == 1
    assert lines[0] == "denied: uid 1000 has 5 of 4 NICs"
    assert "  quota    5 of 4 NICs by that rule, 0 left" in lines


def test_missing_quota_is_shown_as_no_limit(path: str) -> None:
    _, lines, _ = ask(path, {**EXPLANATION, "max_nics": None, "nics": 3})
    assert "  quota    3 NICs, without a limit" in lines


def test_forwarded_port_has_no_quota(path: str) -> None:
    told = {**FULL, "reason": f"tcp/80 allowed by {RULE}", "max_nics": None}
    status, lines, _ = ask(path, told, "--forward", "tcp/80")
    assert status == 0
    assert lines[0] == f"allowed: tcp/80 allowed by {RULE}"
    assert lines[2] == (
        "  request  forward tcp/80 of this host to a guest on the default network"
    )
    assert "NICs" not in "\n".join(lines)


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        ((4, 1, None, None), 3),
        ((4, 1, 20, 19), 1),
        ((None, 9, 20, 12), 8),
        ((4, 9, 20, 2), 0),
        ((None, 3, None, None), None),
    ],
)
@pytest.mark.parametrize("allowed", [True, False])
def test_json_has_the_words_of_the_wire_and_what_is_left(
    path: str, allowed: bool, limits: tuple[int | None, ...], left: int | None
) -> None:
    keys = ("max_nics", "nics", "network_max_nics", "network_nics")
    told = {**FULL, "allowed": allowed, **dict(zip(keys, limits, strict=True))}
    status, lines, _ = ask(path, {**told, "colour": "red"}, "--json")
    assert status == (0 if allowed else 1)
    assert json.loads("\n".join(lines)) == {**told, "colour": "red", "left": left}
    assert "\x1b" not in "".join(lines)
    _, lines, _ = ask(path, told, "--json", "--forward", "tcp/80")
    assert json.loads("\n".join(lines)) == {**told, "left": None}


# What is kept from a user -----------------------------------------------------


def withheld(
    path: str, *arguments: str, tier: str = "system", uid: int = 1000
) -> list[str]:
    """The lines for a user of that id, who is denied."""
    options = explain.parse(arguments)
    asked = {key: getattr(options, key) for key in explain.ASKED}
    lines = explain.describe(WITHHELD, asked)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: uid)
        patch.setenv("TAPSTER_SOCKET", path)
        if explain.is_withheld(WITHHELD):
            with FakeBroker(path, say(encode({"tier": tier}))):
                lines += explain.whom_to_ask(WITHHELD, asked, False).splitlines()
    return lines


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--network", "lan", "--name", "web1", "--forward", "tcp/80"],
        ["--bridge", "$(id) b'r\"", "--mac", "52:54:00:00:00:01"],
        ["--bridge=--json"],
    ],
)
def test_a_user_is_told_whom_to_ask_and_the_very_command(
    path: str, arguments: list[str]
) -> None:
    *rest, hint, command = withheld(path, *arguments)
    assert rest[0] == "denied: you may not use it, or it does not exist"
    assert not any("rule" in line or "quota" in line for line in rest)
    assert hint == "an administrator is told why by:"
    sudo, env, variable, program, name, *words = shlex.split(command)
    assert (sudo, env, program, name) == ("sudo", "env", "tapster", "explain")
    assert variable == f"TAPSTER_SOCKET={path}"
    options, before = explain.parse(words), explain.parse(arguments)
    assert options.user == "alice"
    before.user = "alice"
    assert options == before


def test_the_command_is_short_where_the_broker_is_the_systems(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TAPSTER_SOCKET", raising=False)
    monkeypatch.setattr(client, "get_info", lambda **_: {"tier": "system"})
    told = explain.whom_to_ask(WITHHELD, {**NOTHING, "network": "lan"}, False)
    assert told.splitlines()[-1] == "  sudo tapster explain --user alice --network lan"


def test_user_is_not_sent_to_anybody_about_the_own_broker(path: str) -> None:
    lines = withheld(path, tier="rootless")
    assert lines[-1] == "it is your own broker; tapsterd(8) says where its rules are"
    assert "sudo" not in "\n".join(lines)


def test_root_is_not_sent_to_root(path: str) -> None:
    assert "sudo" not in "\n".join(withheld(path, uid=0))


@pytest.mark.parametrize("told", [EXPLANATION, DENIED, OVER])
def test_user_who_is_told_why_is_not_sent_to_anybody(
    told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert not explain.is_withheld(told)


# Nonsense ---------------------------------------------------------------------

WORD = st.none() | st.text()
COUNT = st.none() | st.integers()


@given(
    st.fixed_dictionaries(
        {
            "user": st.text(),
            "uid": st.integers(),
            "allowed": st.booleans(),
            "reason": st.text(),
            "rule": WORD,
            "polkit": st.booleans(),
            "max_nics": COUNT,
            "nics": st.integers(),
            "network_max_nics": COUNT,
            "network_nics": COUNT,
            "steps": st.lists(
                st.fixed_dictionaries(dict.fromkeys(STEP, st.text())), max_size=3
            ),
            "notes": st.lists(st.text(), max_size=3),
        }
    ),
    st.fixed_dictionaries(dict.fromkeys(explain.ASKED, WORD)),
)
def test_any_explanation_is_shown_as_printable_lines(
    told: dict[str, Any], asked: dict[str, str | None]
) -> None:
    lines = explain.describe(told, asked)
    assert all(line.isprintable() for line in lines)
    assert lines[0].startswith("allowed" if told["allowed"] else "denied")
    left = explain.left_of(told)
    assert left is None or left >= 0


@given(st.text())
def test_any_port_is_asked_about_or_refused(text: str) -> None:
    try:
        options = explain.parse([f"--forward={text}"])
    except errors.UsageError as refusal:
        assert "\n" not in refusal.oneline()
        return
    assert options.forward.split("/")[0] in ("tcp", "udp")
