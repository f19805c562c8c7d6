# SPDX-License-Identifier: LGPL-2.1-or-later
"""`audit.watchers`: who is told what, and how much of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from support.auditing import (
    ALICE,
    BOB,
    RULE,
    context,
    nic,
    peer,
    played,
    us,
    watcher,
)
from tapster import errors
from tapster.daemon.audit import watchers
from tapster.daemon.audit.events import Events
from tapster.daemon.audit.request_context import RequestContext
from tapster.wire.refusals import REFUSAL_SECONDS


def test_root_is_told_everything_and_a_user_its_own() -> None:
    async def play(broker: Events) -> None:
        root, alice, bob = [await watcher(broker, u) for u in (0, ALICE, BOB)]
        broker.about("attached", nic(ALICE), context=context(ALICE))
        broker.about("detached", nic(BOB), context=context(0, "detach"))
        broker.changed("reloaded")
        broker.network("shared", "tapbr2", None, "why")
        broker.network("default", "tapbr1", BOB, "why")
        assert await alice.drain() == ["attached", "network"]
        assert await bob.drain() == ["detached", "network", "network"]
        assert len(await root.drain()) == 5
        assert (bob.seen[1].uid, bob.seen[1].owner) == (0, BOB)

    played(play)


def test_whoever_makes_it_says_who_is_told_what() -> None:
    async def play(broker: Events) -> None:
        alice, bob = [await watcher(broker, u) for u in (ALICE, BOB)]
        broker.about("attached", nic(ALICE), context=context(ALICE))
        assert await bob.drain() == ["attached"]
        assert await alice.drain() == []

    played(play, lambda who, _: who.uid == BOB)


@pytest.mark.parametrize("what", ["denied", "failed"])
def test_a_caller_learns_that_it_was_denied_and_not_why(what: str) -> None:
    async def play(broker: Events) -> None:
        root, alice = [await watcher(broker, u) for u in (0, ALICE)]
        request = context(ALICE, network="lan", rule=RULE)
        tell = broker.denied if what == "denied" else broker.failed
        tell(request, "a secret")
        full, part = await root.next(), await alice.next()
        assert (full.event, full.reason, full.rule) == (what, "a secret", RULE)
        assert full.duration is not None
        hidden = {"rule": None, "reason": None, "duration": None}
        assert vars(part) == {**vars(full), **hidden, "time": part.time}

    played(play)


def test_only_root_is_told_where_programs_are() -> None:
    async def play(broker: Events) -> None:
        mine = us()
        root, alice = [await watcher(broker, u) for u in (0, ALICE)]
        request = RequestContext(mine, "attach")
        request.rule = RULE
        broker.about("attached", nic(ALICE), context=request)
        full, part = await root.next(), await alice.next()
        assert full.executable and full.rule == RULE
        assert part.executable is None and part.command == full.command
        assert part.rule is None  # of somebody else's request

    played(play, lambda *_: True)


def test_a_user_is_told_the_rule_of_its_own_requests() -> None:
    async def play(broker: Events) -> None:
        alice = await watcher(broker, ALICE)
        broker.about("attached", nic(ALICE), context=context(ALICE, rule=RULE))
        assert (await alice.next()).rule == RULE
        broker.about("refused", nic(ALICE), "another guest has it")
        assert (await alice.next()).reason == "another guest has it"

    played(play)


def test_a_watcher_that_has_gone_is_told_nothing_more() -> None:
    async def play(broker: Events) -> None:
        made = broker.watch(peer(ALICE))
        await anext(made)
        broker.denied(context(ALICE), "why")
        await asyncio.sleep(0)
        assert isinstance(made, AsyncIterator)
        await made.aclose()  # type: ignore[attr-defined]
        await asyncio.sleep(REFUSAL_SECONDS * 2)

    played(play)


def test_a_watcher_too_slow_loses_its_watch() -> None:
    async def play(broker: Events) -> None:
        slow = await watcher(broker, ALICE)
        for _ in range(watchers.QUEUE + 1):
            broker.about("attached", nic(ALICE))
        await asyncio.sleep(0)
        with pytest.raises(errors.BrokerBusy):
            await slow.next()

    played(play)
