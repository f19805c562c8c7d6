# SPDX-License-Identifier: LGPL-2.1-or-later
"""`polkit.dbus`, and who uses it, against a bus that keeps to nothing."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jeepney import DBusAddress, Message, new_method_call, new_method_return

from fakes.bus import ANSWER, FakeBus, signal, turn_away
from support.polkit_client import Connected, Run, says
from tapster.daemon.decide.polkit import client as polkit
from tapster.daemon.decide.polkit import dbus as bus
from tapster.daemon.decide.polkit.client import Polkit

pytestmark = pytest.mark.usefixtures("no_leaked_fd")


def test_the_answer_is_no_without_a_bus(run: Run, client: Connected) -> None:
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


def test_the_first_address_with_a_bus_is_used(run: Run, client: Connected) -> None:
    async def body(fake: FakeBus, asking: Polkit) -> None:
        fake.on_question = says(allowed=True)
        several = Polkit(f"unix:path={fake.path}.not-there;{fake.address}")
        assert (await client.ask(several)).allowed
        several.close()

    run(body)


def test_the_environment_says_where_the_system_bus_is(
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
def test_a_bus_that_does_not_accept_us_is_no_and_the_next_is_asked(
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
        monkeypatch.setattr(polkit, "OPENING", 30.0)
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
def test_a_bus_that_breaks_is_no_to_all_who_wait_and_the_next_is_asked(
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


def test_messages_that_are_no_replies_are_skipped(run: Run, client: Connected) -> None:
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
def test_any_bytes_from_a_bus_end_the_stream_at_most(data: bytes) -> None:
    try:
        bus.Replies().feed(data)
    except ValueError:
        pass
