# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.daemon.provision.stages`: all of it, or nothing of it."""

from __future__ import annotations

import logging

import pytest

from tapster.daemon.provision import stages
from tapster.daemon.provision.stages import Stage


class World:
    """Stages that write down what they do."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.fails: dict[str, BaseException] = {}

    def act(self, word: str) -> None:
        self.log.append(word)
        if word in self.fails:
            raise self.fails[word]

    def stages(self, *names: str) -> list[Stage]:
        return [
            Stage(
                name,
                lambda name=name: self.act(name),  # type: ignore[misc]
                lambda name=name: self.act(f"un{name}"),  # type: ignore[misc]
            )
            for name in names
        ]


@pytest.fixture
def world() -> World:
    return World()


def test_in_order(world: World) -> None:
    stages.run(world.stages("a", "b", "c"))
    assert world.log == ["a", "b", "c"]
    stages.run([])


@pytest.mark.parametrize("error", [OSError(), KeyboardInterrupt(), GeneratorExit()])
def test_what_was_done_is_taken_back(world: World, error: BaseException) -> None:
    world.fails["c"] = error
    with pytest.raises(type(error)) as caught:
        stages.run(world.stages("a", "b", "c", "d"))
    assert caught.value is error
    assert world.log == ["a", "b", "c", "unb", "una"]


def test_an_undo_that_fails_does_not_stop_the_others(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.fails = {"c": OSError("first"), "unb": OSError("second")}
    with pytest.raises(OSError, match="first"):
        stages.run(world.stages("a", "b", "c"))
    assert world.log == ["a", "b", "c", "unb", "una"]
    assert [r.getMessage() for r in caplog.records] == ["cannot undo b"]
    assert caplog.records[0].levelno == logging.ERROR


def test_reached_is_told_each_stage(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "reached", lambda name: world.log.append(f"-{name}"))
    stages.run(world.stages("a", "b"))
    assert world.log == ["a", "-a", "b", "-b"]


def test_a_stage_is_done_once_reached(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reached(name: str) -> None:
        if name == "b":
            raise OSError("after b")

    monkeypatch.setattr(stages, "reached", reached)
    with pytest.raises(OSError, match="after b"):
        stages.run(world.stages("a", "b", "c"))
    assert world.log == ["a", "b", "unb", "una"]
