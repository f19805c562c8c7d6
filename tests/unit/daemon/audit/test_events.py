# SPDX-License-Identifier: LGPL-2.1-or-later
"""`audit.events`: what is told when, and how much of a flood."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from support.auditing import (
    ALICE,
    BOB,
    RULE,
    context,
    nic,
    played,
    watcher,
)
from tapster.daemon.audit import events
from tapster.daemon.audit import record as audit
from tapster.daemon.audit.events import Events
from tapster.wire.objects import Event


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], list[Event]]:
    caplog.set_level(logging.INFO, "tapster.audit")

    def events_of_log() -> list[Event]:
        found = [record.msg for record in caplog.records]
        return [each.event for each in found if isinstance(each, audit.Record)]

    return events_of_log


Told = Callable[[], list[Event]]


def test_events_are_told_after_the_reply_and_in_their_order(told: Told) -> None:
    async def play(broker: Events) -> None:
        broker.about("attached", nic(), context=context(rule=RULE))
        broker.denied(context(), "why")
        broker.failed(context(), "why")
        broker.changed("forward-added", context(), owner=ALICE, port="tcp/80")
        broker.changed("reloaded")
        broker.network("default", "tapbr1", ALICE, "why")
        broker.about("detached", nic())
        assert told() == []
        await asyncio.sleep(0)
        assert [(e.event, e.outcome, e.uid) for e in told()] == [
            ("attached", "ok", ALICE),
            ("denied", "denied", ALICE),
            ("failed", "failed", ALICE),
            ("forward-added", "ok", ALICE),
            ("reloaded", "ok", -1),
            ("network", "ok", ALICE),
            ("detached", "ok", ALICE),
        ]
        attached, _, _, added, reloaded, _, detached = told()
        assert (attached.verb, attached.rule) == ("attach", RULE)
        assert attached.duration is not None and attached.duration >= 0
        assert (added.owner, added.port) == (ALICE, "tcp/80")
        assert (reloaded.verb, reloaded.duration) == (None, None)
        assert (detached.verb, detached.pid, detached.user) == (None, 17, "alice")

    played(play)


def test_refusals_and_troubles_of_networks_are_logged_as_warnings(
    told: Told, caplog: pytest.LogCaptureFixture
) -> None:
    async def play(broker: Events) -> None:
        broker.about("attached", nic())
        broker.about("refused", nic(), "why")
        broker.denied(context(), "why")
        broker.network("default", "tapbr1", None, "why")
        await asyncio.sleep(0)

    played(play)
    assert [r.levelname for r in caplog.records if r.name == "tapster.audit"] == [
        "INFO", "WARNING", "WARNING", "WARNING",
    ]  # fmt: skip


def test_a_caller_hears_of_a_refusal_no_sooner_than_the_reply(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However long the decision took."""

    async def play(broker: Events) -> None:
        root, alice = [await watcher(broker, u) for u in (0, ALICE)]
        monkeypatch.setattr("tapster.daemon.audit.events.REFUSAL_SECONDS", 0.2)
        late = context(ALICE)
        late.arrived -= 200_000_000  # ns
        for request, at_once in ((context(ALICE), False), (late, True)):
            broker.denied(request, "why")
            hears = asyncio.ensure_future(alice.next())
            await root.next()
            await asyncio.sleep(0)
            assert hears.done() is at_once
            assert (await hears).time >= root.seen[-1].time

    played(play)


def test_a_flood_is_told_up_to_a_limit_and_then_as_a_number(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "SUM_UP", 0.1)

    async def play(broker: Events) -> None:
        root, alice, bob = [await watcher(broker, u) for u in (0, ALICE, BOB)]
        for number in range(200):
            (broker.denied if number % 2 else broker.failed)(context(ALICE), "why")
        broker.denied(context(BOB), "why")
        await asyncio.sleep(0)
        of_alice = [e for e in told() if e.uid == ALICE]
        assert len(of_alice) == 50
        assert len([e for e in told() if e.uid == BOB]) == 1
        await asyncio.sleep(0.2)
        (summary,) = [e for e in told() if e.event == "suppressed"]
        assert (summary.uid, summary.count) == (ALICE, 150)
        assert summary.reason == (
            f"150 more requests of uid {ALICE} were denied or failed"
        )
        # Its own flood is its own affair; root's watch does not end by it.
        assert len(await alice.drain()) == 200
        assert await bob.drain() == ["denied"]
        assert len(await root.drain()) == 50 + 1 + 1

    played(play)


def test_a_flood_of_refusals_hides_no_change(told: Told) -> None:
    async def play(broker: Events) -> None:
        for _ in range(60):
            broker.denied(context(ALICE), "why")
            broker.about("attached", nic(ALICE), context=context(ALICE))
        await asyncio.sleep(0)
        assert sum(e.event == "attached" for e in told()) == 60
        assert sum(e.event == "denied" for e in told()) == 50

    played(play)


def test_a_flood_is_summed_up_at_the_end(told: Told) -> None:
    async def play(broker: Events) -> None:
        for _ in range(60):
            broker.denied(context(ALICE), "why")
        await asyncio.sleep(0)

    played(play)
    assert [e.count for e in told()][-1] == 10
