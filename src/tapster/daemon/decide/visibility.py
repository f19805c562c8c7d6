# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who sees what other users have: root, and whoever manages it."""

from __future__ import annotations

from collections.abc import Callable

from ...model import Peer
from ...policy.config.current import CurrentConfig
from ...policy.core.decide import POLKIT, decide, may_manage
from ...policy.core.matching import matches_peer
from ...policy.core.rulebook import Target
from ...wire.objects import Event
from ..audit.watchers import is_own
from .question import MANAGE, Authority, ask


class Visibility:
    """What a caller is shown of NICs, networks, forwards and events."""

    def __init__(self, current: CurrentConfig, authority: Authority) -> None:
        self._current = current
        self._authority = authority

    async def of_others(self, peer: Peer) -> Callable[[Target], bool]:
        """Find out what of other users' a caller is shown. Where a rule wants
        polkit's consent polkit is asked once, and no person is.

        :returns: tells of a target whether the caller sees it.
        """
        granted = [
            rule
            for rule in self._current.value.book.managing
            if rule.effect == POLKIT and not peer.is_root and matches_peer(rule, peer)
        ]
        if granted and await ask(self._authority, peer, MANAGE, Target(), verb="list"):
            granted = []

        def sees(target: Target) -> bool:
            decision = may_manage(peer, target, self._current.value.book)
            return decision.allowed and (not decision.ask or decision.rule in granted)

        return sees

    def may_see(self, peer: Peer, event: Event) -> bool:
        """Whether a watcher is told of an event. A user is told of its own, and of all
        where it manages. Polkit is not asked: it would have to be at each event."""
        book = self._current.value.book
        if event.event == "network" and event.owner is None and not peer.is_root:
            # A network of all users: told to all who may know that it exists.
            return decide(peer, Target(network=event.network), book).allowed
        if is_own(peer, event):
            return True
        target = Target(event.network, event.bridge, event.name, event.mac)
        if event.network is not None:
            target = target._replace(bridge=None)
        decision = may_manage(peer, target, book)
        return decision.allowed and not decision.ask
