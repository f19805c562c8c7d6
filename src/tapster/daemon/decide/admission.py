# SPDX-License-Identifier: LGPL-2.1-or-later
"""The decision about a request to attach, from its words to a yes that holds now."""

from __future__ import annotations

from collections.abc import Callable

from ...kernel.rtnetlink import Link
from ...model import AttachRequest
from ...policy.config.current import CurrentConfig
from ..audit.events import Events
from ..audit.request_context import RequestContext
from ..resolve.request import resolve
from .closing import ClosingTaps
from .consent import Consent, Consents
from .judge import Judge, Judged
from .question import ATTACH
from .refusal import refuse


class Admission:
    """Decides requests to attach."""

    def __init__(
        self,
        current: CurrentConfig,
        judge: Judge,
        consent: Consent,
        closing: ClosingTaps,
        events: Events,
        find: Callable[[str], Link | None],
    ) -> None:
        """
        :param current: the configuration, which a reload may replace at any time.
        :param judge: makes decisions.
        :param consent: has polkit confirm them.
        :param closing: waits for taps that are closed already.
        :param events: where refusals are recorded.
        :param find: finds the device of a name, as `Bridges.find`.
        """
        self._current = current
        self._judge = judge
        self._consent = consent
        self._closing = closing
        self._events = events
        self._find = find

    async def decide(
        self, context: RequestContext, request: AttachRequest, consents: Consents
    ) -> Judged:
        """Resolve the target and decide. If polkit had to be asked, everything is
        resolved and decided again afterwards; nothing is awaited between the last
        decision and the return.

        :param context: of the request; its `rule` is set to what decided.
        :param request: what is asked for, in its normal form.
        :param consents: what polkit has allowed in this request so far.
        :returns: a decision that allows it.
        :raises NotAuthorized, QuotaExceeded, BrokerFailure: the answer is no; that
            is on record.
        """

        def judge() -> Judged:
            target, link = resolve(request, self._find, self._current.value)
            return self._judge.decide(context.peer, request, target, link)

        judged = await self._closing.wait_and_judge(context.peer.uid, judge)
        judged = await self._consent.confirm(
            context,
            ATTACH,
            judged,
            judge,
            interactive=request.interactive,
            consents=consents,
        )
        if not judged.decision.allowed:
            refuse(context, judged.decision, self._current.value, self._events)
        return judged
