# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hooks/runner.py`: what one run is given, and what is said of one that fails.

The programs that start hooks are not real here: tests/kernel/test_hooks.py has those.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from support.builders import make_nic
from tapster.daemon.process.programs import Ended, Hook
from tapster.daemon.publish.hooks import payload
from tapster.daemon.publish.hooks.discovery import HookDirectory
from tapster.daemon.publish.hooks.pending import PendingEnds
from tapster.daemon.publish.hooks.runner import HookRunner
from tapster.errors import BrokerFailure
from tapster.policy.config.current import CurrentConfig
from tapster.policy.config.load import Config, HookSettings

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can make files that are root's"
)

NIC = make_nic(ifname="tap1")


class FakePrograms:
    """Has each hook end at once."""

    def __init__(self) -> None:
        self.status = 0
        self.failure: Exception | None = None
        self.given: list[tuple[Any, ...]] = []

    async def start_hook(
        self,
        name: str,
        argument: str,
        environment: Mapping[str, str],
        seconds: float,
        fds: tuple[int, int, int],
    ) -> Hook:
        if self.failure is not None:
            raise self.failure
        self.given.append((name, argument, environment["TAPSTER_RUN"], seconds))
        os.write(fds[2], b"first\nlast\n")
        ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        ended.set_result(Ended(self.status, False))
        return Hook(1, os.open(os.devnull, os.O_RDONLY), ended)


@pytest.fixture
def programs() -> FakePrograms:
    return FakePrograms()


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    """Its hooks.d has one hook, "10-a"."""
    hook = tmp_path / "hooks.d" / "10-a"
    hook.parent.mkdir()
    hook.write_text("#!/bin/true\n")
    for path in (tmp_path, hook.parent, hook):
        path.chmod(0o755)
    return tmp_path


def run(
    programs: FakePrograms, configuration: Path | None, name: str = "10-a"
) -> str | None:
    runner = HookRunner(
        HookDirectory(str(configuration)) if configuration else None,
        cast(Any, programs),
        PendingEnds("/run/x/hooks-due"),
        CurrentConfig(Config(hooks=HookSettings(timeout_seconds=7))),
    )
    return asyncio.run(runner.run(name, payload.ATTACH, payload.of_nic(NIC)))


@pytest.mark.usefixtures("no_leaked_fd")
def test_a_run_has_its_event_its_mark_and_its_time(
    programs: FakePrograms, configuration: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert run(programs, configuration) is None
    mark = "/run/x/hooks-due/tap1/attach/10-a"
    assert programs.given == [("10-a", "attach", mark, 7)]
    assert "hook 10-a, attach of tap1: last" in caplog.text


@pytest.mark.usefixtures("no_leaked_fd")
def test_a_hook_that_fails_is_told_of_by_its_status_and_last_line(
    programs: FakePrograms, configuration: Path
) -> None:
    programs.status = 3
    assert run(programs, configuration) == "ended with status 3: last"


@pytest.mark.usefixtures("no_leaked_fd")
def test_a_hook_that_is_not_started_is_told_of(
    programs: FakePrograms, configuration: Path
) -> None:
    programs.failure = BrokerFailure("there is no process for it")
    problem = run(programs, configuration)
    assert problem == "not run: there is no process for it" and not programs.given


def test_a_hook_that_is_gone_is_told_of(
    programs: FakePrograms, configuration: Path
) -> None:
    problem = run(programs, configuration, "20-b")
    assert problem is not None and "20-b: No such file" in problem


def test_without_a_directory_no_hook_is_run(programs: FakePrograms) -> None:
    assert run(programs, None) == "not run: this broker has no hooks"
