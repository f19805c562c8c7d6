# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.daemon.process.runtime_directory`: what is done when somebody cleans up."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tapster.daemon.process import runtime_directory
from tapster.daemon.process.runtime_directory import RuntimeDirectoryWatch


class World:
    """A runtime directory, and what the watch calls."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.calls: list[str] = []
        for name in ("nics", "networks"):
            (path / name).mkdir(parents=True)
        self.lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        self.save_error: OSError | None = None

    def save(self) -> None:
        self.calls.append("save")
        if self.save_error is not None:
            raise self.save_error

    def watch(self, change: Callable[[], object] = lambda: None) -> bool:
        """Watch for a few intervals.

        :param change: what happens to the directory meanwhile.
        :returns: whether it is lost.
        """

        async def run() -> bool:
            made = RuntimeDirectoryWatch(
                self.lock, str(self.path), self.save, lambda: self.calls.append("lost")
            )
            made.start()
            change()
            await asyncio.sleep(runtime_directory.INTERVAL * 5)
            made.stop()
            return made.is_lost

        return asyncio.run(run())


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(runtime_directory, "INTERVAL", 0.01)
    made = World(tmp_path / "run")
    yield made
    os.close(made.lock)


def test_a_directory_that_stays_is_left_alone(world: World) -> None:
    assert not world.watch()
    assert world.calls == []


def test_records_are_saved_before_the_loss_is_told(world: World) -> None:
    assert world.watch(lambda: shutil.rmtree(world.path))
    assert world.calls == ["save", "lost"]
    assert world.path.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("name", ["nics", "networks"])
def test_a_part_of_it_is_missed_too(world: World, name: str) -> None:
    assert world.watch(lambda: (world.path / name).rmdir())
    assert world.calls == ["save", "lost"]


def test_nothing_is_saved_where_another_broker_is(world: World) -> None:
    other: list[int] = []

    def replace() -> None:
        shutil.rmtree(world.path)
        world.path.mkdir()
        other.append(os.open(world.path / "lock", os.O_RDWR | os.O_CREAT, 0o600))
        fcntl.flock(other[0], fcntl.LOCK_EX)

    assert world.watch(replace)
    os.close(other[0])
    assert world.calls == ["lost"]


def test_the_loss_is_told_even_if_nothing_can_be_saved(world: World) -> None:
    world.save_error = OSError("no space")
    assert world.watch(lambda: shutil.rmtree(world.path))
    assert world.calls == ["save", "lost"]
