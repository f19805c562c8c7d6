# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.daemon.process.programs`: what is asked of the spawner, and what becomes
of its answers. The test is the spawner."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tapster.daemon.process.programs import Ended, Programs
from tapster.daemon.process.spawner_process import SpawnerProcess
from tapster.errors import BrokerFailure

pytestmark = pytest.mark.usefixtures("no_leaked_fd")


class FakeSpawner:
    """The spawner's ends of the sockets."""

    def __init__(self) -> None:
        kind = socket.AF_UNIX, socket.SOCK_SEQPACKET
        ours, self.control = socket.socketpair(*kind)
        questions, self.questions = socket.socketpair(*kind)
        self.process = SpawnerProcess(os.getpid(), ours, questions, None)
        self.control.setblocking(False)

    async def request(self) -> list[str]:
        """The next request; descriptors that come with it are closed."""
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self.control, 65536, 8)
                break
            except BlockingIOError:
                await asyncio.sleep(0.001)
        for fd in fds:
            os.close(fd)
        return data.decode().split("\0")

    def answer(self, *words: str, fds: tuple[int, ...] = ()) -> None:
        socket.send_fds(self.control, ["\0".join(words).encode()], list(fds))

    def answer_started(self, number: str) -> None:
        pidfd = os.pidfd_open(os.getpid())
        self.answer("started", number, str(os.getpid()), fds=(pidfd,))
        os.close(pidfd)

    def close(self) -> None:
        process = self.process
        for sock in (
            *(self.control, self.questions),
            *(process.control, process.questions),
        ):
            sock.close()


Play = Callable[[FakeSpawner, Programs, list[str]], Awaitable[None]]


def play(scene: Play) -> list[str]:
    """:returns: "lost" once for each time that the loss of the spawner was told."""
    told: list[str] = []

    async def run() -> None:
        spawner = FakeSpawner()
        try:
            programs = Programs(spawner.process, lambda: told.append("lost"))
            await asyncio.wait_for(scene(spawner, programs, told), 10)
            asyncio.get_running_loop().remove_reader(spawner.process.control)
        finally:
            spawner.close()

    asyncio.run(run())
    return told


def start_hook(programs: Programs, name: str = "10-a") -> asyncio.Task[Any]:
    null = os.open(os.devnull, os.O_RDWR)

    async def start() -> Any:
        try:
            return await programs.start_hook(
                name, "attach", {"TAPSTER_X": "y"}, 2.5, (null, null, null)
            )
        finally:
            os.close(null)

    return asyncio.create_task(start())


def test_a_hook_is_started_and_its_end_is_told() -> None:
    async def scene(spawner: FakeSpawner, programs: Programs, _: list[str]) -> None:
        starting = start_hook(programs)
        request = await spawner.request()
        assert request == ["hook", "1", "10-a", "2.500", "attach", "TAPSTER_X=y"]
        spawner.answer_started("1")
        hook = await starting
        os.close(hook.pidfd)
        assert hook.pid == os.getpid() and not hook.ended.done()
        spawner.answer("ended", "1", "3", "late")
        assert await hook.ended == Ended(3, True)

    assert play(scene) == []


def test_dnsmasq_is_started_for_a_bridge() -> None:
    async def scene(spawner: FakeSpawner, programs: Programs, _: list[str]) -> None:
        starting = asyncio.create_task(programs.start_dnsmasq("tapbr0"))
        assert await spawner.request() == ["dnsmasq", "1", "tapbr0"]
        spawner.answer_started("1")
        process = await starting
        assert process.pid == os.getpid()
        process.close()

    play(scene)


def test_a_refusal_says_why() -> None:
    async def scene(spawner: FakeSpawner, programs: Programs, _: list[str]) -> None:
        starting = asyncio.create_task(programs.start_dnsmasq("tapbr0"))
        await spawner.request()
        spawner.answer("refused", "1", "not installed")
        with pytest.raises(BrokerFailure, match="not installed"):
            await starting

    play(scene)


def test_a_program_without_a_pidfd_is_ended() -> None:
    async def scene(spawner: FakeSpawner, programs: Programs, _: list[str]) -> None:
        starting = start_hook(programs)
        await spawner.request()
        spawner.answer("started", "1", "4711")
        with pytest.raises(BrokerFailure, match="no descriptor"):
            await starting
        assert await spawner.request() == ["end", "1"]

    play(scene)


def test_a_program_that_nobody_waits_for_any_more_is_ended() -> None:
    async def scene(spawner: FakeSpawner, programs: Programs, _: list[str]) -> None:
        starting = start_hook(programs)
        await spawner.request()
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        spawner.answer_started("1")
        assert await spawner.request() == ["end", "1"]

    play(scene)


def test_a_nul_cannot_be_told_to_a_program() -> None:
    async def scene(_: FakeSpawner, programs: Programs, __: list[str]) -> None:
        with pytest.raises(BrokerFailure, match="NUL"):
            await start_hook(programs, "10-a\0b")

    play(scene)


def test_what_waits_for_a_spawner_that_dies_fails() -> None:
    async def scene(spawner: FakeSpawner, programs: Programs, told: list[str]) -> None:
        starting = start_hook(programs)
        await spawner.request()
        spawner.answer_started("1")
        hook = await starting
        os.close(hook.pidfd)
        waiting = asyncio.create_task(programs.start_dnsmasq("tapbr0"))
        await spawner.request()
        spawner.control.close()
        with pytest.raises(BrokerFailure, match="has died"):
            await waiting
        with pytest.raises(BrokerFailure, match="has died"):
            await hook.ended
        assert programs.is_lost and told == ["lost"]
        with pytest.raises(BrokerFailure, match="the broker ends"):
            await programs.start_dnsmasq("tapbr0")

    assert play(scene) == ["lost"]


@pytest.mark.parametrize(
    ("answer", "path"), [(b"/bin/sh", "/bin/sh"), (b"\0", None), (b"", None)]
)
def test_the_program_of_a_process_is_asked_for(answer: bytes, path: str | None) -> None:
    async def scene(spawner: FakeSpawner, programs: Programs, _: list[str]) -> None:
        spawner.questions.send(answer)
        assert programs.executable(spawner.control.fileno()) == path
        fds = socket.recv_fds(spawner.questions, 10, 2)[1]
        os.close(fds[0])

    play(scene)


def test_after_a_late_answer_no_more_questions_are_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene(spawner: FakeSpawner, programs: Programs, _: list[str]) -> None:
        spawner.process.questions.settimeout(0.01)
        assert programs.executable(spawner.control.fileno()) is None
        fds = socket.recv_fds(spawner.questions, 10, 2)[1]
        os.close(fds[0])
        assert programs.executable(spawner.control.fileno()) is None
        assert spawner.questions.recv(10) == b""

    play(scene)
