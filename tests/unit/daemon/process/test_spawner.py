# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.daemon.process.spawner`: what it answers, and what ends it."""

from __future__ import annotations

import ast
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from support.spawned import Spawned
from tapster.daemon.process import spawner

BRIDGE = "tapbr0a1b2c3d"


@pytest.mark.parametrize("words", [
    ("exec", "1", "/bin/sh"), ("", ""), ("hook",), ("hook", "1", "a", "1", "x"),
    ("dnsmasq",), ("\xff",), ("dnsmasq", "1", BRIDGE, "more"),
])  # fmt: skip
def test_an_unknown_request_is_refused(
    spawned: Spawned, words: tuple[str, ...]
) -> None:
    assert spawned.ask(*words)[0] == "refused"


def test_the_program_of_a_process_is_told(spawned: Spawned) -> None:
    for _ in range(3):
        with_fd = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY)
        socket.send_fds(spawned.questions, [b"?"], [with_fd])
        os.close(with_fd)
        assert spawned.questions.recv(4096).decode() == os.readlink("/proc/self/exe")
    spawned.questions.send(b"?")
    assert spawned.questions.recv(4096) == b"\0"


def test_signals_of_a_terminal_do_not_end_it(spawned: Spawned) -> None:
    assert spawned.ask("x", "1")[0] == "refused"  # it is up
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        spawned.process.send_signal(number)
    assert spawned.ask("x", "1")[0] == "refused"


def test_the_spawner_is_of_the_standard_library_and_its_own_modules() -> None:
    """It is to be small, and what it does not have cannot be used against it."""
    folder = Path(spawner.__file__).parent
    for path in (folder / "spawner.py", *(folder / "spawned").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [str(node.module)]
            else:
                continue
            for name in names:
                known = name.partition(".")[0] in sys.stdlib_module_names
                assert known or name == "tapster.daemon.process.spawned", path
