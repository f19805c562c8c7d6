# SPDX-License-Identifier: LGPL-2.1-or-later
"""Requests and NICs that audit records are about, and watchers that are told."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

from support.builders import make_nic, make_peer
from tapster.daemon.audit.events import Events
from tapster.daemon.audit.request_context import RequestContext
from tapster.daemon.audit.watchers import is_own
from tapster.daemon.nics.nic import Nic
from tapster.model import Peer
from tapster.wire.objects import Event

ALICE, BOB = 23001, 23002
RULE = "/etc/tapster/tapster.toml:3"


def peer(uid: int = ALICE) -> Peer:
    """A user's process that is not to be found."""
    return make_peer(uid, gid=uid + 1, groups=frozenset(), pid=0)


def us() -> Peer:
    """This very process."""
    return make_peer(os.getuid(), gid=os.getgid(), groups=frozenset(), pid=os.getpid())


def context(uid: int = ALICE, verb: str = "attach", **what: Any) -> RequestContext:
    """A user's request; `what` is known of it."""
    made = RequestContext(peer(uid), verb)
    for name, value in what.items():
        setattr(made, name, value)
    return made


def nic(uid: int = ALICE) -> Nic:
    """A user's guest "web" on the default network."""
    return make_nic(
        7,
        ifname="tapsternabc",
        uid=uid,
        pid=17,
        name="web",
        mac="0a:00:00:00:00:01",
        ipv4="10.1.2.3",
    )


def played(
    play: Callable[[Events], Awaitable[None]],
    may_see: Callable[[Peer, Event], bool] = is_own,
) -> None:
    """Let something happen in an event loop."""

    async def run() -> None:
        broker = Events(may_see)
        await play(broker)
        broker.close()
        await asyncio.sleep(0)

    asyncio.run(run())


class Watcher:
    """Who hears of events; `seen` is what it heard."""

    def __init__(self, broker: Events, who: Peer) -> None:
        self._stream = broker.watch(who)
        self.seen: list[Event] = []

    async def next(self) -> Event:
        event = await asyncio.wait_for(anext(self._stream), 5)
        self.seen.append(event)
        return event

    async def drain(self) -> list[str]:
        """What there is to hear now."""
        try:
            while True:
                event = await asyncio.wait_for(anext(self._stream), 0.2)
                self.seen.append(event)
        except TimeoutError:
            return [event.event for event in self.seen[1:]]


async def watcher(broker: Events, uid: int) -> Watcher:
    made = Watcher(broker, peer(uid))
    assert (await made.next()).event == "watching"
    return made
