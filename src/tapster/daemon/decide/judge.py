# SPDX-License-Identifier: LGPL-2.1-or-later
"""Decides what a caller may do: gathers the facts, has them decided, asks polkit.

The decision itself is `policy/core/decide.py`, which knows nothing of files, of the
tab or of D-Bus. Whoever is refused learns no more than that; the log has why.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from ...errors import BrokerFailure, NotAuthorized, QuotaExceeded
from ...model import AttachRequest, NetworkDefinition, Peer, Port, Rule
from ...policy.config.current import CurrentConfig
from ...policy.core.decide import (
    POLKIT,
    Decision,
    decide,
    may_forward,
    may_manage,
    may_reload,
)
from ...policy.core.explain import NOT_ABOUT_USER, Step, explain
from ...policy.core.facts import Facts, Share, Usernet, Verdict, no_nics
from ...policy.core.matching import matches_peer
from ...policy.core.rulebook import DEFAULT_NETWORK, Target
from ...policy.foreign import bridge_conf, lxc_usernet
from ...wire.interface import Event
from ..audit.events import Events, may_see
from ..audit.record import RequestContext
from ..fairness.throttle import Throttle
from ..identify.accounts import user_name
from ..nics.ledger import EVERYBODY, Ledger, on_linux_bridge
from .polkit.client import Polkit
from .quota import used

_log = logging.getLogger(__name__)

ATTACH, FORWARD, MANAGE = (
    f"io.tapster.{verb}" for verb in ("attach", "forward", "manage")
)
_QUESTIONS = 16  # that one request may put to polkit
# What polkit has said yes to in one request: by which rule, and to what.
Consents = set[tuple[Rule | None, Target]]
_NOTES = 256  # oddities of files that were told once, and are not again
# Of rules that an explanation tells of: a client takes no more than 1 MiB, and what
# each comes to takes time.
_MOST_STEPS, _MOST_OWN_STEPS = 1000, 100
_NOTES_AT_ONCE, _NOTES_A_SECOND = 50, 0.2  # by one user's requests


class Judge:
    """What one broker decides by."""

    def __init__(
        self,
        current: CurrentConfig,
        ledger: Ledger,
        events: Events,
        polkit: Polkit,
        *,
        owner_only: bool = True,
    ) -> None:
        """
        :param current: the configuration, which a reload may replace at any time.
        :param owner_only: as of the configuration's own files.
        """
        self._current = current
        self._owner_only = owner_only
        self._ledger = ledger
        self._events = events
        self._polkit = polkit
        self._told: dict[str, None] = {}
        self._notes = Throttle(_NOTES_AT_ONCE, _NOTES_A_SECOND)

    # Attaching

    def judge(self, peer: Peer, request: AttachRequest, target: Target) -> Decision:
        """As things are now. The quota is among them, polkit is not."""
        target = self.guest(peer, request, target)
        if target.network is None and target.bridge is None:
            self._pretend(peer, request)
        return decide(peer, target, self._current.value.book, self.facts(peer, target))

    def _pretend(self, peer: Peer, request: AttachRequest) -> None:
        """Look at all that would have been looked at if there were such a thing:
        while that takes its time, others wait, and could tell."""
        network = None if request.bridge is not None else request.network
        name = request.name or "vm1"
        target = Target(network, request.bridge, name, request.mac)
        decide(peer, target, self._current.value.book, self.facts(peer, target))

    def dry_run(
        self, peer: Peer, request: AttachRequest, target: Target, port: Port | None
    ) -> tuple[Decision, Facts]:
        """What a request would be answered, or one to forward a port; and what
        that went by."""
        guest, book = self.guest(peer, request, target), self._current.value.book
        if guest.network is None and guest.bridge is None:
            self._pretend(peer, request)
        facts = self.facts(peer, guest)
        decision = decide(peer, guest, book, facts)
        if port is not None and (decision.allowed or decision.over_quota):
            decision = may_forward(peer, guest, port, book)
        return decision, facts

    def steps(
        self, peer: Peer, guest: Target, decision: Decision, *, own: bool
    ) -> tuple[list[Step], int]:
        """What came of each rule on the way to a decision, and how many of the last
        are left out.

        :param own: only of those that are about that user.
        """
        book = self._current.value.book
        if not own:
            found = explain(peer, guest, book, decision)
            if len(found) > _MOST_STEPS:
                found = [step for step in found if step.outcome != NOT_ABOUT_USER]
            return found[:_MOST_STEPS], max(len(found) - _MOST_STEPS, 0)
        rules = book.about(peer, guest)
        few = rules[:_MOST_OWN_STEPS]
        return explain(peer, guest, book, decision, few), len(rules) - len(few)

    async def ask_about(
        self,
        peer: Peer,
        subject: Peer,
        guest: Target,
        decision: Decision,
        port: Port | None,
    ) -> Decision:
        """What polkit says to a decision that asks it, without asking anybody. Of
        other users than the caller it can't be known: it judges processes."""
        refusal: str | None = "polkit decides, and can be asked by that user only"
        if subject is peer:
            action, verb = ATTACH, "attach"
            if port is not None:
                action, verb = FORWARD, "add-forward"
            refusal = await self._ask(peer, action, guest, verb=verb, port=port)
        if refusal is None:
            return decision
        reason = f"{decision.reason}, but {refusal}"
        return decision._replace(allowed=False, reason=reason)

    def guest(self, peer: Peer, request: AttachRequest, target: Target) -> Target:
        """A target with its guest: one that has no name has the next that is free."""
        name = request.name
        if name is None and (target.network or target.bridge):
            name = self._ledger.free_name(*self.names_of(peer, target))
        return target._replace(name=name, mac=request.mac)

    def names_of(self, peer: Peer, target: Target) -> tuple[str, int]:
        """What a guest's name is unique in, as `Nic.scope` has it."""
        if target.network is None:
            return on_linux_bridge(target.bridge or ""), peer.uid
        definition = self._current.value.networks.get(target.network)
        shared = definition is not None and definition.is_shared
        return target.network, EVERYBODY if shared else peer.uid

    def facts(self, peer: Peer, target: Target) -> Facts:
        """What a decision about that target goes by, but for the rules."""
        ledger = self._ledger

        def count(rule: Rule, bridges: bool) -> int:
            return used(ledger, peer.uid, rule, bridges)

        if target.bridge is None:
            definition = self._current.value.networks.get(target.network or "")
            limit = definition.max_nics if definition is not None else None
            nics = ledger.count_all(target.network or "") if limit is not None else 0
            return Facts(count, network_nics=nics, network_limit=limit)
        verdict = self._verdicts(peer, [target.bridge])[target.bridge]
        usernet = None
        if not verdict.allowed:
            usernet = self._usernet(peer, target.bridge)
        return Facts(count, verdict, usernet)

    def _verdicts(self, peer: Peer, bridges: Sequence[str]) -> dict[str, Verdict]:
        settings = self._current.value.authorization
        reader = bridge_conf.Reader(peer.uid, peer.gid, peer.groups)
        verdicts = bridge_conf.decide_all(
            settings.bridge_conf,
            bridges,
            reader,
            strict_includes=settings.strict_includes,
        )
        for verdict in verdicts.values():
            self._tell(peer, "bridge.conf", verdict.notes)
            break  # they are of the files, and so of all bridges
        return verdicts

    def _usernet(self, peer: Peer, bridge: str) -> Usernet | None:
        path = self._current.value.authorization.lxc_usernet
        if not path:
            return None
        grant = lxc_usernet.look_up(path, bridge, peer, owner_only=self._owner_only)
        self._tell(peer, "lxc-usernet", grant.notes)
        if grant.problem is not None:
            self._tell(peer, "lxc-usernet", (grant.problem,))
            return None
        taken = Counter(n.share for n in self._ledger.on_bridge(bridge) if n.share)
        shares = tuple(
            Share(allotment.name, allotment.nics, taken[allotment.name])
            for allotment in grant.allotments
        )
        return Usernet(shares, ", ".join(grant.locations))

    def _tell(self, peer: Peer, what: str, notes: tuple[str, ...]) -> None:
        """Log what is odd about a file, once: it is read at each request. An
        included file may be a user's, who finds something new to say each time."""
        now = time.monotonic()
        for note in notes:
            if note not in self._told:
                if not self._notes.admits(peer.uid, now):
                    return
                if len(self._told) >= _NOTES:
                    self._told.clear()
                self._told[note] = None
                _log.warning("%s: %s", what, note)

    async def confirm(
        self,
        context: RequestContext,
        request: AttachRequest,
        again: Callable[[], Decision],
        target: Callable[[], Target],
        consents: Consents,
    ) -> Decision:
        """A decision that polkit has to confirm, and what it is after that.

        :param again: decides anew: all may have changed while polkit was asked.
        :param target: what the last decision was about.
        :param consents: what polkit said yes to in this request; more are added.
        """

        def guest() -> Target:
            return self.guest(context.peer, request, target())

        return await self._settle(
            context, ATTACH, guest, request.interactive, again, consents
        )

    def refuse(self, context: RequestContext, decision: Decision) -> NoReturn:
        """:raises NotAuthorized, QuotaExceeded, BrokerFailure: always."""
        context.rule = decision.location
        self._events.denied(context, decision.reason)
        if decision.full:
            raise QuotaExceeded(
                "the network has all the NICs it may have",
                "try again when a guest has ended, or ask the administrator",
            )
        if decision.over_quota:
            raise QuotaExceeded(
                f"you have all the NICs you may have on this network"
                f" ({decision.max_nics})",
                "end a guest, or detach a NIC that 'tapster ls' shows",
            )
        if self._current.value.problem is not None:
            raise BrokerFailure(
                "the broker's configuration is wrong, and it serves nothing by it",
                "the administrator: 'tapster policy check' says what is wrong",
            )
        what = context.bridge or context.network or DEFAULT_NETWORK
        raise NotAuthorized(
            f"you may not use {what!r}, or it does not exist",
            "ask the administrator; without a bridge you get a network of your own",
        )

    # Looking around

    def usable_networks(self, peer: Peer) -> list[tuple[NetworkDefinition, Decision]]:
        """The networks that a caller may use, its quota aside."""
        found = []
        for name, definition in self._current.value.networks.items():
            decision = decide(peer, Target(network=name), self._current.value.book)
            if decision.allowed:
                found.append((definition, decision))
        return found

    def usable_bridges(self, peer: Peer, bridges: Sequence[str]) -> list[str]:
        """Those Linux bridges that a caller may use, its quota aside."""
        found = []
        for bridge, verdict in self._verdicts(peer, bridges).items():
            usernet = None if verdict.allowed else self._usernet(peer, bridge)
            target, facts = Target(bridge=bridge), Facts(no_nics, verdict, usernet)
            decision = decide(peer, target, self._current.value.book, facts)
            if decision.allowed or decision.over_quota:
                found.append(bridge)
        return found

    # Forwards

    async def allow_forward(
        self,
        context: RequestContext,
        network: str,
        guest: str,
        port: Port,
        interactive: bool,
    ) -> Decision:
        """Whether the caller may forward a port to its guest; polkit included."""
        target = Target(network=network, name=guest)
        return await self._settle(
            context,
            FORWARD,
            lambda: target,
            interactive,
            lambda: may_forward(context.peer, target, port, self._current.value.book),
        )

    # What is other users'

    async def sight(self, peer: Peer) -> Callable[[Target], bool]:
        """Tells of what other users have whether the caller sees it: as root, or
        as who manages it. Polkit is asked without disturbing anybody."""
        granted = [
            rule
            for rule in self._current.value.book.managing
            if rule.effect == POLKIT and not peer.is_root and matches_peer(rule, peer)
        ]
        if granted and await self._ask(peer, MANAGE, Target(), verb="list"):
            granted = []

        def sees(target: Target) -> bool:
            decision = may_manage(peer, target, self._current.value.book)
            return decision.allowed and (not decision.ask or decision.rule in granted)

        return sees

    def may_see(self, peer: Peer, event: Event) -> bool:
        """Whether a watcher is told an event: what is its own, and all where it
        manages. Polkit is not asked: it would have to be at each."""
        if event.event == "network" and event.owner is None and not peer.is_root:
            # Of all users' network: of all who may know that there is one.
            target = Target(network=event.network)
            return decide(peer, target, self._current.value.book).allowed
        if may_see(peer, event):
            return True
        target = Target(event.network, event.bridge, event.name, event.mac)
        if event.network is not None:
            target = target._replace(bridge=None)
        decision = may_manage(peer, target, self._current.value.book)
        return decision.allowed and not decision.ask

    async def manages(
        self, context: RequestContext, target: Target, interactive: bool
    ) -> bool:
        """Whether a caller may change what another user has there."""
        decision = await self._settle(
            context,
            MANAGE,
            lambda: target,
            interactive,
            lambda: may_manage(context.peer, target, self._current.value.book),
        )
        return decision.allowed

    async def may_reload(self, context: RequestContext, interactive: bool) -> Decision:
        """Whether a caller may have the configuration read anew."""
        return await self._settle(
            context,
            MANAGE,
            Target,
            interactive,
            lambda: may_reload(context.peer, self._current.value.book),
        )

    async def _settle(
        self,
        context: RequestContext,
        action: str,
        target: Callable[[], Target],
        interactive: bool,
        again: Callable[[], Decision],
        consents: Consents | None = None,
    ) -> Decision:
        """Decide, ask polkit where that is wanted, and decide again: by then it may
        be another rule, or another guest's name that is free, and polkit has to be
        asked about each."""
        consents = set() if consents is None else consents
        while True:
            decision = again()
            question = decision.rule, target()
            if not (decision.allowed and decision.ask) or question in consents:
                break
            if len(consents) >= _QUESTIONS:
                reason = "what polkit is asked about won't stay"
                decision = decision._replace(allowed=False, reason=reason)
                break
            try:
                refusal = await self._ask(
                    context.peer,
                    action,
                    question[1],
                    interactive,
                    verb=context.verb,
                    port=context.port,
                )
            except asyncio.CancelledError:
                context.rule = decision.location
                reason = (
                    f"{decision.reason}, but its client went while polkit was asked"
                )
                self._events.denied(context, reason)
                raise
            if refusal is not None:
                reason = f"{decision.reason}, but {refusal}"
                decision = decision._replace(allowed=False, reason=reason)
                break
            consents.add(question)
        context.rule = decision.location
        return decision

    async def _ask(
        self,
        peer: Peer,
        action: str,
        target: Target,
        interactive: bool = False,
        *,
        verb: str,
        port: Port | str | None = None,
    ) -> str | None:
        """
        :param verb: as in the log's records; "list" for what lists show.
        :returns: why polkit does not allow it; None if it does.
        """
        details: Mapping[str, str | None] = {
            "verb": verb,
            "user": user_name(peer.uid),
            "network": target.network,
            "bridge": target.bridge,
            "guest": target.name,
            "port": str(port) if port is not None else None,
        }
        told = {key: value for key, value in details.items() if value}
        answer = await self._polkit.authorize(peer, action, told, interactive)
        return None if answer.allowed else answer.reason
