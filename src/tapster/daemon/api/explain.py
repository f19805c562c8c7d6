# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `tapster explain` shows: a decision as the broker makes it, and how it came.

Root sees all of it, about anybody. Whoever asks about himself is told what a
request would have told: nothing, where the answer is no.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ...errors import InvalidRequest, NotAuthorized
from ...model import AttachRequest, Peer
from ...policy.core.decide import Decision
from ...policy.core.explain import Step
from ...policy.core.facts import Facts
from ...policy.core.rulebook import Target
from ...wire import objects as wire
from ..audit.request_context import RequestContext
from ..broker import Broker
from ..decide.judge import Judged
from ..identify.accounts import peer_after_login, user_name
from ..resolve.forward import parse_port
from ..resolve.request import check, resolve

_UNIFORM = "you may not use it, or it does not exist"


async def explain(
    broker: Broker,
    peer: Peer,
    request: AttachRequest,
    user: str | None,
    forward: str | None,
) -> wire.Explanation:
    """Decide what is asked for without doing it.

    :param user: name or number; None is the caller.
    :param forward: a port of the host, if that is what is asked for.
    :raises InvalidRequest: something is not acceptable, or no such user.
    :raises NotAuthorized: it is about another, and the caller is not root.
    """
    request = check(request)
    port = None if forward is None else parse_port(forward)
    if port is not None and request.bridge is not None:
        raise InvalidRequest("forward: not on a Linux bridge", "name a network")
    subject = peer if user is None else await _subject(broker, peer, user)
    judge = broker.judge

    def decide() -> Judged:
        target, _ = resolve(request, broker.bridges.find, broker.config)
        return judge.dry_run(subject, request, target, port)

    judged = await broker.closing.wait_and_judge(subject.uid, decide)
    decision = judged.decision
    is_told_all = peer.is_root or broker.env.rootless  # whose own the broker is
    if not (is_told_all or decision.allowed or decision.over_quota):
        return _withheld(subject)
    steps, more = judge.steps(subject, judged, own=not is_told_all)
    if decision.allowed and decision.ask:
        decision = await broker.consent.dry_run(peer, subject, judged, port)
        if not (decision.allowed or is_told_all):
            return _withheld(subject)
    told = _told(subject, judged.target, decision, judged.facts, steps)
    if more:
        told.notes.append(f"{more} more rules are not shown")
    return told


async def _subject(broker: Broker, peer: Peer, user: str) -> Peer:
    # With the groups that it has, not those that it would have.
    if user in (str(peer.uid), user_name(peer.uid)):
        return peer
    if not peer.is_root:
        context = RequestContext(peer, "explain")
        broker.events.denied(context, f"about another user, {user[:64]!r}")
        raise NotAuthorized("only root may ask about other users", "use sudo")
    found = await asyncio.to_thread(peer_after_login, user)
    if found is None:
        raise InvalidRequest("user: there is no such user", "a name or a number")
    return found


def _withheld(subject: Peer) -> wire.Explanation:
    """All that whoever may not have something is told."""
    return _told(subject, Target(), Decision(False, _UNIFORM), Facts(), ())


def _told(
    subject: Peer,
    target: Target,
    decision: Decision,
    facts: Facts,
    steps: Sequence[Step],
) -> wire.Explanation:
    nics = facts.usernet.used if facts.usernet is not None else 0
    if decision.rule is not None:
        of_bridges = decision.rule.max_nics is not None or target.bridge is not None
        nics = facts.used(decision.rule, of_bridges)
    return wire.Explanation(
        user=user_name(subject.uid),
        uid=subject.uid,
        allowed=decision.allowed,
        reason=decision.reason,
        rule=decision.location,
        polkit=decision.ask,
        max_nics=decision.max_nics,
        nics=nics,
        network_max_nics=facts.network_limit,
        network_nics=facts.network_nics if facts.network_limit is not None else None,
        steps=[wire.Step(step.location, step.effect, step.outcome) for step in steps],
        notes=list(facts.verdict.notes) if facts.verdict is not None else [],
    )
