# SPDX-License-Identifier: LGPL-2.1-or-later
"""The wire: what a client sends, to the daemon's own listener in this process.

Input: a byte that says how, one of sizes, then what is sent. After each input no
connection, call or descriptor is left, and nothing was logged that is a bug.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import tempfile
import time
from collections.abc import AsyncIterator
from typing import Any

from asyncvarlink import FileDescriptor

from tapster.daemon.audit import record as audit
from tapster.daemon.provision.tap_fd import TapDescriptor
from tapster.daemon.resolve.forward import parse_forward, parse_network, parse_port
from tapster.daemon.resolve.request import check
from tapster.daemon.server import passed_fds
from tapster.daemon.server.listener import Listener
from tapster.errors import BrokerBusy, NoSuchNic
from tapster.model import AttachRequest, Peer
from tapster.policy.config.load import Limits
from tapster.wire import objects, refusals

# How it is sent
HALF_CLOSE, WITH_FDS, DEAF, SLOW = 1, 2, 4, 8
_PATIENCE = 20.0  # seconds until something hangs
_NIC = objects.Nic(
    "tapstern0", "52:54:00:00:00:01", "10.0.0.2", None, 1500, "br0", None, 1000,
    "ann", 1, "vm1", "active", None, None, 0, 0, 0, 0,
)  # fmt: skip


class Service:
    """The broker's own checks of what a caller may write, and no kernel."""

    async def attach(
        self, peer: Peer, request: AttachRequest
    ) -> tuple[FileDescriptor, objects.Nic]:
        check(request)
        fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        return FileDescriptor(TapDescriptor(fd), should_close=True), _NIC

    async def detach(self, peer: Peer, ifname: str, interactive: bool) -> None:
        if interactive:
            await asyncio.sleep(0)
        raise NoSuchNic(f"there is no NIC {ifname}")

    async def list_nics(self, peer: Peer) -> list[objects.Nic]:
        return [_NIC] * 20

    async def watch(self, peer: Peer) -> AsyncIterator[objects.Event]:
        for _ in range(3):
            yield audit.make_event("watching", uid=peer.uid, user="ann", pid=peer.pid)
            await asyncio.sleep(0)
        raise BrokerBusy("the broker ended this watch", "watch again")

    def info(self, peer: Peer) -> objects.Info:
        return {"version": "0", "tier": "system", "networks": [], "bridges": []}

    async def list_networks(self, peer: Peer) -> list[objects.NetworkInfo]:
        return []

    async def reload(self, peer: Peer, interactive: bool) -> list[str]:
        return ["nothing"]

    async def add_forward(
        self,
        peer: Peer,
        network: str | None,
        port: str,
        guest: str,
        guest_port: int,
        interactive: bool,
    ) -> objects.ForwardInfo:
        name = parse_network(network)
        parse_forward(port, guest, guest_port)
        return objects.ForwardInfo(
            name, 0, "ann", port, guest, guest_port, "waiting", None, None, False
        )

    async def remove_forward(
        self, peer: Peer, network: str | None, port: str, interactive: bool
    ) -> None:
        parse_network(network)
        parse_port(port)

    async def list_forwards(self, peer: Peer) -> list[objects.ForwardInfo]:
        return []

    async def explain(
        self, peer: Peer, request: AttachRequest, user: str | None, forward: str | None
    ) -> objects.Explanation:
        check(request)
        if forward is not None:
            parse_port(forward)
        return objects.Explanation(
            "ann", 1, True, "", None, False, None, 0, None, None, [], []
        )

    async def diagnose(self, peer: Peer) -> list[objects.Finding]:
        return []


class _Bugs(logging.Handler):
    """What is logged of an error that nobody foresaw."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += f": {record.exc_info[1]!r}"
        self.seen.append(text)


# Loggers that say of each bad message that it is one.
_QUIET = ("tapster", "asyncvarlink")


class _Server:
    """One listener for all inputs: what one leaves behind, the next shows."""

    def __init__(self) -> None:
        self.directory = tempfile.TemporaryDirectory(prefix="tapster-fuzz-")
        self.path = os.path.join(self.directory.name, "socket")
        self.loop = asyncio.new_event_loop()
        self.bugs = _Bugs()
        logger = logging.getLogger()
        logger.addHandler(self.bugs)
        self._restore = refusals.REFUSAL_SECONDS, passed_fds.SO_PASSRIGHTS
        self._levels = {name: logging.getLogger(name).level for name in _QUIET}
        for name in _QUIET:
            logging.getLogger(name).setLevel(logging.ERROR)
        self.loop.set_exception_handler(self._failed)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(self.path)
        listening.listen(16)
        refusals.REFUSAL_SECONDS = 0.0  # else each refusal takes its time
        passed_fds.SO_PASSRIGHTS = 0x7FFF  # else a new kernel lets nobody send any
        service: Any = Service()
        self.listener = Listener(listening, service, Limits())
        self.loop.run_until_complete(self._start())
        # The loop's own, and what a first connection has Python open.
        self.loop.run_until_complete(self.feed(b"\0\1{}\0"))
        self.descriptors = len(os.listdir("/proc/self/fd"))

    def close(self) -> None:
        self.loop.call_soon(self.listener.close)
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()
        refusals.REFUSAL_SECONDS, passed_fds.SO_PASSRIGHTS = self._restore
        logging.getLogger().removeHandler(self.bugs)
        for name, level in self._levels.items():
            logging.getLogger(name).setLevel(level)
        self.directory.cleanup()

    async def _start(self) -> None:
        self.listener.start()

    def _failed(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.bugs.seen.append(f"{context.get('message')}: {context.get('exception')!r}")

    async def feed(self, data: bytes) -> bytes:
        """Send it, hang up, and wait until that is noticed; what was answered."""
        how, size, data = data[0], data[1] + 1, data[2:]
        if how & ~(WITH_FDS | DEAF | SLOW | HALF_CLOSE) == 0 and not how & SLOW:
            size = size * 256
        answer = b""
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.path)
            client.setblocking(False)
            try:
                for start in range(0, min(len(data), size * 256), size):
                    await self._send(client, data[start : start + size], how)
                    answer += await self._take(client, how)
                if how & HALF_CLOSE:
                    client.shutdown(socket.SHUT_WR)
                for _ in range(8):
                    answer += await self._take(client, how)
            except (ConnectionResetError, BrokenPipeError):
                pass
        deadline = self.loop.time() + _PATIENCE
        while len(self.listener):
            await asyncio.sleep(0)
            assert self.loop.time() < deadline, "a connection stays"
        return answer

    @staticmethod
    async def _send(client: socket.socket, chunk: bytes, how: int) -> None:
        for _ in range(64):
            try:
                if how & WITH_FDS:
                    # Its own socket among them: a circle that only the kernel ends.
                    socket.send_fds(client, [chunk], [client.fileno(), 0])
                else:
                    client.send(chunk)
            except BlockingIOError:
                await asyncio.sleep(0)
                continue
            return

    @staticmethod
    async def _take(client: socket.socket, how: int) -> bytes:
        await asyncio.sleep(0)
        if how & DEAF:
            return b""
        try:
            received, fds, _, _ = socket.recv_fds(client, 65536, 16)
        except BlockingIOError:
            return b""
        for fd in fds:
            os.close(fd)
        return received


_server: _Server | None = None


def wire(data: bytes) -> None:
    """Feed one input; see `targets`."""
    global _server
    if len(data) < 3:
        return
    if _server is None:
        _server = _Server()
    _server.loop.run_until_complete(_server.feed(data))
    seen, _server.bugs.seen = _server.bugs.seen, []
    assert not seen, seen
    deadline = time.monotonic() + _PATIENCE
    while len(os.listdir("/proc/self/fd")) > _server.descriptors:  # threads close them
        assert time.monotonic() < deadline, "descriptors stay"
        time.sleep(0.0005)


def close() -> None:
    """End the listener, for who goes on after it."""
    global _server
    if _server is not None:
        with contextlib.suppress(OSError):
            _server.close()
        _server = None
