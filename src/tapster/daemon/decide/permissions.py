# SPDX-License-Identifier: LGPL-2.1-or-later
"""Leave to do anything else than attach: forward a port, change what is another
user's, have the configuration read anew."""

from __future__ import annotations

from collections.abc import Callable

from ...model import Port
from ...policy.config.current import CurrentConfig
from ...policy.core.decide import Decision, may_forward, may_manage, may_reload
from ...policy.core.rulebook import Target
from ..audit.request_context import RequestContext
from .consent import Consent
from .judge import Judged
from .question import FORWARD, MANAGE


class Permissions:
    """What the rules allow a caller, with polkit's consent where they want it."""

    def __init__(self, current: CurrentConfig, consent: Consent) -> None:
        self._current = current
        self._consent = consent

    async def forward(
        self,
        context: RequestContext,
        network: str,
        guest: str,
        port: Port,
        interactive: bool,
    ) -> Decision:
        """Whether the caller may forward a port of the host to its own guest.

        :param context: of the request; its `rule` is set to what decided.
        :param network: the guest's network.
        :param guest: the guest's name.
        :param port: the host's port.
        :param interactive: whether polkit may have a person asked.
        """
        peer, target = context.peer, Target(network=network, name=guest)
        return await self._confirmed(
            context,
            FORWARD,
            target,
            lambda: may_forward(peer, target, port, self._current.value.book),
            interactive,
        )

    async def manage(
        self, context: RequestContext, target: Target, interactive: bool
    ) -> bool:
        """Whether the caller may change what another user has.

        :param context: of the request; its `rule` is set to what decided.
        :param target: the network or bridge, and the guest there.
        :param interactive: whether polkit may have a person asked.
        """
        peer = context.peer
        decision = await self._confirmed(
            context,
            MANAGE,
            target,
            lambda: may_manage(peer, target, self._current.value.book),
            interactive,
        )
        return decision.allowed

    async def reload(self, context: RequestContext, interactive: bool) -> Decision:
        """Whether the caller may have the configuration read anew."""
        peer = context.peer
        return await self._confirmed(
            context,
            MANAGE,
            Target(),
            lambda: may_reload(peer, self._current.value.book),
            interactive,
        )

    async def _confirmed(
        self,
        context: RequestContext,
        action: str,
        target: Target,
        decide: Callable[[], Decision],
        interactive: bool,
    ) -> Decision:
        def judge() -> Judged:
            return Judged(decide(), target)

        judged = await self._consent.confirm(
            context, action, judge(), judge, interactive=interactive
        )
        return judged.decision
