# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster events`: each event as it comes, and an end that tells what it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import broker as fake
from fakes.broker import NIC, FakeBroker, encode, error, say
from support.command import COMMAND, tapster, world
from tapster.cli import events
from tapster.wire.objects import Event

pytestmark = pytest.mark.usefixtures("no_leaked_fd")

NOBODY = vars(Event("2026-01-02T03:04:05.678+00:00", "watching"))
WATCHING = {**NOBODY, "uid": 1000, "user": "alice"}
ATTACHED = {
    **{key: NIC.get(key, value) for key, value in NOBODY.items()},
    "time": "2026-01-02T03:04:06.789+00:00",
    "event": "attached",
    "verb": "attach",
    "command": "qemu",
}
REFUSED = {**ATTACHED, "event": "refused", "network": None, "reason": "not\x1bnice"}
DENIED = {
    **NOBODY,
    "event": "denied",
    "verb": "add-forward",
    "outcome": "denied",
    "user": "alice",
    "network": "lan",
    "port": "tcp/22",
    "reason": "no rule allows it",
    "rule": "/etc/t.toml:3",
}
LINE = (
    "2026-01-02T03:04:06.789+00:00 attached web1 alice default tapster1"
    f" {NIC['mac']} 10.1.2.3 -"
)


def stream(*what: dict[str, Any], end: bool = False) -> bytes:
    last = len(what) if end else len(what) + 1
    return b"".join(
        encode({"event": event}, continues=number < last)
        for number, event in enumerate(what, 1)
    )


@contextmanager
def running(path: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [*COMMAND, "events", *arguments],
        env=world(path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_events_come_at_once_until_somebody_ends_it(path: str, number: int) -> None:
    script = fake.say_and_hang(stream(WATCHING, ATTACHED))
    with FakeBroker(path, script) as broker, running(path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == LINE + "\n"
        process.send_signal(number)
        assert process.communicate() == ("", "tapster: watching\n")
        assert process.returncode == 0
    assert broker.requests[0]["more"] is True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_events_json_has_an_object_a_line_with_all_fields(
    path: str, number: int
) -> None:
    told = [WATCHING, {**ATTACHED, "colour": "\x1bé"}, REFUSED]
    script = fake.say_and_hang(stream(*told))
    with FakeBroker(path, script), running(path, "--json") as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in told]
        process.send_signal(number)
        assert process.communicate() == ("", "")
        assert process.returncode == 0
    assert [json.loads(line) for line in lines] == told
    assert "".join(lines).isascii()


def test_event_on_a_bridge_shows_the_bridge_and_its_reason(path: str) -> None:
    with FakeBroker(path, say(stream(REFUSED))):
        (line,) = tapster("events", broker=path).stdout.splitlines()
    wanted = LINE.replace("attached", "refused").replace("default", "tapbr1")
    assert line == f"{wanted} not?nice"


@pytest.mark.parametrize(
    ("more", "end"),
    [
        ({}, "add-forward tcp/22 no rule allows it [/etc/t.toml:3]"),
        ({"rule": None, "reason": None}, "add-forward tcp/22"),
        (
            {"event": "failed", "outcome": "failed", "rule": None},
            "add-forward tcp/22 no rule allows it",
        ),
        (
            {"event": "reload-refused", "outcome": "failed", "port": None},
            "add-forward failed no rule allows it [/etc/t.toml:3]",
        ),
        (
            {"event": "forward-added", "outcome": "ok", "reason": "tcp/22 web:22"},
            "tcp/22 tcp/22 web:22 [/etc/t.toml:3]",
        ),
        ({"outcome": None, "rule": "a\nb", "reason": None}, "tcp/22 [a?b]"),
    ],
)
def test_outcome_is_shown_if_it_is_not_the_usual_one(
    more: dict[str, Any], end: str
) -> None:
    event = {**DENIED, **more}
    start = f"{NOBODY['time']} {event['event']} - alice lan - - - -"
    assert events.line(event) == f"{start} {end}"


def test_event_of_an_older_broker_is_shown() -> None:
    old = {key: ATTACHED[key] for key in events.COLUMNS}
    assert events.line({**old, "reason": None}) == LINE
    assert events.line({**old, "reason": "why"}) == f"{LINE} why"


def test_columns_are_fields_of_the_brokers_event() -> None:
    assert {*events.COLUMNS, *events.MORE} <= set(NOBODY)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (stream(WATCHING, ATTACHED), "the broker has gone away"),
        (stream(WATCHING, ATTACHED, end=True), "the broker has ended the watch"),
        (stream(ATTACHED) + b"{", "the broker hung up in the middle of its answer"),
        (
            stream(ATTACHED) + error("io.tapster.Broker.BrokerBusy", message="slow"),
            "slow",
        ),
    ],
)
def test_end_of_the_broker_is_an_error(path: str, data: bytes, why: str) -> None:
    with FakeBroker(path, say(data)):
        done = tapster("events", "--json", broker=path)
    assert done.returncode == 1
    assert json.loads(done.stdout.splitlines()[-1]) == ATTACHED
    assert done.stderr == f"tapster: {why}\n"


def test_events_whose_reader_has_left_have_the_status_of_sigpipe(path: str) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    with FakeBroker(path, fake.say_and_hang(stream(ATTACHED))):
        done = tapster("events", broker=path, stdout=theirs)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (141, "")


VALUES = st.none() | st.text() | st.integers() | st.lists(st.text())


@given(st.dictionaries(st.sampled_from([*events.COLUMNS, *events.MORE, "x"]), VALUES))
def test_any_event_is_one_printable_line(event: dict[str, object]) -> None:
    line = events.line(event)
    assert line.isprintable()
    assert len(line.split(" ")) >= len(events.COLUMNS)
