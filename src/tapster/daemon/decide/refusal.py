# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a caller is told that may not have what it asked for.

Whoever is denied learns neither why nor whether what it asked for exists: that is
in the log. Only a user whose quota is reached, and who may therefore have such a
thing, is told so.
"""

from __future__ import annotations

from typing import NoReturn

from ...errors import BrokerFailure, NotAuthorized, QuotaExceeded
from ...policy.config.load import Config
from ...policy.core.decide import Decision
from ...policy.core.rulebook import DEFAULT_NETWORK
from ..audit.events import Events
from ..audit.request_context import RequestContext


def refuse(
    context: RequestContext, decision: Decision, config: Config, events: Events
) -> NoReturn:
    """Put a refusal on record and answer it.

    :param context: of the request; its `rule` is set to what decided.
    :param decision: one that does not allow it.
    :param config: by which it was decided.
    :param events: where refusals are recorded.
    :raises NotAuthorized, QuotaExceeded, BrokerFailure: always.
    """
    context.rule = decision.location
    events.denied(context, decision.reason)
    if decision.full:
        raise QuotaExceeded(
            "the network has all the NICs it may have",
            "try again when a guest has ended, or ask the administrator",
        )
    if decision.over_quota:
        raise QuotaExceeded(
            f"you have all the NICs you may have on this network ({decision.max_nics})",
            "end a guest, or detach a NIC that 'tapster ls' shows",
        )
    if config.problem is not None:
        raise BrokerFailure(
            "the broker's configuration is wrong, and it serves nothing by it",
            "the administrator: 'tapster policy check' says what is wrong",
        )
    what = context.bridge or context.network or DEFAULT_NETWORK
    raise NotAuthorized(
        f"you may not use {what!r}, or it does not exist",
        "ask the administrator; without a bridge you get a network of your own",
    )
