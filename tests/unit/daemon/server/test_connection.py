# SPDX-License-Identifier: LGPL-2.1-or-later
"""`daemon.server.connection`: its states, and what leads from one to another."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from tapster.daemon.identify import peer
from tapster.daemon.process import eager_tasks
from tapster.daemon.server.connection import (
    CALL_LIMIT,
    REPLY_LIMIT,
    Connection,
    State,
)
from tapster.daemon.server.hangup import HangupWatch
from tapster.daemon.server.server_state import ServerState
from tapster.policy.config.load import Limits
from tapster.wire.errors import INTERFACE
from tapster.wire.objects import Event

LIMITS = replace(Limits(), stalled_connection_seconds=5, idle_connection_seconds=50)


def message(method: str, **parameters: object) -> bytes:
    call: dict[str, object] = {
        "method": f"{INTERFACE}.{method}",
        "parameters": parameters,
    }
    if method == "Watch":
        call["more"] = True
    return json.dumps(call).encode() + b"\0"


class FakeService:
    """Answers some calls at once, others when it is told to."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.log: list[str] = []

    def info(self, _: object) -> Any:
        self.log.append("info")
        return {"version": "1", "tier": "t", "networks": [], "bridges": []}

    async def detach(self, _: object, ifname: str, *__: object) -> None:
        self.log.append(ifname)
        await self.go.wait()

    async def watch(self, _: object) -> Any:
        try:
            yield Event("t", "watching")
            await asyncio.get_running_loop().create_future()
        finally:
            self.log.append("unwatched")


class Served:
    """A connection, and its client's end."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        ours, self.client = socket.socketpair()
        ours.setblocking(False)
        self.client.setblocking(False)
        self.service = FakeService()
        self.lost: list[Connection] = []
        self.server = ServerState(limits)
        service: Any = self.service
        self.connection = Connection(
            ours, peer.identify(ours), service, self.lost.append, self.server
        )

    @property
    def state(self) -> State:
        return self.connection._state

    async def until(self, *states: State) -> None:
        async with asyncio.timeout(10):
            while self.state not in states:
                await asyncio.sleep(0)

    async def replies(self, number: int) -> list[dict[str, Any]]:
        data = b""
        while data.count(b"\0") < number:
            loop = asyncio.get_running_loop()
            more = await asyncio.wait_for(loop.sock_recv(self.client, 65536), 10)
            assert more
            data += more
        return [json.loads(each) for each in data.split(b"\0")[:-1]]


def run(body: Callable[[Served], Awaitable[None]], limits: Limits = LIMITS) -> None:
    async def whole() -> None:
        eager_tasks.install(asyncio.get_running_loop())
        served = Served(limits)
        try:
            await asyncio.wait_for(body(served), 20)
        finally:
            served.service.go.set()
            served.client.close()
            served.connection.abort()
            await served.until(State.LOST)
        assert served.lost == [served.connection]
        await asyncio.sleep(0)

    asyncio.run(whole())


def test_a_call_that_does_not_wait_is_answered_before_the_loop_goes_on() -> None:
    async def body(served: Served) -> None:
        served.client.send(message("GetInfo"))
        served.connection.readable()
        assert served.state is State.IDLE
        assert served.client.recv(65536).endswith(b"\0")
        assert served.connection.is_idle

    run(body)


def test_a_call_that_waits_is_running_until_it_is_answered() -> None:
    async def body(served: Served) -> None:
        served.client.send(message("Detach", ifname="x"))
        await served.until(State.RUNNING)
        assert not served.connection.is_idle
        served.service.go.set()
        assert await served.replies(1) == [{}]
        await served.until(State.IDLE)

    run(body)


def test_the_next_call_is_begun_when_the_one_before_is_done() -> None:
    async def body(served: Served) -> None:
        served.client.send(
            message("Detach", ifname="x") + message("GetInfo") + message("Nonsense")
        )
        await served.until(State.RUNNING)
        await asyncio.sleep(0.01)
        assert served.service.log == ["x"]
        served.service.go.set()
        one, two, three = await served.replies(3)
        assert one == {}
        assert two["parameters"]["version"] == "1"
        assert three["error"] == "org.varlink.service.MethodNotFound"
        await served.until(State.IDLE)

    run(body)


def test_a_client_far_ahead_is_not_read_until_its_calls_are_done() -> None:
    async def body(served: Served) -> None:
        served.client.send(message("Detach", ifname="x"))
        await served.until(State.RUNNING)
        count = 10 * CALL_LIMIT
        served.client.send(message("GetInfo") * count)
        await asyncio.sleep(0.01)
        assert not served.connection._inbox  # a call is running
        served.service.go.set()
        assert len(await served.replies(count + 1)) == count + 1

    run(body)


def test_a_stream_goes_on_until_its_client_hangs_up() -> None:
    async def body(served: Served) -> None:
        served.client.send(message("Watch"))
        await served.until(State.STREAMING)
        assert (await served.replies(1))[0]["continues"]
        assert not served.connection.is_overdue(1e9, LIMITS)
        served.client.close()
        await served.until(State.LOST)
        while "unwatched" not in served.service.log:
            await asyncio.sleep(0)

    run(body)


def test_a_stream_that_can_t_be_watched_ends_its_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none_left(*_: object) -> None:
        raise OSError(24, "Too many open files")

    async def body(served: Served) -> None:
        monkeypatch.setattr(HangupWatch, "start", none_left)
        served.client.send(message("Watch"))
        await served.until(State.LOST)

    run(body)


def test_a_client_that_sends_no_more_gets_all_its_replies() -> None:
    async def body(served: Served) -> None:
        served.client.send(message("Detach", ifname="x") + message("GetInfo"))
        served.client.shutdown(socket.SHUT_WR)
        await served.until(State.RUNNING)
        served.service.go.set()
        assert len(await served.replies(2)) == 2
        await served.until(State.LOST)
        assert served.client.recv(1) == b""

    run(body)


def test_a_client_that_leaves_its_replies_unread_is_closed() -> None:
    async def body(served: Served) -> None:
        served.client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sending = asyncio.get_running_loop().sock_sendall
        try:
            await sending(served.client, message("GetInfo") * 100 * REPLY_LIMIT)
        except OSError:
            pass
        await served.until(State.LOST)

    run(body)


def test_a_call_that_is_too_fast_waits_in_the_queue() -> None:
    async def body(served: Served) -> None:
        served.service.go.set()
        served.client.send(message("Detach", ifname="x") * 2)
        await served.replies(1)
        await served.until(State.QUEUED)
        assert not served.connection.is_overdue(1e9, LIMITS)
        await served.replies(1)
        await served.until(State.IDLE)

    async def as_a_user(served: Served) -> None:
        served.connection.peer = replace(served.connection.peer, uid=1000)
        await body(served)

    run(as_a_user, replace(LIMITS, requests_per_second=20, requests_at_once=1))


def test_a_call_far_too_fast_is_refused_as_busy() -> None:
    async def body(served: Served) -> None:
        served.connection.peer = replace(served.connection.peer, uid=1000)
        served.service.go.set()
        served.server.pace.wait(1000, 1000, asyncio.get_running_loop().time())
        served.client.send(message("Detach", ifname="x") + message("GetInfo"))
        busy, info = await served.replies(2)
        assert busy["error"] == f"{INTERFACE}.BrokerBusy"
        assert info["parameters"]["version"] == "1"

    run(body, replace(LIMITS, requests_per_second=10, requests_at_once=1))


@pytest.mark.parametrize("data", [b"x\0", b"[]\0", b"x" * 17000])
def test_what_is_no_message_ends_the_connection(data: bytes) -> None:
    async def body(served: Served) -> None:
        served.client.send(data)
        await served.until(State.LOST)

    run(body)


def test_a_client_is_overdue_for_the_rest_of_a_message_or_for_a_call() -> None:
    async def body(served: Served) -> None:
        now = asyncio.get_running_loop().time()
        is_overdue = served.connection.is_overdue
        assert not is_overdue(now + 49, LIMITS)
        assert is_overdue(now + 52, LIMITS)
        served.client.send(b"half")
        await asyncio.sleep(0.01)
        assert not is_overdue(now + 4, LIMITS)
        assert is_overdue(now + 6, LIMITS)

    run(body)


def test_no_state_is_entered_from_any_but_those_before_it() -> None:
    async def body(served: Served) -> None:
        with pytest.raises(RuntimeError, match="IDLE → RUNNING"):
            served.connection._enter(State.RUNNING)
        served.connection.abort()
        with pytest.raises(RuntimeError, match="CLOSING → IDLE"):
            served.connection._enter(State.IDLE)

    run(body)
