# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.daemon.process.pasta`: which process a new supervisor takes for a pasta
that was left behind. pasta itself is in tests/kernel/test_rootless.py."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tapster.daemon.process import pasta

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a process that sleeps, with these words on its command line."""
    started: list[subprocess.Popen[bytes]] = []

    def sleeping(*words: str) -> subprocess.Popen[bytes]:
        code = "import sys, time; print(flush=True); time.sleep(99)"
        process = subprocess.Popen(
            [sys.executable, "-c", code, *words], stdout=subprocess.PIPE
        )
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    yield sleeping
    for process in started:
        process.kill()
        process.communicate()


def test_a_pasta_that_was_left_behind_is_killed(start: Start, tmp_path: Path) -> None:
    left = start("--pid", str(tmp_path / "pasta.pid"))
    (tmp_path / "pasta.pid").write_text(f"{left.pid}\n")
    pasta.kill_left_behind(str(tmp_path))
    assert left.wait(10) == -signal.SIGKILL


def test_another_process_that_has_its_pid_is_spared(
    start: Start, tmp_path: Path
) -> None:
    other = start("--pid", "/elsewhere/pasta.pid")
    (tmp_path / "pasta.pid").write_text(f"{other.pid}\n")
    pasta.kill_left_behind(str(tmp_path))
    assert other.poll() is None


@pytest.mark.parametrize("text", [None, "", "x", "-1", "99999999999"])
def test_without_a_pid_nothing_is_killed(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "pasta.pid").write_text(text)
    pasta.kill_left_behind(str(tmp_path))
