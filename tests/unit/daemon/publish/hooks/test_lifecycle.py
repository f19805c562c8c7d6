# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hooks/lifecycle.py` and `order.py`: in which order, and how often.

Programs are run by nobody here: a test says when each has ended, and how.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest

from support.builders import make_nic
from tapster.daemon.audit.events import Events
from tapster.daemon.nics.nic import Nic
from tapster.daemon.process.programs import Ended, Hook
from tapster.daemon.publish.hooks import lifecycle as hooks_module
from tapster.daemon.publish.hooks.lifecycle import Hooks, RefusedByHook
from tapster.daemon.publish.hooks.pending import PendingEnds
from tapster.errors import BrokerFailure
from tapster.policy.config.current import CurrentConfig
from tapster.policy.config.load import Config, HookSettings

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can make files that are root's"
)


async def turns(number: int = 20) -> None:
    """Let everybody go on who can."""
    for _ in range(number):
        await asyncio.sleep(0)


def nic(ifname: str, name: str = "web") -> Nic:
    return make_nic(ifname=ifname, name=name, bridge="br0", network=None)


class FakePrograms:
    """Has as many hooks running as were started and not ended."""

    def __init__(self) -> None:
        self.is_lost = False
        self.started: list[str] = []  # "hook event device", in order
        self.running: dict[str, asyncio.Future[Ended]] = {}
        self.by_itself: Ended | None = Ended(0, False)  # how each ends at once

    async def start_hook(
        self,
        name: str,
        argument: str,
        environment: Mapping[str, str],
        seconds: float,
        fds: tuple[int, int, int],
    ) -> Hook:
        device = environment.get("TAPSTER_IFNAME", environment["TAPSTER_BRIDGE"])
        again = " again" if "TAPSTER_AGAIN" in environment else ""
        what = f"{name} {argument} {device}{again}"
        self.started.append(what)
        ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        if self.by_itself is None:
            self.running[what] = ended
        else:
            ended.set_result(self.by_itself)
        return Hook(1, os.open(os.devnull, os.O_RDONLY), ended)

    def end(self, what: str, status: int = 0) -> None:
        self.running.pop(what).set_result(Ended(status, False))


class World:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.programs = FakePrograms()
        self.current = CurrentConfig(Config())
        self.runtime = directory / "runtime"
        (directory / "hooks.d").mkdir()
        for path in (directory, directory / "hooks.d"):
            path.chmod(0o755)
        self.hooks = self.again()

    def again(self) -> Hooks:
        """Another broker's, of the same directories."""
        self.hooks = Hooks(
            str(self.directory),
            str(self.runtime),
            self.programs,  # type: ignore[arg-type]
            Events(),
            self.current,
        )
        return self.hooks

    def hook(self, name: str) -> Path:
        path = self.directory / "hooks.d" / name
        path.write_text("#!/bin/true\n")
        path.chmod(0o755)
        return path

    @property
    def started(self) -> list[str]:
        return self.programs.started

    def pending(self) -> list[str]:
        ends = PendingEnds(str(self.runtime / "hooks-due"))
        return [end.device for end in ends.all()]


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.hook("a")
    return made


Story = Callable[[World], Awaitable[None]]


def told(story: Story) -> Callable[[World], None]:
    """A test that is a coroutine."""

    def run(world: World) -> None:
        asyncio.run(story(world))  # type: ignore[arg-type]

    run.__name__, run.__doc__ = story.__name__, story.__doc__
    return run


@told
async def test_a_hook_that_heard_of_an_attach_hears_of_its_end_once(
    world: World,
) -> None:
    world.hook("b")
    one = nic("tap1")
    await world.hooks.attach(one)
    assert world.started == ["a attach tap1", "b attach tap1"] and world.pending() == [
        "tap1"
    ]
    world.hooks.gone(one)
    await world.hooks.ended(one)
    assert (
        world.started[2:] == ["a detach tap1", "b detach tap1"]
        and world.pending() == []
    )
    world.hooks.gone(one)  # nobody is told twice
    await turns()
    assert len(world.started) == 4
    # And nothing is kept of it.
    hooks, order = world.hooks, world.hooks._order
    assert not any((hooks._lifetimes, order._last, order._tasks, hooks._repeats))


@told
async def test_a_hook_that_comes_later_hears_of_no_detach(world: World) -> None:
    (world.directory / "hooks.d/a").unlink()
    one = nic("tap1")
    await world.hooks.attach(one)
    world.hook("a")
    world.hooks.gone(one)
    await turns()
    assert world.started == [] and not world.runtime.exists()


@told
async def test_no_hook_runs_after_one_that_refuses(world: World) -> None:
    world.hook("b")
    world.programs.by_itself = Ended(3, False)
    one = nic("tap1")
    with pytest.raises(RefusedByHook) as caught:
        await world.hooks.attach(one)
    assert caught.value.detail == "hook a: ended with status 3"
    world.hooks.gone(one)
    await world.hooks.ended(one)
    assert world.started == ["a attach tap1", "a detach tap1"] and world.pending() == []


@told
async def test_a_detach_comes_before_the_next_attach_of_that_name(
    world: World,
) -> None:
    one, two, other = nic("tap1"), nic("tap2"), nic("tap3", "db")
    await world.hooks.attach(one)
    world.programs.by_itself = None
    world.hooks.gone(one)
    second = asyncio.ensure_future(world.hooks.attach(two))
    third = asyncio.ensure_future(world.hooks.attach(other))
    await turns()
    assert world.started[1:] == ["a attach tap3", "a detach tap1"]
    world.programs.end("a detach tap1")
    await turns()
    assert world.started[3:] == ["a attach tap2"]
    world.programs.end("a attach tap2")
    world.programs.end("a attach tap3")
    await asyncio.gather(second, third)


@told
async def test_hooks_hear_nothing_of_a_nic_that_goes_before_them(
    world: World,
) -> None:
    one, two = nic("tap1"), nic("tap2")
    await world.hooks.attach(one)
    world.programs.by_itself = None
    world.hooks.gone(one)
    second = asyncio.ensure_future(world.hooks.attach(two))
    await turns()
    world.hooks.gone(two)
    world.programs.end("a detach tap1")
    await second  # that it is gone is known to whoever asked
    await turns()
    assert world.started == ["a attach tap1", "a detach tap1"] and world.pending() == []


@told
async def test_the_next_broker_tells_the_pending_ends(world: World) -> None:
    world.hook("b")
    one, two = nic("tap1"), nic("tap2", "db")
    await world.hooks.attach(one)
    await world.hooks.attach(two)
    world.started.clear()
    world.again().recall({"tap2"})
    await turns(50)
    assert world.started == ["a detach tap1", "b detach tap1"] and world.pending() == [
        "tap2"
    ]
    world.hooks.gone(two)
    await world.hooks.ended(two)
    assert (
        world.started[2:] == ["a detach tap2", "b detach tap2"]
        and world.pending() == []
    )


@told
async def test_a_detach_that_was_cut_off_is_told_again(world: World) -> None:
    for name in ("b", "c"):
        world.hook(name)
    one = nic("tap1")
    await world.hooks.attach(one)
    world.hooks.gone(one)
    world.programs.by_itself = None
    world.started.clear()
    await turns()
    world.programs.end("a detach tap1")
    await turns()
    assert world.started == ["a detach tap1", "b detach tap1"]
    world.programs.by_itself = Ended(0, False)
    world.again().recall(())
    await turns(50)
    assert world.started[2:] == ["b detach tap1 again", "c detach tap1"]
    assert world.pending() == []


@told
async def test_an_end_that_a_lost_spawner_did_not_tell_is_pending(
    world: World,
) -> None:
    one = nic("tap1")
    await world.hooks.attach(one)
    world.programs.is_lost = True
    world.hooks.gone(one)
    await world.hooks.ended(one)
    assert world.pending() == ["tap1"]


@told
async def test_a_broker_that_ends_leaves_the_rest_to_the_next(world: World) -> None:
    one = nic("tap1")
    await world.hooks.attach(one)
    world.programs.by_itself = None
    world.current.replace(Config(hooks=HookSettings(timeout_seconds=0)))
    world.hooks.gone(one)
    await turns()
    await world.hooks.close()
    with pytest.raises(BrokerFailure, match="the broker ends"):
        await world.hooks.attach(nic("tap2", "db"))
    await world.hooks.stop()
    assert world.pending() == ["tap1"]
    world.programs.by_itself = Ended(0, False)
    world.again().recall(())
    await turns(50)
    assert world.started[-1] == "a detach tap1 again" and world.pending() == []


@told
async def test_repeated_tampering_is_told_once_a_while(world: World) -> None:
    one = nic("tap1")
    for number in range(1000):
        world.hooks.tampered(one, f"reason {number}")
        await turns(1)
    assert world.started == ["a tamper tap1"]
    for _ in range(100):
        await asyncio.sleep(0.01)
        if len(world.started) > 1:
            break
    assert world.started == ["a tamper tap1"] * 2


@told
async def test_an_attach_whose_end_cannot_be_noted_is_refused(
    world: World,
) -> None:
    (world.runtime).mkdir()
    (world.runtime / "hooks-due").touch()
    with pytest.raises(RefusedByHook) as caught:
        await world.hooks.attach(nic("tap1"))
    assert "can't be noted down" in caught.value.detail
    assert world.started == []


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks_module, "_PAUSE", 0.3)
    monkeypatch.setattr(hooks_module, "_GRACE", 0.05)
