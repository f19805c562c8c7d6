# SPDX-License-Identifier: LGPL-2.1-or-later
"""`decide.polkit.client` and what it is made of, against a bus that does not
keep to anything. The real ones are in kernel/test_polkit.py.

Each test runs with tasks that start eagerly, as the daemon's, and with others.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import subprocess
import sys
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jeepney import DBusAddress, Message, new_method_call, new_method_return

from fakes.bus import ANSWER, FakeBus, signal, turn_away
from tapster.daemon.decide.polkit import client as polkit
from tapster.daemon.decide.polkit import dbus as bus
from tapster.daemon.decide.polkit.client import Answer, Polkit
from tapster.daemon.decide.polkit.subject import Subject, Unclear
from tapster.daemon.identify import caller, peer
from tapster.daemon.process import eager_tasks
from tapster.kernel import process
from tapster.model import Peer

pytestmark = pytest.mark.usefixtures("no_leaked_fd")

ATTACH = "io.tapster.attach"
DETAILS = {"user": "alice", "network": "lan", "guest": "web-1"}
Body = Callable[[FakeBus, Polkit], Awaitable[None]]
Run = Callable[[Body], None]


@pytest.fixture(params=[eager_tasks.factory, None], ids=["eager", "plain"])
def run(request: pytest.FixtureRequest, path: str) -> Run:
    """Run a test's body, as a callback of the loop starts it: without a task."""

    def run_it(body: Body) -> None:
        async def whole() -> None:
            loop = asyncio.get_running_loop()
            loop.set_task_factory(request.param)
            asking = Polkit(f"unix:path={path}")
            async with FakeBus(path) as fake:
                done = loop.create_future()
                loop.call_soon(lambda: asyncio.ensure_future(body(fake, asking))
                               .add_done_callback(done.set_result))  # fmt: skip
                try:
                    (await asyncio.wait_for(done, 30)).result()
                finally:
                    asking.close()

        asyncio.run(whole())

    return run_it


class Connected:
    """A client that is this very process, at the other end of a socket."""

    def __init__(self, uid: int | None = None) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.peer = peer.identify(self.ours)
        if uid is not None:  # a tale; only the limits go by it
            known = self.peer
            self.peer = Peer(uid, known.gid, known.groups, known.pid)
        self.accepted = time.clock_gettime(time.CLOCK_BOOTTIME)
        self.waiting: set[asyncio.Future[Any]] = set()

    def __enter__(self) -> Connected:
        return self

    def __exit__(self, *_: object) -> None:
        self.ours.close()
        self.theirs.close()

    def pidfd(self) -> int:
        return peer.pidfd(self.ours)

    @contextmanager
    def until_gone(self, future: asyncio.Future[Any]) -> Iterator[None]:
        self.waiting.add(future)
        try:
            yield
        finally:
            self.waiting.discard(future)

    def go(self) -> None:
        for future in self.waiting:
            future.cancel()

    def ask(
        self,
        asking: Polkit,
        details: Mapping[str, str] = DETAILS,
        *,
        interactive: bool = False,
    ) -> asyncio.Future[Answer]:
        """A call of that client's, which does no more than ask."""
        token = caller.CALLER.set(weakref.ref(self))
        try:
            return asyncio.ensure_future(
                asking.authorize(self.peer, ATTACH, details, interactive)
            )
        finally:
            caller.CALLER.reset(token)


@pytest.fixture
def client() -> Iterator[Connected]:
    with Connected() as connected:
        yield connected


@pytest.fixture
def anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients may have the uids that they were given."""
    monkeypatch.setattr(Subject, "_identify", lambda *_: 1)


def says(**answers: Any) -> Callable[[Any], None]:
    return lambda question: question.answer(**answers)


# What is asked, and what comes of the answer


def test_the_question(run: Run, client: Connected) -> None:
    async def body(fake: FakeBus, asking: Polkit) -> None:
        call = client.ask(asking)
        question = await fake.asked()
        assert not call.done()
        question.answer(True)
        assert await call == (True, "polkit allows it")
        assert question.action == ATTACH
        assert question.details == {
            **DETAILS,
            "polkit.message": "Authentication is required for $(user)"
            " to attach guest $(guest) to network $(network)",
        }
        assert question.flags == 0
        assert question.number
        assert question.kind == "unix-process"
        assert question.subject["pid"] == ("u", os.getpid())
        assert question.subject["uid"] == ("i", os.getuid())
        started = process.start_time(os.getpid())
        assert question.subject["start-time"] == ("t", started)
        kind, fd = question.subject["pidfd"]
        assert kind == "h"
        with open(f"/proc/self/fdinfo/{fd}") as file:
            assert f"Pid:\t{os.getpid()}\n" in file

    run(body)


def test_a_person_is_asked_only_where_that_was_offered(
    run: Run, client: Connected
) -> None:
    async def body(fake: FakeBus, asking: Polkit) -> None:
        fake.on_question = says(allowed=True)
        await client.ask(asking)
        await client.ask(asking, interactive=True)
        assert [question.flags for question in fake.questions] == [0, 1]

    run(body)


@pytest.mark.parametrize(
    ("details", "text"),
    [
        ({}, " to attach a guest to any network"),
        (
            {"user": "a", "bridge": "br0"},
            " for $(user) to attach a guest to bridge $(bridge)",
        ),
        (
            {"verb": "attach", "user": "a", "network": "lan"},
            " for $(user) to attach a guest to network $(network)",
        ),
    ],
)
def test_the_message_names_what_there_is(
    run: Run, client: Connected, details: dict[str, str], text: str
) -> None:
    async def body(fake: FakeBus, asking: Polkit) -> None:
        fake.on_question = says(allowed=True)
        await client.ask(asking, details)
        message = {"polkit.message": f"Authentication is required{text}"}
        assert fake.questions[0].details == {**details, **message}

    run(body)


@pytest.mark.parametrize(
    ("action", "details", "text"),
    [
        (
            "forward",
            {"user": "a", "network": "lan", "guest": "web", "port": "tcp/80"},
            (
                "for $(user) to forward $(port) of this host to guest $(guest)"
                " on network $(network)"
            ),
        ),
        (
            "manage",
            {"verb": "detach", "user": "a", "bridge": "br0", "guest": "web"},
            "for $(user) to manage guest $(guest) on bridge $(bridge)",
        ),
        (
            "manage",
            {"verb": "reload", "user": "a"},
            "for $(user) to have the configuration of tapster's networks read anew",
        ),
    ],
)
def test_the_message_is_about_what_is_to_be_done(
    action: str, details: dict[str, str], text: str
) -> None:
    from tapster.daemon.decide.polkit import messages as authority

    subject: Any = SimpleNamespace(pid=1, started=1, uid=1, pidfd=1)
    message = authority.check(subject, f"io.tapster.{action}", details, True, "1")
    told = message.body[2]["polkit.message"]
    assert told == f"Authentication is required {text}"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (lambda q: q.answer(False), "does not allow"),
        (lambda q: q.answer(False, challenge=True), "did not offer"),
        (lambda q: q.answer(False, dismissed="true"), "dismissed"),
        (lambda q: q.fail("org.example.No", "in\ntwo lines"), "No: in two lines"),
        (lambda q: q.say("b", (True,)), "not understood"),
        (lambda q: q.say("(bb)", ((True, False),)), "not understood"),
        (lambda q: q.say("", ()), "not understood"),
        (lambda q: q.say("(bba{ss})s", ((True, False, {}), "x")), "not understood"),
        (lambda q: q.say("(uba{ss})", ((1, False, {}),)), "not understood"),
    ],
)
def test_all_else_is_no(
    run: Run, client: Connected, reply: Callable[[Any], None], reason: str
) -> None:
    async def body(fake: FakeBus, asking: Polkit) -> None:
        fake.on_question = reply
        answer = await client.ask(asking)
        assert not answer.allowed
        assert reason in answer.reason
        assert "\n" not in answer.reason
        fake.on_question = says(allowed=True)  # and harms nobody else
        assert (await client.ask(asking)).allowed
        assert len(fake.links) == 1

    run(body)


def test_answers_find_their_questions(run: Run, client: Connected) -> None:
    async def body(fake: FakeBus, asking: Polkit) -> None:
        calls = [client.ask(asking, {"guest": f"g{n}"}) for n in range(8)]
        await fake.asked(8)
        for question in reversed(fake.questions):
            question.answer(question.details["guest"] in ("g2", "g5"))
        answers = [await call for call in calls]
        assert [n for n, answer in enumerate(answers) if answer.allowed] == [2, 5]
        assert len(fake.links) == 1
        assert len({question.number for question in fake.questions}) == 8

    run(body)


# Who waits, and until when


def test_what_is_not_answered_in_time_is_no(
    run: Run, client: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polkit, "QUICK", 0.05)

    async def body(fake: FakeBus, asking: Polkit) -> None:
        patient = client.ask(asking, interactive=True)
        patiently = await fake.asked()
        answer = await client.ask(asking)
        assert not answer.allowed
        assert "in 0.05 s" in answer.reason
        assert await fake.withdrew() == fake.questions[1].number
        assert not patient.done()
        patiently.answer(True)
        assert (await patient).allowed

    run(body)


def test_a_person_is_not_waited_for_for_ever(
    run: Run, client: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polkit, "PATIENT", 0.05)

    async def body(fake: FakeBus, asking: Polkit) -> None:
        assert not (await client.ask(asking, interactive=True)).allowed
        assert await fake.withdrew() == fake.questions[0].number

    run(body)


def test_a_client_that_goes_takes_its_question_along(
    run: Run, client: Connected
) -> None:
    async def body(fake: FakeBus, asking: Polkit) -> None:
        call = client.ask(asking, interactive=True)
        with Connected() as other:
            others = other.ask(asking, interactive=True)
            first = await fake.asked()
            await fake.asked(2)
            client.go()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert call.cancelled()
            assert await fake.withdrew() == first.number
            first.fail("org.freedesktop.PolicyKit1.Error.Cancelled", "it was")
            fake.questions[1].answer(True)
            assert (await others).allowed
        assert fake.withdrawn == [first.number]
        assert not asking._unanswered

    run(body)


def test_a_call_may_be_cancelled_from_outside(run: Run, client: Connected) -> None:
    async def body(fake: FakeBus, asking: Polkit) -> None:
        call = client.ask(asking)
        question = await fake.asked()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await fake.withdrew() == question.number
        assert not client.waiting

    run(body)


def test_a_client_may_go_before_the_bus_is_there(run: Run, client: Connected) -> None:
    async def body(fake: FakeBus, asking: Polkit) -> None:
        fake.greet = lambda *_: None
        call = client.ask(asking)
        with Connected() as other:
            others = other.ask(asking)
            await asyncio.sleep(0.02)
            client.go()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert not others.done()
            fake.links[0].hang_up()
            assert "gone" in (await others).reason
        assert not fake.questions
        assert not asking._unanswered

    run(body)


@pytest.mark.usefixtures("anybody")
def test_nobody_has_more_than_his_share_of_questions(run: Run) -> None:
    async def body(fake: FakeBus, asking: Polkit) -> None:
        clients = [Connected(uid) for uid in (10, 11)]
        calls = [clients[0].ask(asking) for _ in range(polkit.PER_USER)]
        await fake.asked(polkit.PER_USER)
        refused = await clients[0].ask(asking)
        assert not refused.allowed
        assert "too many" in refused.reason
        others = clients[1].ask(asking)
        (await fake.asked(polkit.PER_USER + 1)).answer(True)
        assert (await others).allowed
        for question in fake.questions[:-1]:
            question.answer(True)
        assert all([(await call).allowed for call in calls])
        fake.on_question = says(allowed=True)
        assert (await clients[0].ask(asking)).allowed
        for each in clients:
            each.__exit__()

    run(body)


@pytest.mark.usefixtures("anybody")
def test_nor_have_all_together(run: Run) -> None:
    async def body(fake: FakeBus, asking: Polkit) -> None:
        clients = [Connected(uid) for uid in range(10, 10 + polkit.AT_ONCE + 1)]
        calls = [each.ask(asking) for each in clients]
        await fake.asked(polkit.AT_ONCE)
        assert "too many" in (await calls[-1]).reason
        for question in fake.questions:
            question.answer(True)
        assert all([(await call).allowed for call in calls[:-1]])
        assert not asking._unanswered
        for each in clients:
            each.__exit__()

    run(body)


@pytest.mark.usefixtures("anybody")
def test_persons_who_do_not_answer_keep_nobody_from_what_needs_none(run: Run) -> None:
    async def body(fake: FakeBus, asking: Polkit) -> None:
        clients = [Connected(uid) for uid in range(10, 10 + polkit.PERSONS + 2)]
        calls = [each.ask(asking, interactive=True) for each in clients[:-1]]
        await fake.asked(polkit.PERSONS)
        assert "too many" in (await calls[-1]).reason
        quick = clients[-1].ask(asking)
        (await fake.asked(polkit.PERSONS + 1)).answer(True)
        assert (await quick).allowed
        for question in fake.questions[:-1]:
            question.answer(True)
        assert all([(await call).allowed for call in calls[:-1]])
        assert asking._persons == 0
        for each in clients:
            each.__exit__()

    run(body)


@pytest.mark.usefixtures("anybody")
def test_a_withdrawn_question_counts_until_polkit_is_done_with_it(run: Run) -> None:
    async def body(fake: FakeBus, asking: Polkit) -> None:
        for number in range(polkit.PER_USER):
            with Connected(10) as client:
                call = client.ask(asking, interactive=True)
                await fake.asked(number + 1)
                client.go()
                await asyncio.wait({call})
        await fake.withdrew(polkit.PER_USER)
        with Connected(10) as client:
            assert "too many" in (await client.ask(asking)).reason
            fake.questions[0].fail("org.example.Cancelled", "")
            fake.on_question = says(allowed=True)
            async with asyncio.timeout(10):
                while not (await client.ask(asking)).allowed:
                    await asyncio.sleep(0)

    run(body)


# A bus that is not what it should be


def test_without_a_bus_the_answer_is_no(run: Run, client: Connected) -> None:
    async def body(fake: FakeBus, asking: Polkit) -> None:
        for address in (
            f"unix:path={fake.path}.not-there", "unix:path=/dev/null", "tcp:host=::",
            "unix:abstract=tapster-nobody-listens-there", "unix", "", "nonsense;",
            f"unix:path=/{'x' * 200}",
        ):  # fmt: skip
            if address:
                answer = await client.ask(Polkit(address))
                assert not answer.allowed
                assert "bus" in answer.reason

    run(body)


def test_the_first_bus_that_is_there_is_taken(run: Run, client: Connected) -> None:
    async def body(fake: FakeBus, asking: Polkit) -> None:
        fake.on_question = says(allowed=True)
        several = Polkit(f"unix:path={fake.path}.not-there;{fake.address}")
        assert (await client.ask(several)).allowed
        several.close()

    run(body)


def test_the_systems_bus_is_where_the_environment_says(
    run: Run, client: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(fake: FakeBus, asking: Polkit) -> None:
        monkeypatch.setenv(bus.VARIABLE, fake.address)
        fake.on_question = says(allowed=True)
        systems = Polkit()
        assert (await client.ask(systems)).allowed
        systems.close()

    run(body)


UNFRIENDLY: dict[str, Callable[[FakeBus], object]] = {
    "says nothing": lambda fake: fake.dialogue.clear(),
    "rejects": lambda fake: fake.dialogue.update({b"AUTH": b"REJECTED X\r\n"}),
    "takes no descriptors": lambda fake: fake.dialogue.update(
        {b"NEGOTIATE_UNIX_FD": b"ERROR\r\n"}
    ),
    "never ends": lambda fake: fake.dialogue.update({b"AUTH": b"x" * 9000}),
    "does not greet": lambda fake: setattr(fake, "greet", lambda *_: None),
    "turns away": lambda fake: setattr(fake, "greet", turn_away),
    "hangs up": lambda fake: setattr(fake, "greet", lambda link, _: link.hang_up()),
    "greets in no language": lambda fake: setattr(
        fake, "greet", lambda link, _: link.write(b"hello, hello, hello!")
    ),
}


@pytest.mark.parametrize("kind", UNFRIENDLY)
def test_an_unfriendly_bus_is_no_and_the_next_one_is_asked(
    run: Run, client: Connected, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(polkit, "OPENING", 0.05)

    async def body(fake: FakeBus, asking: Polkit) -> None:
        dialogue, greet = dict(fake.dialogue), fake.greet
        UNFRIENDLY[kind](fake)
        calls = [client.ask(asking) for _ in range(3)]
        for call in calls:
            assert not (await call).allowed
        assert len(fake.links) == 1  # all had waited for the same
        fake.dialogue, fake.greet = dialogue, greet
        fake.on_question = says(allowed=True)
        assert (await client.ask(asking)).allowed

    run(body)


def huge_answer(question: Any) -> None:
    question.answer(True, text="x" * bus.LARGEST)


BROKEN: dict[str, Callable[[Any], object]] = {
    "goes": lambda question: question.link.hang_up(),
    "babbles": lambda question: question.link.write(b"\0" * 64),
    "sends half": lambda question: (
        question.link.write(b"l\2\0\1\x10\0\0\0"),
        question.link.hang_up(),
    ),
    "sends what can't be read": lambda question: question.link.write(
        struct.pack("<cBBBIII", b"l", 2, 0, 1, 0, 1, 8) + b"\xff" * 8
    ),
    "sends too much": huge_answer,
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_bus_that_breaks_is_no_to_all_and_the_next_one_is_asked(
    run: Run, client: Connected, kind: str
) -> None:
    async def body(fake: FakeBus, asking: Polkit) -> None:
        calls = [client.ask(asking) for _ in range(3)]
        BROKEN[kind](await fake.asked(3))
        for call in calls:
            answer = await call
            assert not answer.allowed
            assert "polkit can't be asked" in answer.reason
        assert not asking._unanswered
        fake.on_question = says(allowed=True)
        assert (await client.ask(asking)).allowed
        assert len(fake.links) == 2

    run(body)


def test_a_bus_that_does_not_read_is_given_up(run: Run, client: Connected) -> None:
    async def body(fake: FakeBus, asking: Polkit) -> None:
        fake.on_question = says(allowed=True)
        assert (await client.ask(asking)).allowed
        assert asking._bus is not None
        with pytest.raises(bus.BusError, match=r"read|takes nothing"):
            for _ in range(10_000):
                asking._bus.call(new_method_call(
                    DBusAddress("/a", "a.b", "a.b"), "c", "s", ("x" * 1000,)
                ))  # fmt: skip
        assert asking._bus.closed
        fake.links[0].hang_up()

    run(body)


def test_what_nobody_asked_for_is_passed_over(run: Run, client: Connected) -> None:
    async def body(fake: FakeBus, asking: Polkit) -> None:
        noise = signal(100) + signal(bus.LARGEST * 2) + signal(0)

        async def make_noise(question: Any) -> None:
            # More than a socket holds: it is written while it is read.
            write = question.link.write
            await asyncio.to_thread(write, noise + signal(3)[:20])
            await asyncio.to_thread(write, signal(3)[20:] + noise)
            question.answer(True)

        writers = []
        fake.on_question = lambda q: writers.append(
            asyncio.ensure_future(make_noise(q))
        )
        for _ in range(2):
            assert (await client.ask(asking)).allowed
        await asyncio.gather(*writers)
        assert len(fake.links) == 1

    run(body)


@pytest.mark.parametrize("value", ["a\0b", "\ud800", "x" * 256, "ü" * 128])
def test_what_dbus_has_no_string_for_never_gets_there(
    run: Run, client: Connected, value: str
) -> None:
    """The bus would hang up, on all."""

    async def body(fake: FakeBus, asking: Polkit) -> None:
        answer = await client.ask(asking, {"guest": value})
        assert not answer.allowed
        assert not fake.links

    run(body)


def test_what_nobody_foresaw_is_no(
    run: Run,
    client: Connected,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    async def body(fake: FakeBus, asking: Polkit) -> None:
        monkeypatch.setattr(bus.Bus, "call", fail)
        assert not (await client.ask(asking)).allowed
        assert "ZeroDivisionError" in caplog.text
        assert not asking._unanswered

    run(body)


def test_closing_answers_who_waits(run: Run, client: Connected) -> None:
    async def body(fake: FakeBus, asking: Polkit) -> None:
        call = client.ask(asking)
        await fake.asked()
        asking.close()
        assert "ending" in (await call).reason

    run(body)


def test_who_never_asks_has_neither_library_nor_connection() -> None:
    program = (
        "import sys; from tapster.daemon.decide.polkit.client import Polkit;"
        "Polkit().close();"
        "sys.exit('jeepney' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# Whom it is asked about


def subject_of(connected: Connected) -> Subject:
    return Subject(connected.peer, connected)


def test_a_subject_is_the_process_that_is_connected(client: Connected) -> None:
    subject = subject_of(client)
    try:
        assert subject.pid == os.getpid()
        assert subject.started == process.start_time(os.getpid())
        assert subject.lives()
    finally:
        subject.close()


def old_kernel() -> int:
    raise OSError(errno.ENOPROTOOPT, "Protocol not available")


def test_an_older_kernels_is_so_too(
    client: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "pidfd", old_kernel)
    subject_of(client).close()


def test_there_a_process_that_started_later_is_another(
    client: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "pidfd", old_kernel)
    ticks = os.sysconf("SC_CLK_TCK")
    later = (int(client.accepted * ticks) + 1) / ticks
    monkeypatch.setattr(process, "start_time", lambda _: int(later * ticks))
    with pytest.raises(Unclear, match="another process"):
        subject_of(client)


@pytest.mark.parametrize("code", [errno.ESRCH, errno.EINVAL, errno.ENODATA, 9, 24])
def test_a_pidfd_that_is_not_to_be_had_is_not_guessed(
    client: Connected, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail() -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(client, "pidfd", fail)
    with pytest.raises(Unclear, match="no pidfd"):
        subject_of(client)


@pytest.mark.parametrize("uids", [(0, 12345), (12345, 0), (12345, 12345)])
def test_a_process_that_is_another_users_by_now_is_not_asked_about(
    client: Connected, monkeypatch: pytest.MonkeyPatch, uids: tuple[int, int]
) -> None:
    mine = tuple(os.getuid() if uid == 0 else uid for uid in uids)
    monkeypatch.setattr(process, "user_ids", lambda _: mine)
    with pytest.raises(Unclear, match="another user"):
        subject_of(client)


@pytest.mark.parametrize("what", ["user_ids", "start_time"])
def test_a_process_that_can_t_be_found_is_gone(
    client: Connected, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(process, what, lambda _: None)
    with pytest.raises(Unclear, match="gone"):
        subject_of(client)


def test_what_was_read_of_a_process_that_ended_meanwhile_is_worth_nothing(
    client: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pid may have been another's when that was read."""
    child = subprocess.Popen(["true"])
    pidfd = os.pidfd_open(child.pid)
    child.wait()
    monkeypatch.setattr(client, "pidfd", lambda: pidfd)
    with pytest.raises(Unclear, match="gone"):
        subject_of(client)


@pytest.mark.parametrize(("uid", "pid"), [(0, 0), (1 << 31, 1), (0xFFFFFFFE, 1)])
def test_a_peer_that_polkit_can_t_be_told_of(uid: int, pid: int) -> None:
    with Connected() as client:
        client.peer = Peer(uid, 0, frozenset(), pid)
        with pytest.raises(Unclear):
            subject_of(client)


def test_nobody_else_is_asked_about_in_a_call(client: Connected) -> None:
    other = Peer(client.peer.uid, 0, frozenset(), 1)
    for who in (None, client):
        with pytest.raises(Unclear, match="call"):
            Subject(other, who)


def test_outside_of_a_call_nobody_is_asked_about(run: Run, client: Connected) -> None:
    async def body(fake: FakeBus, asking: Polkit) -> None:
        answer = await asking.authorize(client.peer, ATTACH, DETAILS, False)
        assert not answer.allowed
        assert not fake.links

    run(body)


def test_yes_is_no_to_a_process_that_has_ended(
    run: Run, client: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """polkit looks up a session by pid: it may have found another's."""

    async def body(fake: FakeBus, asking: Polkit) -> None:
        call = client.ask(asking)
        question = await fake.asked()
        monkeypatch.setattr(process, "has_ended", lambda _: True)
        question.answer(True)
        assert await call == (False, "the client's process is gone")

    run(body)


# What comes from a bus


def reply(number: int) -> Message:
    call = new_method_call(DBusAddress("/a", "a.b", "a.b"), "c")
    call.header.serial = number
    return new_method_return(call, ANSWER, ((True, False, {"n": str(number)}),))


PIECES = st.lists(
    st.integers(1, 999).map(lambda n: (n, reply(n).serialise(n)))
    | st.integers(0, 3000).map(lambda n: (0, signal(n))),
    max_size=8,
)


@settings(deadline=None)
@given(PIECES, st.lists(st.integers(1, 200), max_size=30))
def test_replies_are_found_wherever_the_stream_is_cut(
    pieces: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(data for _, data in pieces)
    replies, found, place = bus.Replies(), [], 0
    for cut in [*cuts, len(stream)]:
        found += replies.feed(stream[place : place + cut])
        place += cut
    numbers = [int(message.body[0][2]["n"]) for message in found]
    assert numbers == [number for number, _ in pieces if number]


@settings(deadline=None)
@given(st.binary(max_size=64) | st.binary(max_size=60).map(lambda b: b"l\2\0\1" + b))
def test_no_stream_does_more_than_end(data: bytes) -> None:
    try:
        bus.Replies().feed(data)
    except ValueError:
        pass
