# SPDX-License-Identifier: LGPL-2.1-or-later
"""One dnsmasq a network, whatever comes at once: a reload, another one, the end
of the network. Another program stands in for dnsmasq."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from ipaddress import IPv4Network

import pytest

from tapster.kernel.process import Process
from tapster.networks import dnsmasq, dnsmasq_launch
from tapster.networks.dnsmasq_process import DnsmasqProcess

SETTINGS = dnsmasq.Settings(
    "tapbr0", IPv4Network("10.0.0.0/24"), None, "x.internal", 1500, "/none", (), None
)


class Launcher:
    """Signals; what is started is `Programs`'s."""

    user: str | None = None
    capabilities = 0

    async def start_dnsmasq(self, bridge: str) -> Process:
        raise NotImplementedError

    def signal(self, running: Process, number: signal.Signals) -> None:
        running.send_signal(number)


class Programs:
    """What was started; `alive` are those that run still."""

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[bytes]] = []
        self.alive_at_start: list[int] = []

    async def spawn(self, *_: object) -> Process:
        self.alive_at_start.append(len(self.alive))
        child = subprocess.Popen(["sleep", "600"])
        self.started.append(child)
        return Process(child.pid)

    @property
    def alive(self) -> list[int]:
        return [child.pid for child in self.started if child.poll() is None]


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Programs]:
    made = Programs()
    monkeypatch.setattr(dnsmasq_launch, "spawn", made.spawn)
    monkeypatch.setattr(dnsmasq, "prepare_directory", lambda _: None)
    yield made
    for child in made.started:
        child.kill()
        child.wait()


def run(work: Callable[[DnsmasqProcess], Awaitable[None]]) -> None:
    async def main() -> None:
        service = DnsmasqProcess(lambda: SETTINGS, Launcher())
        await service.start()
        async with asyncio.timeout(1):  # less than what a hung one is given to end
            await work(service)

    asyncio.run(main())


def test_restarts_at_the_same_time_leave_one_process(programs: Programs) -> None:
    async def work(service: DnsmasqProcess) -> None:
        await asyncio.gather(*(service.restart() for _ in range(3)))
        assert programs.alive == [service.pid]
        await service.stop()
        assert programs.alive == [] and not service.is_running

    run(work)
    assert set(programs.alive_at_start) == {0}  # never two that want one address


def test_restart_that_a_stop_overtakes_starts_no_process(programs: Programs) -> None:
    async def work(service: DnsmasqProcess) -> None:
        restarting = asyncio.create_task(service.restart())
        await asyncio.sleep(0)
        await service.stop()
        await restarting
        assert programs.alive == [] and not service.is_running

    run(work)


def test_restart_after_a_stop_starts_no_process(programs: Programs) -> None:
    async def work(service: DnsmasqProcess) -> None:
        await service.stop()
        await service.restart()
        assert programs.alive == [] and not service.is_running

    run(work)


def test_process_that_dies_during_a_restart_is_replaced_once(
    programs: Programs,
) -> None:
    async def work(service: DnsmasqProcess) -> None:
        programs.started[0].kill()
        await asyncio.gather(service.restart(), service.restart())
        assert programs.alive == [service.pid]
        await service.stop()

    run(work)
    assert set(programs.alive_at_start) == {0}
