# SPDX-License-Identifier: LGPL-2.1-or-later
"""Gathers the facts of a request and has them decided.

The decision itself is `policy/core/decide.py`, which knows nothing of files or of
the ledger. Polkit is not asked here: `consent.py` does that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ...kernel.rtnetlink import Link
from ...model import AttachRequest, NetworkDefinition, Peer, Port, Rule
from ...policy.config.current import CurrentConfig
from ...policy.core.decide import Decision, decide, may_forward
from ...policy.core.explain import NOT_ABOUT_USER, Step, explain
from ...policy.core.facts import Facts, no_nics
from ...policy.core.rulebook import Target
from ..nics.ledger import Ledger
from ..nics.naming import EVERYBODY, on_linux_bridge
from .bridge_grants import BridgeGrants
from .quota import used

# How many rules an explanation shows: a client takes no more than 1 MiB, and it takes
# time to find out what each comes to.
_MOST_STEPS, _MOST_OWN_STEPS = 1000, 100


class Judged(NamedTuple):
    """A decision, and what it was about when it was made.

    `target` has the guest's name and MAC. `link` is the Linux bridge, if the target
    is one. `facts` are what was decided by, besides the rules.
    """

    decision: Decision
    target: Target
    link: Link | None = None
    facts: Facts = Facts()

    def denied(self, reason: str) -> Judged:
        """Turn it into a refusal by something else than the rules."""
        decision = self.decision._replace(allowed=False, reason=reason)
        return self._replace(decision=decision)


class Judge:
    """What one broker decides by."""

    def __init__(
        self, current: CurrentConfig, ledger: Ledger, grants: BridgeGrants
    ) -> None:
        """
        :param current: the configuration, which a reload may replace at any time.
        :param ledger: what users have.
        :param grants: what other programs' files grant on Linux bridges.
        """
        self._current = current
        self._ledger = ledger
        self._grants = grants

    def decide(
        self,
        peer: Peer,
        request: AttachRequest,
        target: Target,
        link: Link | None = None,
    ) -> Judged:
        """Decide from the present configuration and ledger, quota included. Does not
        ask polkit: see `consent.py`.

        :param peer: the caller.
        :param request: what it asked for, in its normal form.
        :param target: what that turned out to be; without the guest.
        :param link: the Linux bridge, if it is one; is handed back.
        """
        guest = self.with_guest(peer, request, target)
        if guest.network is None and guest.bridge is None:
            self._decide_in_vain(peer, request)
        facts = self.facts(peer, guest)
        decision = decide(peer, guest, self._current.value.book, facts)
        return Judged(decision, guest, link, facts)

    def _decide_in_vain(self, peer: Peer, request: AttachRequest) -> None:
        """Look at everything that would have been looked at if what was asked for
        existed. That takes its time, in which other requests wait: whoever sends
        them could tell from a shorter wait that nothing exists."""
        network = None if request.bridge is not None else request.network
        name = request.name or "vm1"
        target = Target(network, request.bridge, name, request.mac)
        decide(peer, target, self._current.value.book, self.facts(peer, target))

    def dry_run(
        self, peer: Peer, request: AttachRequest, target: Target, port: Port | None
    ) -> Judged:
        """Decide what a request would be answered.

        :param peer: whom it is about.
        :param request: the request to attach.
        :param target: what that turned out to be; without the guest.
        :param port: a port of the host: then the request is to forward it.
        """
        judged = self.decide(peer, request, target)
        decision = judged.decision
        if port is not None and (decision.allowed or decision.over_quota):
            decision = may_forward(peer, judged.target, port, self._current.value.book)
        return judged._replace(decision=decision)

    def steps(self, peer: Peer, judged: Judged, *, own: bool) -> tuple[list[Step], int]:
        """What came of each rule on the way to a decision, and how many of the last
        are left out.

        :param peer: whom the decision is about.
        :param judged: the decision.
        :param own: only of rules that are about that user.
        """
        book, (decision, guest, *_) = self._current.value.book, judged
        if not own:
            found = explain(peer, guest, book, decision)
            if len(found) > _MOST_STEPS:
                found = [step for step in found if step.outcome != NOT_ABOUT_USER]
            return found[:_MOST_STEPS], max(len(found) - _MOST_STEPS, 0)
        rules = book.about(peer, guest)
        few = rules[:_MOST_OWN_STEPS]
        return explain(peer, guest, book, decision, few), len(rules) - len(few)

    def with_guest(self, peer: Peer, request: AttachRequest, target: Target) -> Target:
        """A target with its guest; one without a name gets the next that is free."""
        name = request.name
        if name is None and (target.network or target.bridge):
            name = self._ledger.free_name(*self.name_scope(peer, target))
        return target._replace(name=name, mac=request.mac)

    def name_scope(self, peer: Peer, target: Target) -> tuple[str, int]:
        """What a guest's name is unique in: all of its `Nic.name_key` but the name."""
        if target.network is None:
            return on_linux_bridge(target.bridge or ""), peer.uid
        definition = self._current.value.networks.get(target.network)
        shared = definition is not None and definition.is_shared
        return target.network, EVERYBODY if shared else peer.uid

    def facts(self, peer: Peer, target: Target) -> Facts:
        """What a decision about that target goes by, besides the rules."""
        ledger = self._ledger

        def count(rule: Rule, bridges: bool) -> int:
            return used(ledger, peer.uid, rule, bridges)

        if target.bridge is None:
            definition = self._current.value.networks.get(target.network or "")
            limit = definition.max_nics if definition is not None else None
            nics = ledger.count_all(target.network or "") if limit is not None else 0
            return Facts(count, network_nics=nics, network_limit=limit)
        verdict = self._grants.verdicts(peer, [target.bridge])[target.bridge]
        usernet = None
        if not verdict.allowed:
            usernet = self._grants.usernet(peer, target.bridge)
        return Facts(count, verdict, usernet)

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
        """Those of some Linux bridges that a caller may use, its quota aside."""
        found = []
        for bridge, verdict in self._grants.verdicts(peer, bridges).items():
            usernet = None if verdict.allowed else self._grants.usernet(peer, bridge)
            target, facts = Target(bridge=bridge), Facts(no_nics, verdict, usernet)
            decision = decide(peer, target, self._current.value.book, facts)
            if decision.allowed or decision.over_quota:
                found.append(bridge)
        return found
