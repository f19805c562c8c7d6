# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster` itself: what is before the command, and how every command ends."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fakes.broker import ATTACHED, FORWARD, FakeBroker, Script, encode, say
from support.command import tapster, terminal
from tapster.cli import main as cli
from tapster.version import __version__


def test_version_is_the_packages() -> None:
    done = tapster("--version", broker=None)
    assert (done.returncode, done.stdout) == (0, f"tapster {__version__}\n")


@pytest.mark.parametrize("command", [[], *([name] for name in cli.COMMANDS)])
def test_help_goes_to_stdout_with_status_0(command: list[str]) -> None:
    done = tapster(*command, "--help", broker=None)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(" ".join(["usage: tapster", *command]))
    assert "\nexamples:\n" in done.stdout


WRONG = {
    "": [[], ["nope"], ["--vers"], ["-x"], [""], ["--"], ["--", "ls"]],
    "detach": [[], ["a", "b"], ["--json", "a"], ["--no", "a"]],
    "doctor": [["--js"], ["x"]],
    "forward": [[], ["x"], ["add"], ["add", "tcp/80"], ["rm"], ["ls", "tcp/80"]],
    "ls": [["--js"], ["x"], ["--json=1"]],
    "network": [
        [], ["x"], ["--json"], ["--", "ls"], ["ls", "x"], ["show"],
        ["reload", "--json"],
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("command", "arguments"),
    [(command, words) for command, lines in WRONG.items() for words in lines],
)
def test_wrong_command_line_has_status_2_and_asks_nobody(
    command: str, arguments: list[str]
) -> None:
    words = [command] if command else []
    done = tapster(*words, *arguments, broker="/nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(" ".join(["usage: tapster", *words, ""]))


@pytest.mark.parametrize(
    "line",
    [
        "detach web1",
        "events",
        "explain",
        "forward add tcp/80 web",
        "forward rm tcp/80",
        "network ls",
        "network show lan --json",
        "network reload",
    ],
)
def test_without_a_broker_a_command_is_an_error_and_starts_none(
    runtime: str, line: str
) -> None:
    done = tapster(*line.split(), broker=None)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "tapster: no broker is running\n"
    assert os.listdir(runtime) == []


def test_help_whose_reader_has_left_is_no_traceback() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    done = tapster("--help", broker=None, stdout=theirs)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_standard_streams_are_survived_by_every_command(closed: str) -> None:
    for arguments, status in (["--version"], 0), (["ls"], 1), (["nope"], 2):
        command = [sys.executable, "-m", "tapster.cli.main", *arguments]
        done = subprocess.run(
            ["sh", "-c", f'exec "$@" {closed}', "sh", *command],
            env={**os.environ, "TAPSTER_SOCKET": "/nowhere"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == status
        assert "Traceback" not in done.stderr


def test_nothing_of_other_commands_is_imported_for_one() -> None:
    code = "import sys; from tapster.cli.main import main; main(['ls', '--help'])"
    code += "; print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    others = {f"tapster.cli.{name}" for name in cli.COMMANDS if name != "ls"}
    absent = {
        "rich",
        "tapster.client.start",
        "tapster.client.manage",
        "tapster.cli.subcommands",
    }
    assert not (others | absent) & set(done.stderr.split())


# Commands about which a person may be asked, and what each is answered.
ASKING: list[tuple[list[str], list[Script]]] = [
    (["run", "true"], [say(ATTACHED, 1)]),
    (["detach", "tapster1"], [say(encode({"nics": []})), say(encode({}))]),
    (["network", "reload"], [say(encode({"changes": []}))]),
    (["forward", "add", "tcp/8080", "web"], [say(encode({"forward": FORWARD}))]),
    (["forward", "rm", "tcp/8080"], [say(encode({}))]),
]


@pytest.mark.parametrize(
    ("words", "scripts"), ASKING, ids=[" ".join(words[:2]) for words, _ in ASKING]
)
def test_polkit_may_ask_a_person_at_a_terminal_unless_told_not_to(
    path: str, tmp_path: Path, words: list[str], scripts: list[Script]
) -> None:
    quiet = [*words, "--no-ask"]
    if words[0] == "run":
        quiet = ["run", "--no-ask", *words[1:]]  # what is behind the VMM is its own
    # An agent for terminals, which says what it was started for.
    agent = tmp_path / "pkttyagent"
    agent.write_text(
        f'#!/bin/sh\necho $$ $* > {tmp_path}/agent\neval "exec $3>&-"\nexec sleep 60\n'
    )
    agent.chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    *before, last = scripts
    no = say(
        encode({"message": "no", "hint": None}, error="io.tapster.Broker.NotAuthorized")
    )
    with terminal() as stdin:
        for line, at in (quiet, stdin), (words, subprocess.DEVNULL):
            with FakeBroker(path, *before, no) as broker:
                done = tapster(*line, broker=path, stdin=at, env=env)
            assert (done.returncode, done.stderr) == (1, "tapster: no\n")
        assert not (tmp_path / "agent").exists()
        # Nobody is asked where nobody needs to be.
        with FakeBroker(path, *scripts) as broker:
            assert tapster(*words, broker=path, stdin=stdin, env=env).returncode == 0
        assert not any("interactive" in r["parameters"] for r in broker.requests)
        with FakeBroker(path, *before, no, last) as broker:
            done = tapster(*words, broker=path, stdin=stdin, env=env)
    assert done.returncode == 0, done.stderr
    *_, without, asked = (request["parameters"] for request in broker.requests)
    assert "interactive" not in without
    assert asked == {**without, "interactive": True}
    pid, *arguments = (tmp_path / "agent").read_text().split()
    assert arguments[:2] == ["--fallback", "--notify-fd"]
    assert arguments[3] == "--process"
    assert re.fullmatch(r"\d+,\d+", arguments[4])
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)  # it has ended


@pytest.mark.parametrize("words", [["ls"], ["explain"], ["forward", "ls"]])
def test_commands_that_only_look_never_ask_for_a_password(words: list[str]) -> None:
    done = tapster(*words, "--no-ask", broker="/nowhere")
    assert done.returncode == 2
