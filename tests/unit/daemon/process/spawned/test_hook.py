# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.daemon.process.spawned.hook`: which files are run as hooks, and that all
they start ends with them."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.liar import claiming_to_be_large
from support.spawned import Spawned
from tapster.daemon.process.spawned import DEFAULT_PATH, hook

Run = Callable[..., list[str]]


def written(path: Path, text: str, mode: int = 0o755) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(mode)
    return path


@pytest.fixture
def run(spawned: Spawned, tmp_path: Path) -> Run:
    def ran(file: Path, *words: str, name: str = "", limit: str = "10") -> list[str]:
        with (
            file.open("rb") as executable,
            (tmp_path / "out").open("wb") as output,
            open(os.devnull, "rb") as null,
        ):
            fds = executable.fileno(), null.fileno(), output.fileno()
            words = ("7", name or file.name, limit, "attach", *words)
            return spawned.ask("hook", *words, fds=fds)

    return ran


def test_a_hook_is_run_and_its_end_is_told(
    run: Run, spawned: Spawned, hooks: Path, tmp_path: Path
) -> None:
    file = written(hooks / "it", 'echo "$1 $TAPSTER_X $PATH"; exit 3')
    assert run(file, "TAPSTER_X=y")[:2] == ["started", "7"]
    assert spawned.answer() == ["ended", "7", "3", ""]
    assert (tmp_path / "out").read_text() == f"attach y {DEFAULT_PATH}\n"


def test_a_hook_has_no_descriptor_but_its_own(
    run: Run, spawned: Spawned, hooks: Path, tmp_path: Path
) -> None:
    run(written(hooks / "it", "ls /proc/self/fd"))
    assert spawned.answer()[2] == "0"
    # Its script, which sh reads, and what ls looks at.
    assert (tmp_path / "out").read_text().split() == ["0", "1", "2", "3", "4"]


def test_a_late_hook_is_killed_with_all_that_it_started(
    run: Run, spawned: Spawned, hooks: Path, tmp_path: Path
) -> None:
    note = tmp_path / "pid"
    text = f"setsid sh -c 'echo $$ > {note}; exec sleep 99' & wait"
    mark = f"TAPSTER_RUN={tmp_path}/1"
    assert run(written(hooks / "it", text), mark, limit="0.5")[0] == "started"
    assert spawned.answer() == ["ended", "7", "-9", "late"]
    is_gone(int(note.read_text()))


def test_a_hook_ends_with_the_broker(
    run: Run, spawned: Spawned, hooks: Path, tmp_path: Path
) -> None:
    note = tmp_path / "pid"
    text = f"echo $$ > {note}.new; mv {note}.new {note}; sleep 99"
    run(written(hooks / "it", text))
    deadline = time.monotonic() + 10
    while not note.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    spawned.close()
    is_gone(int(note.read_text()))


def is_gone(pid: int) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([pidfd], [], [], 5)[0]
    finally:
        os.close(pidfd)


@pytest.mark.parametrize("limit", ["nan", "-1", "-inf", "soon"])
def test_a_hook_without_a_time_limit_is_refused(
    run: Run, hooks: Path, limit: str
) -> None:
    assert run(written(hooks / "it", "echo no"), limit=limit)[0] == "refused"


def test_a_file_outside_the_directory_is_refused(
    run: Run, tmp_path: Path, hooks: Path
) -> None:
    elsewhere = written(tmp_path / "it", "echo no")
    assert run(elsewhere)[0] == "refused"
    written(hooks / "it", "echo yes")
    assert run(elsewhere)[0] == "refused"  # another file than its name's
    assert run(Path("/bin/sh"), name="it")[0] == "refused"


def test_a_file_that_others_may_write_to_is_refused(run: Run, hooks: Path) -> None:
    assert run(written(hooks / "it", "true", 0o775))[0] == "refused"
    hooks.chmod(0o777)
    assert run(written(hooks / "at", "true"))[0] == "refused"


@pytest.mark.parametrize("name", ["../it", "a/b", ".it", "", "it\n", "x" * 65])
def test_a_name_that_is_not_a_hooks_is_refused(
    run: Run, hooks: Path, name: str
) -> None:
    assert run(written(hooks / "it", "true"), name=name or "/")[0] == "refused"


@pytest.mark.parametrize("word", [
    "LD_PRELOAD=/tmp/x", "PATH=/tmp", "TAPSTER_", "TAPSTER_a=b", "BASH_ENV=x", "=",
])  # fmt: skip
def test_a_variable_that_is_not_ours_is_refused(
    run: Run, hooks: Path, word: str
) -> None:
    assert run(written(hooks / "it", "true"), word)[0] == "refused"


def test_no_more_is_read_of_an_environment_than_a_process_can_be_given() -> None:
    with claiming_to_be_large(4 * hook.MAX_ENVIRONMENT) as pid:
        entries = hook._environment(str(pid))
    assert sum(map(len, entries)) + len(entries) - 1 == hook.MAX_ENVIRONMENT


def test_environments_of_other_users_are_not_even_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(hook, "_environment")
    assert list(hook.processes_with(bool, user=2**32 - 2)) == []
