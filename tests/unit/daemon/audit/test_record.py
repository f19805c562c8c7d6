# SPDX-License-Identifier: LGPL-2.1-or-later
"""The audit record: who, what and why, in full for root, bounded for the log."""

from __future__ import annotations

import ast
import asyncio
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.records import DOCUMENT, fields, rows
from tapster import errors
from tapster.daemon.audit import events
from tapster.daemon.audit import record as audit
from tapster.daemon.audit.events import Events
from tapster.daemon.audit.request_context import RequestContext
from tapster.daemon.identify import caller
from tapster.daemon.identify.program import ProgramReader
from tapster.daemon.nics.ledger import Nic
from tapster.model import Peer, State
from tapster.wire.objects import Event
from tapster.wire.refusals import REFUSAL_SECONDS

ROOT = Path(__file__).resolve().parents[4]
SOURCES = sorted((ROOT / "src/tapster/daemon").rglob("*.py"))

ALICE, BOB = 23001, 23002
RULE = "/etc/tapster/tapster.toml:3"


def peer(uid: int = ALICE, pid: int = 0) -> Peer:
    return Peer(uid, uid + 1, frozenset(), pid)


def us() -> Peer:
    return Peer(os.getuid(), os.getgid(), frozenset(), os.getpid())


def context(uid: int = ALICE, verb: str = "attach", **what: Any) -> RequestContext:
    made = RequestContext(peer(uid), verb)
    for name, value in what.items():
        setattr(made, name, value)
    return made


def nic(uid: int = ALICE) -> Nic:
    return Nic(
        ifname="tapsternabc",
        ifindex=7,
        bridge="tapbr1",
        bridge_index=8,
        network="default",
        uid=uid,
        user="alice",
        pid=17,
        name="web",
        mac="0a:00:00:00:00:01",
        ipv4="10.1.2.3",
        ipv6=None,
        mtu=1500,
        state=State.ACTIVE,
    )


class TestDocument:
    def test_has_each_field_with_its_type(self) -> None:
        assert {
            name: f"{kind.__name__} | None" if nullable else kind.__name__
            for name, (kind, nullable) in fields().items()
        } == {
            name: kind.__name__ if type(kind) is type else str(kind)
            for name, kind in get_type_hints(Event).items()
        }

    def test_has_each_event_with_its_outcome_and_id(self) -> None:
        assert {row[0]: (row[1], row[2]) for row in rows("Events")} == {
            name: tuple(kind) for name, kind in audit.KINDS.items()
        }

    def test_and_the_manual_page_have_the_same(self) -> None:
        text = (ROOT / "docs/man/tapsterd.8").read_text()
        log = text.split("\n.Ss Log\n")[1].split("\n.Ss ")[0]
        items = re.findall(r"^\.It Li (.+)$", log, re.M)
        assert sorted(" , ".join(items).split(" , ")) == sorted(fields())
        named = re.findall(r"^\.Cm ([a-z-]+)", log.split(".It Li verb")[0], re.M)
        assert named == list(audit.KINDS)

    def test_every_event_that_is_told_is_known(self) -> None:
        told = {"watching", "suppressed", "network", "denied", "failed"}
        for path in SOURCES:
            for node in ast.walk(ast.parse(path.read_text())):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and node.func.attr in ("about", "changed")
                    and ast.unparse(node.func.value).endswith("events")
                ):
                    assert isinstance(node.args[0], ast.Constant), ast.unparse(node)
                    told.add(str(node.args[0].value))
        assert told <= set(audit.KINDS)

    def test_ids_are_the_journals(self) -> None:
        ids = [kind.message_id for kind in audit.KINDS.values()]
        assert len(set(ids)) == len(ids)
        assert all(re.fullmatch("[0-9a-f]{32}", each) for each in ids)

    def test_limits_are_what_it_says(self) -> None:
        from tapster.daemon.fairness import throttle

        words = " ".join(DOCUMENT.split())
        assert f"{throttle.BURST} of a user at once" in words
        assert f"{throttle.RATE:g} a second" in words
        assert f"within {events.SUM_UP:g} seconds" in words
        assert f"{audit.MAX_TEXT} characters" in words

    def test_examples_name_fields_that_there_are(self) -> None:
        for name in re.findall(r"\bTAPSTER_([A-Z0-9_]*[A-Z0-9])", DOCUMENT):
            assert name.lower() in fields(), name
        ids = {kind.message_id for kind in audit.KINDS.values()}
        assert set(re.findall(r"\b[0-9a-f]{32}\b", DOCUMENT)) == ids

    @pytest.mark.skipif(not shutil.which("jq"), reason="jq is not installed")
    def test_jq_takes_the_filters(self) -> None:
        filters = re.findall(r"jq ((?:-\w+ )*)'([^']*)'", DOCUMENT)
        assert len(filters) >= 3
        event = Event("2026-01-02T03:04:05.678+00:00", "denied", duration=3)
        line = json.dumps(vars(event))
        for options, text in filters:
            done = subprocess.run(
                ["jq", *options.split(), text],
                input=f"tapsterd: INFO: serving\n{line}\n" if "R" in options else line,
                capture_output=True,
                text=True,
            )
            assert (done.returncode, done.stderr) == (0, ""), text


class TestWho:
    def test_is_the_process_that_asked(self) -> None:
        who = us()
        found = ProgramReader().read(
            who.pid, who.uid, RequestContext(who, "attach").arrived
        )
        assert found.executable == os.readlink("/proc/self/exe")
        assert found.command == Path("/proc/self/comm").read_text().rstrip("\n")

    def test_is_none_that_started_after_the_request(self) -> None:
        arrived = RequestContext(us(), "attach").arrived
        time.sleep(0.02)  # two ticks of the clock that the kernel tells it by
        with subprocess.Popen(["sleep", "60"]) as child:
            try:
                assert ProgramReader().read(child.pid, os.getuid(), arrived) == (
                    None,
                    None,
                )
                now = RequestContext(us(), "attach").arrived
                assert ProgramReader().read(child.pid, os.getuid(), now).command
            finally:
                child.kill()

    def test_is_none_that_started_after_the_connection(self) -> None:
        """Its socket may be in other hands by the time of the request."""

        class Connection:
            """A real one's words."""

        accepted = time.clock_gettime(time.CLOCK_BOOTTIME)
        time.sleep(0.02)
        with subprocess.Popen(["sleep", "60"]) as child:
            try:
                who = Peer(os.getuid(), os.getgid(), frozenset(), child.pid)
                other = Peer(who.uid, who.gid, frozenset(), 1)
                for connected, known in ((who, False), (other, True)):
                    connection: Any = Connection()
                    connection.peer, connection.accepted = connected, accepted
                    token = caller.CALLER.set(weakref.ref(connection))
                    since = RequestContext(who, "attach").connected_by()
                    caller.CALLER.reset(token)
                    made = ProgramReader().read(who.pid, who.uid, since)
                    assert (made.command is not None) is known
            finally:
                child.kill()

    def test_is_none_of_another_user(self) -> None:
        who = us()
        arrived = RequestContext(who, "attach").arrived
        assert ProgramReader().read(who.pid, who.uid + 1, arrived) == (None, None)

    def test_is_a_process_that_may_not_be_dumped(self) -> None:
        """What is in /proc/PID is root's then."""
        script = """if True:
            import ctypes, os, sys
            if os.getuid() == 0:
                os.setgid(23001)
                os.setuid(23001)
            ctypes.CDLL(None).prctl(4, 0)  # PR_SET_DUMPABLE
            print(os.getuid(), flush=True)
            sys.stdin.read()
        """
        with subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as child:
            assert child.stdout is not None and child.stdin is not None
            uid = int(child.stdout.readline())
            assert os.stat(f"/proc/{child.pid}/comm").st_uid == 0
            arrived = RequestContext(us(), "attach").arrived
            assert ProgramReader().read(child.pid, uid, arrived).command
            assert ProgramReader().read(child.pid, uid + 1, arrived).command is None
            child.stdin.close()

    def test_is_nobody_where_it_is_gone(self) -> None:
        with subprocess.Popen(["true"]) as child:
            pass
        assert ProgramReader().read(child.pid, os.getuid(), 2**62) == (None, None)
        for pid in (0, -1):
            assert ProgramReader().read(pid, os.getuid(), 2**62) == (None, None)

    def test_has_the_name_that_it_gave_itself_and_no_more(self) -> None:
        name = rb") S 1 \n\xff"
        script = f"""if True:
            import sys
            open("/proc/self/comm", "wb").write({name!r})
            print(flush=True)
            sys.stdin.read()
        """
        with subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as child:
            assert child.stdout is not None and child.stdin is not None
            child.stdout.readline()
            who = Peer(os.getuid(), os.getgid(), frozenset(), child.pid)
            context = RequestContext(who, "attach")
            program = ProgramReader().read(who.pid, who.uid, context.arrived)
            made = audit.make_event("attached", context, program)
            child.stdin.close()
        assert made.command == r") S 1 \n\xff"
        assert "\n" not in audit.Record(made).line()
        assert str(audit.Record(made)).isprintable()


TEXT = st.text(max_size=2000)
SENTENCE = (
    "detached tapsternabc: user alice (uid 23001), pid 17,"
    " guest web on default, mac 0a:00:00:00:00:01"
)


class TestRecord:
    def test_of_a_request_says_what_was_asked(self) -> None:
        request = context(network="lan", name="web", mac="02:00:00:00:00:01", rule=RULE)
        made = audit.make_event("denied", request, duration=12, reason="why")
        assert (made.verb, made.outcome, made.uid, made.gid, made.pid) == (
            "attach", "denied", ALICE, ALICE + 1, 0,
        )  # fmt: skip
        assert (made.network, made.bridge, made.name) == ("lan", None, "web")
        assert (made.rule, made.reason, made.duration) == (RULE, "why", 12)
        assert made.owner is None

    def test_is_one_line_of_ascii_whatever_is_in_it(self) -> None:
        made = audit.make_event(
            "denied", context(name='a\n"\x7f\u2028\ud800'), reason="\x1b\0"
        )
        line = audit.Record(made).line()
        assert line.isascii() and line.isprintable()
        assert json.loads(line) == vars(made)

    @given(TEXT, TEXT, TEXT)
    def test_is_bounded_and_can_be_written(
        self, name: str, reason: str, rule: str
    ) -> None:
        made = audit.make_event("failed", context(name=name, rule=rule), reason=reason)
        record = audit.Record(made)
        assert len(record.line()) < 32 * audit.MAX_TEXT
        for value in record.fields().values():
            value.encode()
        assert str(record).isprintable()

    def test_in_the_journal_has_its_fields_by_name(self) -> None:
        made = audit.make_event(
            "attached", context(rule=RULE), **audit.nic_fields(nic())
        )
        fields = audit.Record(made).fields()
        assert fields.pop("MESSAGE").startswith("attached tapsternabc: user ")
        assert fields.pop("MESSAGE_ID") == audit.KINDS["attached"].message_id
        assert fields == {
            f"TAPSTER_{name.upper()}": str(value)
            for name, value in vars(made).items()
            if value is not None and name != "time"
        }

    @pytest.mark.parametrize(
        ("made", "words"),
        [
            (
                audit.make_event(
                    "denied", context(network="lan", rule=RULE), reason="why"
                ),
                f"denied attach: user {ALICE} (uid {ALICE}), pid 0, lan: why [{RULE}]",
            ),
            (
                audit.make_event("forward-added", context(port="tcp/80", name="web")),
                f"forward-added tcp/80: user {ALICE} (uid {ALICE}), pid 0, guest web",
            ),
            (audit.make_event("reloaded"), "reloaded"),
            (
                audit.make_event("network", network="lan", bridge="b", reason="a\nb"),
                r"network: lan: a\nb",
            ),
            (
                audit.make_event("detached", uid=ALICE, user="alice", pid=17,
                           **audit.nic_fields(nic())),
                SENTENCE,
            ),
        ],
        ids=lambda value: value.event if isinstance(value, Event) else "",
    )  # fmt: skip
    def test_for_people_is_a_sentence(self, made: Event, words: str) -> None:
        assert str(audit.Record(made)) == words


def played(
    play: Callable[[Events], Awaitable[None]],
    may_see: Callable[[Peer, Event], bool] = events.is_own,
) -> None:
    """Let something happen in an event loop."""

    async def run() -> None:
        broker = Events(may_see)
        await play(broker)
        broker.close()
        await asyncio.sleep(0)

    asyncio.run(run())


class Watcher:
    """Who hears of events; `seen` is what it heard."""

    def __init__(self, broker: Events, who: Peer) -> None:
        self._stream = broker.watch(who)
        self.seen: list[Event] = []

    async def next(self) -> Event:
        event = await asyncio.wait_for(anext(self._stream), 5)
        self.seen.append(event)
        return event

    async def drain(self) -> list[str]:
        """What there is to hear now."""
        try:
            while True:
                event = await asyncio.wait_for(anext(self._stream), 0.2)
                self.seen.append(event)
        except TimeoutError:
            return [event.event for event in self.seen[1:]]


async def watcher(broker: Events, uid: int) -> Watcher:
    made = Watcher(broker, peer(uid))
    assert (await made.next()).event == "watching"
    return made


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], list[Event]]:
    caplog.set_level(logging.INFO, "tapster.audit")

    def events_of_log() -> list[Event]:
        found = [record.msg for record in caplog.records]
        return [each.event for each in found if isinstance(each, audit.Record)]

    return events_of_log


Told = Callable[[], list[Event]]


class TestTelling:
    def test_comes_after_the_reply_and_in_order(self, told: Told) -> None:
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

    def test_levels(self, told: Told, caplog: pytest.LogCaptureFixture) -> None:
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


class TestWatchers:
    def test_root_sees_all_a_user_its_own(self) -> None:
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

    def test_who_may_see_can_be_said(self) -> None:
        async def play(broker: Events) -> None:
            alice, bob = [await watcher(broker, u) for u in (ALICE, BOB)]
            broker.about("attached", nic(ALICE), context=context(ALICE))
            assert await bob.drain() == ["attached"]
            assert await alice.drain() == []

        played(play, lambda who, _: who.uid == BOB)

    @pytest.mark.parametrize("what", ["denied", "failed"])
    def test_a_caller_learns_that_it_was_not_why(self, what: str) -> None:
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

    def test_a_caller_hears_of_a_refusal_no_sooner_than_the_reply(
        self, monkeypatch: pytest.MonkeyPatch
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

    def test_only_root_is_told_where_programs_are(self) -> None:
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

    def test_of_own_requests_the_rule_is_told(self) -> None:
        async def play(broker: Events) -> None:
            alice = await watcher(broker, ALICE)
            broker.about("attached", nic(ALICE), context=context(ALICE, rule=RULE))
            assert (await alice.next()).rule == RULE
            broker.about("refused", nic(ALICE), "another guest has it")
            assert (await alice.next()).reason == "another guest has it"

        played(play)

    def test_one_that_is_gone_is_not_waited_for(self) -> None:
        async def play(broker: Events) -> None:
            made = broker.watch(peer(ALICE))
            await anext(made)
            broker.denied(context(ALICE), "why")
            await asyncio.sleep(0)
            assert isinstance(made, AsyncIterator)
            await made.aclose()  # type: ignore[attr-defined]
            await asyncio.sleep(REFUSAL_SECONDS * 2)

        played(play)


class TestFlood:
    def test_is_told_within_a_measure_and_then_as_a_number(
        self, told: Told, monkeypatch: pytest.MonkeyPatch
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

    def test_is_no_reason_not_to_tell_what_has_changed(self, told: Told) -> None:
        async def play(broker: Events) -> None:
            for _ in range(60):
                broker.denied(context(ALICE), "why")
                broker.about("attached", nic(ALICE), context=context(ALICE))
            await asyncio.sleep(0)
            assert sum(e.event == "attached" for e in told()) == 60
            assert sum(e.event == "denied" for e in told()) == 50

        played(play)

    def test_is_summed_up_at_the_end(self, told: Told) -> None:
        async def play(broker: Events) -> None:
            for _ in range(60):
                broker.denied(context(ALICE), "why")
            await asyncio.sleep(0)

        played(play)
        assert [e.count for e in told()][-1] == 10


def test_a_watcher_too_slow_loses_its_watch() -> None:
    async def play(broker: Events) -> None:
        slow = await watcher(broker, ALICE)
        for _ in range(events.QUEUE + 1):
            broker.about("attached", nic(ALICE))
        await asyncio.sleep(0)
        with pytest.raises(errors.BrokerBusy):
            await slow.next()

    played(play)
