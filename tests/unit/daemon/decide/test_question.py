# SPDX-License-Identifier: LGPL-2.1-or-later
"""`decide.question`: what polkit is told of a request, and what it is not."""

from __future__ import annotations

import asyncio

from support.deciding import ALICE, NO, YES, FakePolkit
from tapster.daemon.decide.question import ATTACH, FORWARD, ask
from tapster.daemon.identify.accounts import user_name
from tapster.model import Port
from tapster.policy.core.rulebook import Target


def test_polkit_is_told_only_what_is_known() -> None:
    polkit = FakePolkit(YES)
    target = Target(bridge="br0", mac="52:54:00:00:00:01")
    assert asyncio.run(ask(polkit, ALICE, ATTACH, target, verb="attach")) is None
    told = {"verb": "attach", "user": user_name(ALICE.uid), "bridge": "br0"}
    assert polkit.asked == [(ATTACH, told, False)]


def test_a_refusal_comes_with_polkit_s_reason() -> None:
    polkit, port = FakePolkit(NO), Port("udp", 53, 53)
    target = Target(network="lan", name="dns")
    asked = ask(
        polkit, ALICE, FORWARD, target, verb="add-forward", port=port, interactive=True
    )
    assert asyncio.run(asked) == NO.reason
    ((_, told, interactive),) = polkit.asked
    assert (told["port"], told["guest"], interactive) == ("udp/53", "dns", True)
