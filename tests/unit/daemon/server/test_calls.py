# SPDX-License-Identifier: LGPL-2.1-or-later
"""`daemon.server.calls`: what a method returns or raises is what a caller is sent."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Any

import pytest
from asyncvarlink import FileDescriptor, VarlinkInterfaceRegistry, varlinksignature

from tapster import errors
from tapster.daemon.process import eager_tasks
from tapster.daemon.server import calls
from tapster.daemon.server.server_state import ServerState
from tapster.model import Peer
from tapster.policy.config.load import Limits
from tapster.wire.errors import INTERFACE
from tapster.wire.interface import BrokerInterface
from tapster.wire.objects import Event, Nic

PEER = Peer(1000, 1000, frozenset(), 1)


class FakeService:
    """Does what a test says."""

    def __init__(self, outcome: Callable[[], Any]) -> None:
        self._outcome = outcome
        self.streams = 0  # that go on

    async def attach(self, *_: object) -> Any:
        return self._outcome()

    async def detach(self, *_: object) -> None:
        await asyncio.sleep(0)
        self._outcome()

    def info(self, _: object) -> Any:
        return self._outcome()

    async def watch(self, _: object) -> Any:
        self.streams += 1
        try:
            yield Event("t", "watching")
            yield self._outcome()
            await asyncio.get_running_loop().create_future()
        finally:
            self.streams -= 1


class Caller:
    """One call, and what is sent for it."""

    def __init__(self, outcome: Callable[[], Any] = lambda: None) -> None:
        self.service = FakeService(outcome)
        self.interfaces = VarlinkInterfaceRegistry()
        service: Any = self.service
        self.interfaces.register_interface(BrokerInterface(service, PEER))
        self.interfaces.register_interface(ServerState(Limits()).introspection)
        self.replies: list[dict[str, Any]] = []
        self.fds: list[int] = []
        self.sent: asyncio.Future[None] | None = None  # what `send` returns

    def send(self, reply: Any, fds: list[int]) -> asyncio.Future[None] | None:
        self.replies.append(reply)
        self.fds += fds
        assert all(map(is_open, fds))
        return self.sent

    def begin(
        self, method: str, parameters: Any = None, **more: Any
    ) -> asyncio.Future[None] | None:
        message = {"method": method, **more}
        if parameters is not None:
            message["parameters"] = parameters
        return calls.begin(self.interfaces, message, PEER.uid, self.send)


def is_open(fd: int) -> bool:
    return os.path.exists(f"/proc/self/fd/{fd}")


def run(body: Callable[[], Any]) -> None:
    async def whole() -> None:
        eager_tasks.install(asyncio.get_running_loop())
        await asyncio.wait_for(body(), 10)

    asyncio.run(whole())


def attached() -> tuple[FileDescriptor, Nic]:
    nic = Nic("tapster0", *(None,) * 3, 1500, "br0", None, 0, "root", 1, "x", "active",
              None, None, 0, 0, 0, 0)  # fmt: skip
    return FileDescriptor(os.dup(0), should_close=True), nic


def fail(error: Exception) -> Callable[[], Any]:
    def outcome() -> None:
        raise error

    return outcome


def test_a_method_that_does_not_wait_is_done_at_once() -> None:
    async def body() -> None:
        caller = Caller(lambda: {"version": "1", "tier": "t", "networks": [],
                                 "bridges": []})  # fmt: skip
        assert caller.begin(f"{INTERFACE}.GetInfo") is None
        assert caller.replies[0]["parameters"]["version"] == "1"
        assert caller.begin("org.varlink.service.GetInfo") is None
        assert caller.replies[1]["parameters"]["product"] == "tapsterd"

    run(body)


def test_a_method_that_waits_is_done_when_it_has_replied() -> None:
    async def body() -> None:
        caller = Caller()
        running = caller.begin(f"{INTERFACE}.Detach", {"ifname": "x"})
        assert running is not None and not running.done()
        await running
        assert caller.replies == [{}]

    run(body)


@pytest.mark.parametrize("is_queued", [False, True])
def test_a_descriptor_is_closed_a_turn_after_the_reply_is_sent(is_queued: bool) -> None:
    async def body() -> None:
        caller = Caller(attached)
        if is_queued:
            caller.sent = asyncio.get_running_loop().create_future()
        running = caller.begin(f"{INTERFACE}.Attach", {})
        assert running is not None and running.done()
        (fd,) = caller.fds
        assert caller.replies[0]["parameters"]["fd"] == 0
        # Who closes a tap last waits for the kernel: a caller that does so at once
        # shall not be the last.
        assert is_open(fd)
        if caller.sent is not None:
            await asyncio.sleep(0)
            assert is_open(fd)
            caller.sent.set_result(None)
        await asyncio.sleep(0)
        assert not is_open(fd)

    run(body)


def test_a_oneway_call_is_done_and_not_answered() -> None:
    async def body() -> None:
        made = []

        def outcome() -> Any:
            made.append(attached())
            return made[0]

        caller = Caller(outcome)
        caller.begin(f"{INTERFACE}.Attach", {}, oneway=True)
        assert not made[0][0]  # the descriptor is closed
        failing = Caller(fail(errors.QuotaExceeded("no", None)))
        failing.begin(f"{INTERFACE}.Attach", {}, oneway=True)
        failing.begin(f"{INTERFACE}.Nonsense", {}, oneway=True)
        assert caller.replies == failing.replies == []

    run(body)


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"method": 1}, "invalid.asyncvarlink.ProtocolViolation"),
        ({"method": "x"}, "invalid.asyncvarlink.ProtocolViolation"),
        ({"method": "a.b.C", "more": 1}, "invalid.asyncvarlink.ProtocolViolation"),
        ({"method": "a.b.C"}, "org.varlink.service.InterfaceNotFound"),
        ({"method": f"{INTERFACE}.C"}, "org.varlink.service.MethodNotFound"),
        ({"method": f"{INTERFACE}.Watch"}, "org.varlink.service.ExpectedMore"),
        ({"method": f"{INTERFACE}.Detach"}, "org.varlink.service.InvalidParameter"),
        (
            {"method": f"{INTERFACE}.Detach", "parameters": {"ifname": 1}},
            "org.varlink.service.InvalidParameter",
        ),
        (
            {"method": f"{INTERFACE}.Attach", "parameters": {"path": "x"}},
            "org.varlink.service.InvalidParameter",
        ),
    ],
    ids=repr,
)
def test_a_wrong_call_gets_varlink_s_own_error(message: Any, error: str) -> None:
    async def body() -> None:
        caller = Caller()
        assert calls.begin(caller.interfaces, message, 1000, caller.send) is None
        assert [reply["error"] for reply in caller.replies] == [error]

    run(body)


@pytest.mark.parametrize("method", ["Attach", "Detach", "GetInfo", "Watch"])
def test_an_error_that_callers_may_see_is_sent(method: str) -> None:
    async def body() -> None:
        caller = Caller(fail(errors.QuotaExceeded("enough", "go")))
        parameters = {"ifname": "x"} if method == "Detach" else {}
        running = caller.begin(f"{INTERFACE}.{method}", parameters, more=True)
        if running is not None:
            await running
        assert caller.replies[-1] == {
            "error": f"{INTERFACE}.QuotaExceeded",
            "parameters": {"message": "enough", "hint": "go"},
        }

    run(body)


@pytest.mark.parametrize("method", ["Attach", "Detach", "GetInfo", "Watch"])
def test_an_error_that_nobody_foresaw_is_logged_and_not_told(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        caller = Caller(fail(KeyError("secret")))
        parameters = {"ifname": "x"} if method == "Detach" else {}
        running = caller.begin(f"{INTERFACE}.{method}", parameters, more=True)
        if running is not None:
            await running
        assert caller.replies[-1]["error"] == f"{INTERFACE}.BrokerFailure"
        assert "secret" not in repr(caller.replies)

    with caplog.at_level(logging.ERROR):
        run(body)
    assert "unexpected error in a call of uid 1000" in caplog.text
    assert "secret" in caplog.text


def test_a_stream_waits_for_its_reader_and_ends_when_it_is_cancelled() -> None:
    async def body() -> None:
        caller = Caller(lambda: Event("t", "attached"))
        caller.sent = asyncio.get_running_loop().create_future()
        running = caller.begin(f"{INTERFACE}.Watch", {}, more=True)
        assert running is not None
        await asyncio.sleep(0)
        assert len(caller.replies) == 1
        sent, caller.sent = caller.sent, None
        sent.set_result(None)
        while len(caller.replies) < 2:
            await asyncio.sleep(0)
        assert [r["continues"] for r in caller.replies] == [True, True]
        assert caller.service.streams == 1
        running.cancel()
        await asyncio.wait({running})
        assert running.cancelled()
        while caller.service.streams:
            await asyncio.sleep(0)

    run(body)


def test_every_method_with_several_replies_is_asynchronous() -> None:
    """The others are not provided for."""
    for interface in Caller().interfaces:
        for name in dir(interface):
            signature = varlinksignature(getattr(interface, name))
            assert signature is None or signature.asynchronous or not signature.more
