# SPDX-License-Identifier: LGPL-2.1-or-later
"""The loop in which polkit confirms decisions.

Polkit may take minutes to answer, and everything may have changed by then: another
rule may decide, the name may mean another bridge, another guest's name may be the
next that is free. So the decision is made anew after each answer, and polkit's yes
counts only for the rule and the target that it was asked about.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ...model import Peer, Port, Rule
from ...policy.core.decide import Decision
from ...policy.core.rulebook import Target
from ..audit.events import Events
from ..audit.request_context import RequestContext
from .judge import Judged
from .question import ATTACH, FORWARD, Authority, ask

MOST_QUESTIONS = 16  # that one request may put to polkit

# What polkit has allowed in one request: by which rule, and to what.
Consents = set[tuple[Rule | None, Target]]


class Consent:
    """Has polkit confirm the decisions that ask for it."""

    def __init__(self, authority: Authority, events: Events) -> None:
        self._authority = authority
        self._events = events

    async def confirm(
        self,
        context: RequestContext,
        action: str,
        judged: Judged,
        again: Callable[[], Judged],
        *,
        interactive: bool,
        consents: Consents | None = None,
    ) -> Judged:
        """Ask polkit where a decision wants that, and decide again, until polkit has
        nothing to be asked any more. Nothing is awaited between the last decision
        and the return.

        :param context: of the request; its `rule` is set to what decided.
        :param action: polkit's word for what the request wants to do.
        :param judged: the decision as it is now.
        :param again: makes the decision anew.
        :param interactive: whether polkit may have a person asked for a password.
        :param consents: what polkit has allowed in this request so far; what it
            allows here is added.
        :returns: the last decision; denied if polkit has denied it.
        :raises CancelledError: the client went while polkit was asked; that is on
            record.
        """
        consents = set() if consents is None else consents
        while judged.decision.allowed and judged.decision.ask:
            question = judged.decision.rule, judged.target
            if question in consents:
                break
            if len(consents) >= MOST_QUESTIONS:
                reason = "what polkit is asked about won't stay"
                judged = judged.denied(reason)
                break
            refusal = await self._ask(context, action, judged, interactive)
            if refusal is not None:
                judged = judged.denied(f"{judged.decision.reason}, but {refusal}")
                break
            consents.add(question)
            judged = again()
        context.rule = judged.decision.location
        return judged

    async def _ask(
        self, context: RequestContext, action: str, judged: Judged, interactive: bool
    ) -> str | None:
        try:
            return await ask(
                self._authority,
                context.peer,
                action,
                judged.target,
                verb=context.verb,
                port=context.port,
                interactive=interactive,
            )
        except asyncio.CancelledError:
            decision = judged.decision
            context.rule = decision.location
            self._events.denied(
                context,
                f"{decision.reason}, but its client went while polkit was asked",
            )
            raise

    async def dry_run(
        self, peer: Peer, subject: Peer, judged: Judged, port: Port | None
    ) -> Decision:
        """What polkit makes of a decision that asks for it, without a person being
        asked. Polkit judges processes, so it can't be asked about a user who has
        none: the caller asks about itself, or is told no.

        :param peer: the caller.
        :param subject: whom the decision is about.
        :param judged: the decision, which allows and asks polkit.
        :param port: the host's port, if it is about forwarding one.
        """
        refusal: str | None = "polkit decides, and can be asked by that user only"
        if subject is peer:
            action, verb = ATTACH, "attach"
            if port is not None:
                action, verb = FORWARD, "add-forward"
            refusal = await ask(
                self._authority, peer, action, judged.target, verb=verb, port=port
            )
        if refusal is None:
            return judged.decision
        return judged.denied(f"{judged.decision.reason}, but {refusal}").decision
