# SPDX-License-Identifier: LGPL-2.1-or-later
"""`polkit.client`: what is asked, who waits and until when, and how much of it there
may be. The real bus and polkit are in kernel/test_polkit.py."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from fakes.bus import FakeBus
from support.polkit_client import ATTACH, DETAILS, Connected, Run, says
from tapster.daemon.decide.polkit import client as polkit
from tapster.daemon.decide.polkit import dbus as bus
from tapster.daemon.decide.polkit.client import Polkit
from tapster.kernel import process

pytestmark = pytest.mark.usefixtures("no_leaked_fd")


def test_a_question_tells_polkit_the_process_the_action_and_the_details(
    run: Run, client: Connected
) -> None:
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
def test_any_other_reply_than_yes_is_no(
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


def test_answers_find_their_questions_in_any_order(run: Run, client: Connected) -> None:
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


def test_a_question_that_is_not_answered_in_time_is_no_and_withdrawn(
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


def test_a_person_who_does_not_answer_is_waited_for_until_a_limit(
    run: Run, client: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polkit, "PATIENT", 0.05)

    async def body(fake: FakeBus, asking: Polkit) -> None:
        assert not (await client.ask(asking, interactive=True)).allowed
        assert await fake.withdrew() == fake.questions[0].number

    run(body)


def test_a_client_that_goes_has_its_question_withdrawn(
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


def test_a_call_that_is_cancelled_has_its_question_withdrawn(
    run: Run, client: Connected
) -> None:
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
def test_a_user_has_no_more_than_its_share_of_questions(run: Run) -> None:
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
def test_all_users_together_have_no_more_questions_than_the_limit(run: Run) -> None:
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


@pytest.mark.parametrize("value", ["a\0b", "\ud800", "x" * 256, "ü" * 128])
def test_a_name_that_dbus_can_t_carry_is_never_sent(
    run: Run, client: Connected, value: str
) -> None:
    """The bus would hang up, on all."""

    async def body(fake: FakeBus, asking: Polkit) -> None:
        answer = await client.ask(asking, {"guest": value})
        assert not answer.allowed
        assert not fake.links

    run(body)


def test_an_error_that_nobody_foresaw_is_no(
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


def test_closing_answers_no_to_whoever_waits(run: Run, client: Connected) -> None:
    async def body(fake: FakeBus, asking: Polkit) -> None:
        call = client.ask(asking)
        await fake.asked()
        asking.close()
        assert "ending" in (await call).reason

    run(body)


def test_the_library_is_imported_only_when_polkit_is_asked() -> None:
    program = (
        "import sys; from tapster.daemon.decide.polkit.client import Polkit;"
        "Polkit().close();"
        "sys.exit('jeepney' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_polkit_is_asked_about_nobody_outside_of_a_call(
    run: Run, client: Connected
) -> None:
    async def body(fake: FakeBus, asking: Polkit) -> None:
        answer = await asking.authorize(client.peer, ATTACH, DETAILS, False)
        assert not answer.allowed
        assert not fake.links

    run(body)


def test_a_yes_is_no_if_the_process_has_ended_meanwhile(
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
