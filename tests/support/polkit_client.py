# SPDX-License-Identifier: LGPL-2.1-or-later
"""A client that polkit is asked about, without a broker around it."""

from __future__ import annotations

import asyncio
import socket
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fakes.bus import FakeBus
from tapster.daemon.decide.polkit.client import Answer, Polkit
from tapster.daemon.identify import caller, peer
from tapster.model import Peer

ATTACH = "io.tapster.attach"


DETAILS = {"user": "alice", "network": "lan", "guest": "web-1"}


Body = Callable[[FakeBus, Polkit], Awaitable[None]]


Run = Callable[[Body], None]


class Connected:
    """A client that is this very process, at the other end of a socket."""

    def __init__(self, uid: int | None = None) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.peer = peer.identify(self.ours)
        if uid is not None:  # a tale; only the limits go by it
            known = self.peer
            self.peer = Peer(uid, known.gid, known.groups, known.pid)
        self.accepted = time.clock_gettime(time.CLOCK_BOOTTIME)
        self.waiting: set[asyncio.Future[Any]] = set()

    def __enter__(self) -> Connected:
        return self

    def __exit__(self, *_: object) -> None:
        self.ours.close()
        self.theirs.close()

    def pidfd(self) -> int:
        return peer.pidfd(self.ours)

    @contextmanager
    def until_gone(self, future: asyncio.Future[Any]) -> Iterator[None]:
        self.waiting.add(future)
        try:
            yield
        finally:
            self.waiting.discard(future)

    def go(self) -> None:
        for future in self.waiting:
            future.cancel()

    def ask(
        self,
        asking: Polkit,
        details: Mapping[str, str] = DETAILS,
        *,
        interactive: bool = False,
    ) -> asyncio.Future[Answer]:
        """A call of that client's, which does no more than ask."""
        token = caller.CALLER.set(weakref.ref(self))
        try:
            return asyncio.ensure_future(
                asking.authorize(self.peer, ATTACH, details, interactive)
            )
        finally:
            caller.CALLER.reset(token)


def says(**answers: Any) -> Callable[[Any], None]:
    return lambda question: question.answer(**answers)
