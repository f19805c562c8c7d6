# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster` itself: what is before the command, and how every command ends."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fakes.broker import ATTACHED, FORWARD, FakeBroker, Script, encode, say
from support.command import tapster, terminal
from tapster.cli import main as cli
from tapster.version import __version__


def test_version() -> None:
    done = tapster("--version", broker=None)
    assert (done.returncode, done.stdout) == (0, f"tapster {__version__}\n")


@pytest.mark.parametrize("command", [[], *([name] for name in cli.COMMANDS)])
def test_help_is_for_stdout_and_no_error(command: list[str]) -> None:
    done = tapster(*command, "--help", broker=None)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(" ".join(["usage: tapster", *command]))
    assert "\nexamples:\n" in done.stdout


@pytest.mark.parametrize(
    "arguments", [[], ["nope"], ["--vers"], ["-x"], [""], ["--"], ["--", "ls"]]
)
def test_a_wrong_command_line_has_status_2(arguments: list[str]) -> None:
    done = tapster(*arguments, broker=None)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: tapster ")


def test_a_reader_of_the_help_that_has_left_is_no_news() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    done = tapster("--help", broker=None, stdout=theirs)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_standard_streams_are_survived(closed: str) -> None:
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


def test_a_command_is_all_that_is_imported_for_it() -> None:
    code = "import sys; from tapster.cli.main import main; main(['ls', '--help'])"
    code += "; print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    others = {f"tapster.cli.{name}" for name in cli.COMMANDS if name != "ls"}
    absent = {"rich", "tapster.start", "tapster.manage", "tapster.cli.subcommands"}
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
def test_polkit_may_ask_who_sits_at_a_terminal_and_lets_it(
    path: str, words: list[str], scripts: list[Script]
) -> None:
    quiet = [*words, "--no-ask"]
    if words[0] == "run":
        quiet = ["run", "--no-ask", *words[1:]]  # what is behind the VMM is its own
    sent = []
    with terminal() as stdin:
        for line, at in (words, stdin), (quiet, stdin), (words, subprocess.DEVNULL):
            with FakeBroker(path, *scripts) as broker:
                done = tapster(*line, broker=path, stdin=at)
            assert done.returncode == 0, done.stderr
            *before, last = (request["parameters"] for request in broker.requests)
            assert not any("interactive" in parameters for parameters in before)
            sent.append(last.get("interactive"))
    assert sent == [True, None, None]


@pytest.mark.parametrize("words", [["ls"], ["explain"], ["forward", "ls"]])
def test_who_only_looks_is_asked_nothing(words: list[str]) -> None:
    done = tapster(*words, "--no-ask", broker="/nowhere")
    assert done.returncode == 2
