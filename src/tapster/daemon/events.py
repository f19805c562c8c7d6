# SPDX-License-Identifier: LGPL-2.1-or-later
"""What happened, told to the log and to those who watch and may know.

Each watcher has a queue of its own with an end: one that does not read loses
its watch, and costs nobody else anything.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from ..errors import BrokerBusy
from ..model import Peer
from ..wire.interface import Event
from .ledger import Nic

_log = logging.getLogger("tapster.audit")

QUEUE = 256  # events a watcher may be behind
WATCHERS = 64  # in all
WATCHERS_PER_USER = 8


class _Watcher:
    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.queue: asyncio.Queue[Event | None] = asyncio.Queue(QUEUE)

    def offer(self, event: Event | None) -> None:
        try:
            self.queue.put_nowait(event)
        except asyncio.QueueFull:
            while not self.queue.empty():
                self.queue.get_nowait()
            self.queue.put_nowait(None)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Events:
    """All watchers of one broker."""

    def __init__(self) -> None:
        self._watchers: set[_Watcher] = set()

    def about(self, what: str, nic: Nic, reason: str | None = None) -> None:
        """Something happened to a NIC: told in the loop's next turn, as the
        caller waits for its reply, not for our log."""
        asyncio.get_running_loop().call_soon(self._publish, what, nic, reason)

    def _publish(self, what: str, nic: Nic, reason: str | None) -> None:
        _log.info(
            "%s %s: user %s (uid %d), pid %d, guest %s on %s, mac %s%s",
            what,
            nic.ifname,
            nic.user,
            nic.uid,
            nic.pid,
            nic.name,
            nic.network or nic.bridge,
            nic.mac or "not known yet",
            f": {reason}" if reason else "",
        )
        if not self._watchers:
            return
        self._tell(
            Event(
                time=now(),
                event=what,
                ifname=nic.ifname,
                mac=nic.mac,
                ipv4=nic.ipv4,
                ipv6=nic.ipv6,
                bridge=nic.bridge,
                network=nic.network,
                uid=nic.uid,
                user=nic.user,
                pid=nic.pid,
                name=nic.name,
                reason=reason,
            )
        )

    def denied(self, peer: Peer, user: str, what: str, reason: str) -> None:
        """A request was refused. The reason is for the log: watchers, the
        caller among them, learn that it was, not why."""
        _log.warning(
            "denied %s to user %s (uid %d), pid %d: %s",
            what,
            user,
            peer.uid,
            peer.pid,
            reason,
        )
        self._tell(_about_nobody("denied", peer, user))

    def network(self, network: str, bridge: str, uid: int | None, reason: str) -> None:
        """Something is the matter with a network; `uid` None: of all users."""
        _log.warning("network %s (%s): %s", network, bridge, reason)
        for watcher in self._watchers:
            if watcher.peer.is_root or uid in (None, watcher.peer.uid):
                event = _about_nobody("network", watcher.peer, "")
                event.network, event.bridge, event.reason = network, bridge, reason
                event.uid, event.pid = -1 if uid is None else uid, 0
                watcher.offer(event)

    def _tell(self, event: Event) -> None:
        for watcher in self._watchers:
            if watcher.peer.is_root or watcher.peer.uid == event.uid:
                watcher.offer(event)

    async def watch(self, peer: Peer) -> AsyncIterator[Event]:
        """The events that `peer` may see, until it is too slow or `close`.

        :raises BrokerBusy: too many watch already, or it ended.
        """
        of_user = sum(watcher.peer.uid == peer.uid for watcher in self._watchers)
        if len(self._watchers) >= WATCHERS or of_user >= WATCHERS_PER_USER:
            raise BrokerBusy("too many watchers", "end another 'tapster events'")
        watcher = _Watcher(peer)
        self._watchers.add(watcher)
        try:
            yield _about_nobody("watching", peer, "")
            while (event := await watcher.queue.get()) is not None:
                yield event
            raise BrokerBusy("the broker ended this watch", "watch again")
        finally:
            self._watchers.discard(watcher)

    def close(self) -> None:
        """End every watch."""
        for watcher in self._watchers:
            watcher.offer(None)


def _about_nobody(what: str, peer: Peer, user: str) -> Event:
    """An event that is about a caller and no NIC."""
    return Event(
        time=now(),
        event=what,
        ifname=None,
        mac=None,
        ipv4=None,
        ipv6=None,
        bridge=None,
        network=None,
        uid=peer.uid,
        user=user,
        pid=peer.pid,
        name=None,
        reason=None,
    )
