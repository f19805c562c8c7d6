# SPDX-License-Identifier: LGPL-2.1-or-later
"""`daemon.server.transport`: reading when it is asked to, and writing at once."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable

import pytest

from tapster.daemon.server.passed_fds import LIMIT, FdReaper, PassedFds
from tapster.daemon.server.transport import READ_SIZE, Transport


class Owner:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.log: list[str] = []
        ours, self.client = socket.socketpair()
        ours.setblocking(False)
        self.client.settimeout(10)
        self.passed_fds = PassedFds(FdReaper(), 1000, ours)
        self.transport = Transport(ours, self, self.passed_fds)

    def readable(self) -> None:
        self.log.append("readable")

    def drained(self) -> None:
        self.log.append("drained")

    def failed(self, error: OSError) -> None:
        self.log.append(type(error).__name__)

    def fill(self) -> list[asyncio.Future[None]]:
        """Send until something is queued."""
        data = b"x" * 65536
        while (sent := self.transport.send(data, [])) is None:
            pass
        return [sent]

    def drain(self) -> int:
        """Receive what there is."""
        self.client.setblocking(False)
        total = 0
        try:
            while data := self.client.recv(1 << 20):
                total += len(data)
        except BlockingIOError:
            pass
        return total


def run(body: Callable[[Owner], Awaitable[None]]) -> None:
    async def whole() -> None:
        owner = Owner()
        try:
            await asyncio.wait_for(body(owner), 10)
        finally:
            owner.client.close()
            owner.transport.close()

    asyncio.run(whole())


async def turns(number: int = 3) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def test_what_came_is_read_before_the_loop_has_told_of_it() -> None:
    async def body(owner: Owner) -> None:
        assert owner.transport.read() is None
        owner.client.send(b"hello")
        assert owner.transport.read() == b"hello"
        assert owner.log == []

    run(body)


def test_the_owner_is_told_in_each_turn_until_it_reads() -> None:
    async def body(owner: Owner) -> None:
        owner.client.send(b"hello")
        await turns(5)
        assert owner.log.count("readable") >= 2
        assert owner.transport.read() == b"hello"
        await turns(1)  # in which the loop had seen it already
        owner.log.clear()
        await turns(5)
        assert owner.log == []

    run(body)


def test_a_little_is_read_at_a_time() -> None:
    async def body(owner: Owner) -> None:
        owner.client.send(b"x" * READ_SIZE + b"y")
        assert owner.transport.read() == b"x" * READ_SIZE
        assert owner.transport.read() == b"y"

    run(body)


def test_nothing_is_read_while_reading_is_paused() -> None:
    async def body(owner: Owner) -> None:
        owner.client.send(b"hello")
        owner.transport.pause()
        await turns()
        assert owner.transport.read() is None
        assert owner.log == []
        owner.transport.resume()
        owner.transport.pause()  # before the loop has been told
        await turns()
        assert owner.log == []
        owner.transport.resume()
        await turns()
        assert "readable" in owner.log
        assert owner.transport.read() == b"hello"

    run(body)


def test_the_end_of_what_a_client_sends_is_read_once() -> None:
    async def body(owner: Owner) -> None:
        owner.client.shutdown(socket.SHUT_WR)
        assert owner.transport.read() == b""
        assert owner.transport.is_at_end
        assert owner.transport.read() is None
        await turns()
        assert owner.log == []
        assert owner.transport.send(b"still", []) is None
        assert owner.client.recv(10) == b"still"

    run(body)


def test_a_message_that_fits_is_sent_at_once_with_its_descriptors() -> None:
    async def body(owner: Owner) -> None:
        reading, writing = os.pipe()
        assert owner.transport.send(b"here", [writing]) is None
        os.close(writing)
        data, fds, _, _ = socket.recv_fds(owner.client, 10, 2)
        assert (data, len(fds)) == (b"here", 1)
        for fd in (*fds, reading):
            os.close(fd)

    run(body)


def test_what_does_not_fit_is_queued_and_sent_in_order() -> None:
    async def body(owner: Owner) -> None:
        futures = owner.fill()
        with open("/dev/null") as null:
            second = owner.transport.send(b"with", [null.fileno()])
            third = owner.transport.send(b"last", [])
            assert second is not None and third is not None
            assert owner.transport.queued == 3
            futures += [second, third]
            owner.client.setblocking(False)
            data, fds = b"", list[int]()
            while not data.endswith(b"withlast"):
                await asyncio.sleep(0)
                try:
                    some, more, _, _ = socket.recv_fds(owner.client, 1 << 20, 2)
                except BlockingIOError:
                    continue
                data, fds = (data + some)[-20:], fds + more
            await asyncio.wait(futures)
            assert len(fds) == 1
            os.close(fds[0])
        assert owner.transport.queued == 0
        assert owner.log.count("drained") == 1

    run(body)


def test_who_waits_for_a_message_may_stop_waiting() -> None:
    async def body(owner: Owner) -> None:
        (future,) = owner.fill()
        future.cancel()
        while "drained" not in owner.log:
            owner.drain()
            await asyncio.sleep(0)

    run(body)


def test_the_time_of_the_queue_starts_anew_with_each_message_that_goes() -> None:
    async def body(owner: Owner) -> None:
        before = asyncio.get_running_loop().time()
        owner.fill()
        first = owner.transport.queued_since
        assert first >= before
        while owner.transport.queued:
            owner.drain()
            await asyncio.sleep(0.001)
        assert owner.transport.queued_since > first

    run(body)


@pytest.mark.parametrize("queued", [False, True])
def test_a_client_that_is_gone_is_told_of_when_something_is_sent(queued: bool) -> None:
    async def body(owner: Owner) -> None:
        if queued:
            owner.fill()
        owner.client.close()
        sent = owner.transport.send(b"x", [])
        assert (sent is not None) == queued
        await turns()
        assert "BrokenPipeError" in owner.log

    run(body)


def test_closing_ends_what_is_queued_and_forgets_the_owner() -> None:
    async def whole() -> None:
        owner = Owner()
        (future,) = owner.fill()
        owner.transport.close()
        await asyncio.wait_for(future, 1)
        assert owner.transport.send(b"x", []) is None
        assert owner.transport.read() is None
        owner.drain()
        owner.client.setblocking(True)
        assert owner.client.recv(1) == b""
        owner.client.close()
        await turns()
        assert owner.log == []

    asyncio.run(whole())


def test_descriptors_that_come_are_counted_and_closed() -> None:
    async def body(owner: Owner) -> None:
        reading, writing = os.pipe()
        with open(reading, "rb") as pipe:
            socket.send_fds(owner.client, [b"x"], [writing] * LIMIT)
            os.close(writing)
            assert owner.transport.read() == b"x"
            assert not owner.passed_fds.are_too_many
            assert await asyncio.to_thread(pipe.read) == b""  # all copies are closed
        with open("/dev/null") as null:
            socket.send_fds(owner.client, [b"y"], [null.fileno()])
        assert owner.transport.read() == b"y"
        assert owner.passed_fds.are_too_many

    run(body)
