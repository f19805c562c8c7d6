# SPDX-License-Identifier: LGPL-2.1-or-later
"""`daemon.server.hangup`, in a connection: a client that goes while its call waits
for somebody else is noticed, and one that does not go is answered.

Tasks start eagerly, as the daemon's do, and otherwise.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import select
import socket
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tapster.daemon.identify import caller, peer
from tapster.daemon.process import eager_tasks
from tapster.daemon.server import calls
from tapster.daemon.server.connection import Connection
from tapster.daemon.server.server_state import ServerState
from tapster.model import Peer
from tapster.policy.config.load import Limits

pytestmark = pytest.mark.usefixtures("no_leaked_fd")


def call(ifname: str = "x", **extra: object) -> bytes:
    message = {"method": "io.tapster.Broker.Detach", "parameters": {"ifname": ifname}}
    return json.dumps({**message, **extra}).encode() + b"\0"


class Waiting:
    """A service whose calls wait, first as if polkit were asked, then for good."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.callers: list[caller.Caller | None] = []
        self.asked: asyncio.Future[None]
        self.working: asyncio.Future[None]
        self.restart()

    def restart(self) -> None:
        loop = asyncio.get_running_loop()
        self.asked, self.working = loop.create_future(), loop.create_future()

    async def detach(self, peer: Peer, ifname: str, *_: object) -> None:
        self.callers.append(caller.of_this_call())
        await asyncio.sleep(0)
        client = caller.of_this_call()
        assert client is not None
        assert client.peer is peer
        try:
            self.log.append(f"ask {ifname}")
            with client.until_gone(self.asked):
                await asyncio.wait({self.asked})
            self.asked.result()
            self.log.append("work")
            await asyncio.shield(self.working)
            self.log.append("done")
        except asyncio.CancelledError:
            self.log.append("cancelled")
            raise


class Served:
    """A connection as the listener has them, and its client's end."""

    def __init__(self, service: Any) -> None:
        ours, self.client = socket.socketpair()
        self.client.setblocking(False)
        self.lost = asyncio.Event()
        ours.setblocking(False)
        self.connection = Connection(
            ours,
            peer.identify(ours),
            service,
            lambda _: self.lost.set(),
            ServerState(Limits()),
        )

    async def receive(self) -> bytes:
        loop = asyncio.get_running_loop()
        return await asyncio.wait_for(loop.sock_recv(self.client, 65536), 10)

    async def close(self) -> None:
        self.client.close()
        self.connection.abort()
        await asyncio.wait_for(self.lost.wait(), 10)
        await asyncio.sleep(0)


Body = Callable[[Waiting, Served], Awaitable[None]]
Run = Callable[[Body], None]


@pytest.fixture(params=[eager_tasks.factory, None], ids=["eager", "plain"])
def run(request: pytest.FixtureRequest) -> Run:
    def run_it(body: Body) -> None:
        async def whole() -> None:
            asyncio.get_running_loop().set_task_factory(request.param)
            service = Waiting()
            served = Served(service)
            try:
                await asyncio.wait_for(body(service, served), 30)
            finally:
                await served.close()

        asyncio.run(whole())

    return run_it


async def logged(service: Waiting, *lines: str) -> None:
    async with asyncio.timeout(10):
        while service.log != list(lines):
            await asyncio.sleep(0.001)


def test_a_client_that_goes_ends_its_call(run: Run) -> None:
    async def body(service: Waiting, served: Served) -> None:
        served.client.send(call())
        await logged(service, "ask x")
        served.client.close()
        await logged(service, "ask x", "cancelled")
        await asyncio.wait_for(served.lost.wait(), 10)
        running = served.connection._running
        assert running is None or running.done()

    run(body)


def test_a_client_that_goes_ends_its_call_whatever_it_had_sent_ahead(run: Run) -> None:
    async def body(service: Waiting, served: Served) -> None:
        served.client.send(call() + call("y") * 30 + b"half a mess")
        await logged(service, "ask x")
        served.client.send(call("z"))
        served.client.close()
        await asyncio.wait_for(served.lost.wait(), 10)
        await asyncio.sleep(0.05)
        assert service.log[:2] == ["ask x", "cancelled"]
        assert "work" not in service.log

    run(body)


def test_a_client_that_sends_no_more_still_gets_its_reply(run: Run) -> None:
    async def body(service: Waiting, served: Served) -> None:
        service.working.set_result(None)
        served.client.send(call())
        await logged(service, "ask x")
        served.client.shutdown(socket.SHUT_WR)
        await asyncio.sleep(0.05)
        service.asked.set_result(None)
        assert json.loads((await served.receive())[:-1]) == {}
        assert service.log == ["ask x", "work", "done"]

    run(body)


def test_a_call_is_cancelled_only_while_it_waits_for_others(run: Run) -> None:
    async def body(service: Waiting, served: Served) -> None:
        served.client.send(call())
        await logged(service, "ask x")
        service.asked.set_result(None)
        await logged(service, "ask x", "work")
        served.client.close()
        await asyncio.sleep(0.05)
        assert not served.lost.is_set()
        service.working.set_result(None)
        await logged(service, "ask x", "work", "done")

    run(body)


def test_a_client_that_was_gone_before_the_wait_is_noticed_at_once(run: Run) -> None:
    async def body(service: Waiting, served: Served) -> None:
        served.client.send(call())
        served.client.close()
        await logged(service, "ask x", "cancelled")

    run(body)


def test_nobody_is_asked_where_the_connection_is_lost(run: Run) -> None:
    async def body(service: Waiting, served: Served) -> None:
        served.connection.abort()
        with served.connection.until_gone(service.asked):
            assert service.asked.cancelled()

    run(body)


def test_a_hang_up_is_watched_for_each_call_that_waits(run: Run) -> None:
    async def body(service: Waiting, served: Served) -> None:
        for name in ("x", "y"):
            service.restart()
            service.working.set_result(None)
            served.client.send(call(name))
            await logged(service, f"ask {name}")
            service.asked.set_result(None)
            assert json.loads((await served.receive())[:-1]) == {}
            service.log.clear()
        # It is the transport's again to notice, which reads what there is first.
        assert not served.connection._hangup.is_watching
        served.client.close()
        await asyncio.wait_for(served.lost.wait(), 10)

    run(body)


def test_every_call_has_its_own_caller(run: Run) -> None:
    async def body(service: Waiting, served: Served) -> None:
        other = Served(service)
        try:
            for client in (served, other, served, other):
                client.client.send(call())
                await asyncio.sleep(0.01)
            assert [each is not None for each in service.callers] == [True, True]
            assert service.callers == [served.connection, other.connection]
            assert caller.of_this_call() is None
            service.callers.clear()
        finally:
            await other.close()

    run(body)


def test_what_a_call_leaves_behind_does_not_keep_its_connection(run: Run) -> None:
    async def body(service: Waiting, served: Served) -> None:
        other = Served(service)
        other.client.send(call())
        await logged(service, "ask x")
        timers = []
        token = caller.CALLER.set(other.connection._reference)
        timers.append(asyncio.get_running_loop().call_later(60, print))
        caller.CALLER.reset(token)
        reference = weakref.ref(other.connection)
        await other.close()
        service.callers.clear()
        del other, token
        await asyncio.sleep(0.01)
        gc.collect()
        assert reference() is None
        timers[0].cancel()

    run(body)


def test_the_pidfd_is_the_client_s_until_the_connection_is_lost(run: Run) -> None:
    async def body(service: Waiting, served: Served) -> None:
        fd = served.connection.pidfd()
        with open(f"/proc/self/fdinfo/{fd}") as file:
            assert f"Pid:\t{os.getpid()}\n" in file
        os.close(fd)
        await served.close()
        with pytest.raises(OSError, match="not connected"):
            served.connection.pidfd()

    run(body)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_no_call_waits_if_its_hang_up_can_t_be_watched(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Better no answer than one that nobody would miss."""

    def none_left(*_: object) -> None:
        raise OSError(24, "Too many open files")

    async def body(service: Waiting, served: Served) -> None:
        with (
            monkeypatch.context() as patched,
            pytest.raises(OSError, match="open files"),
        ):
            patched.setattr(select, "epoll", none_left)
            with served.connection.until_gone(service.asked):
                pass
        assert not served.connection._hangup._waiting

    run(body)


def test_a_call_that_nobody_foresaw_does_not_keep_its_connection(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would count for its user as served, for as long as the client likes."""

    def fail(*_: object) -> None:
        raise KeyError("what is this")

    async def body(_: Waiting, served: Served) -> None:
        monkeypatch.setattr(calls, "begin", fail)
        served.client.send(call())
        await asyncio.wait_for(served.lost.wait(), 10)

    run(body)
