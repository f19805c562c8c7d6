# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `tapster explain` shows: the decision that the broker would make, and how.

Root is shown all of it, about any user. Others may ask about themselves, and are told
no more than a request would have told them: where the answer is no, nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ...errors import InvalidRequest, NotAuthorized
from ...kernel.rtnetlink import Link
from ...model import AttachRequest, Peer
from ...policy.config.current import CurrentConfig
from ...policy.core.decide import Decision
from ...wire import objects as wire
from ..audit.events import Events
from ..audit.request_context import RequestContext
from ..decide.closing import ClosingTaps
from ..decide.consent import Consent
from ..decide.judge import Judge, Judged
from ..identify.accounts import peer_after_login, user_name
from ..resolve.forward import parse_port
from ..resolve.request import check, resolve
from . import views

_UNIFORM = "you may not use it, or it does not exist"


class Explainer:
    """Decides without doing."""

    def __init__(
        self,
        current: CurrentConfig,
        find_bridge: Callable[[str], Link | None],
        judge: Judge,
        consent: Consent,
        closing: ClosingTaps,
        events: Events,
        *,
        rootless: bool,
    ) -> None:
        """
        :param current: the configuration that holds now.
        :param find_bridge: looks a bridge up by name.
        :param judge: decides.
        :param consent: asks polkit.
        :param closing: taps that count for a quota, but are about to be gone.
        :param events: told of a question about another user.
        :param rootless: whether every caller is told all: the broker is its own.
        """
        self._current = current
        self._find_bridge = find_bridge
        self._judge = judge
        self._consent = consent
        self._closing = closing
        self._events = events
        self._rootless = rootless

    async def explain(
        self, peer: Peer, request: AttachRequest, user: str | None, forward: str | None
    ) -> wire.Explanation:
        """
        :param peer: who asks.
        :param request: the attach that is asked about.
        :param user: name or number of the user it is about; None: the caller.
        :param forward: a port of the host, if the question is whether that may be
            forwarded.
        :raises InvalidRequest: something is not acceptable, or there is no such user.
        :raises NotAuthorized: it is about another user, and the caller is not root.
        """
        request = check(request)
        port = None if forward is None else parse_port(forward)
        if port is not None and request.bridge is not None:
            raise InvalidRequest("forward: not on a Linux bridge", "name a network")
        subject = peer if user is None else await self._subject(peer, user)

        def judge() -> Judged:
            target, _ = resolve(request, self._find_bridge, self._current.value)
            return self._judge.dry_run(subject, request, target, port)

        judged = await self._closing.wait_and_judge(subject.uid, judge)
        decision = judged.decision
        is_told_all = peer.is_root or self._rootless
        if not (is_told_all or decision.allowed or decision.over_quota):
            return _withheld(subject)
        steps, more = self._judge.steps(subject, judged, own=not is_told_all)
        if decision.allowed and decision.ask:
            decision = await self._consent.dry_run(peer, subject, judged, port)
            if not (decision.allowed or is_told_all):
                return _withheld(subject)
        what = views.Explained(decision, judged.target, judged.facts, steps, more)
        return views.explanation(subject, user_name(subject.uid), what)

    async def _subject(self, peer: Peer, user: str) -> Peer:
        """Whom the question is about.

        :raises InvalidRequest: there is no such user.
        :raises NotAuthorized: it is another user, and the caller is not root.
        """
        if user in (str(peer.uid), user_name(peer.uid)):
            return peer  # with the groups it has now, not those of its next login
        if not peer.is_root:
            context = RequestContext(peer, "explain")
            self._events.denied(context, f"about another user, {user[:64]!r}")
            raise NotAuthorized("only root may ask about other users", "use sudo")
        found = await asyncio.to_thread(peer_after_login, user)
        if found is None:
            raise InvalidRequest("user: there is no such user", "a name or a number")
        return found


def _withheld(subject: Peer) -> wire.Explanation:
    """All that somebody is told who may not have what he asks about."""
    what = views.Explained(Decision(False, _UNIFORM))
    return views.explanation(subject, user_name(subject.uid), what)
