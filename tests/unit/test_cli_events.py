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

pytestmark = pytest.mark.usefixtures("no_leaked_fd")

NOBODY = dict.fromkeys(("ifname", "mac", "ipv4", "ipv6", "name", "reason"))
WATCHING = {**NOBODY, "time": "2026-01-02T03:04:05.678+00:00", "event": "watching"}
ATTACHED = {
    **{key: NIC[key] for key in (*list(NOBODY)[:5], "network", "bridge", "user")},
    "time": "2026-01-02T03:04:06.789+00:00",
    "event": "attached",
    "reason": None,
}
REFUSED = {**ATTACHED, "event": "refused", "network": None, "reason": "not\x1bnice"}
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
def test_json_has_an_object_a_line_with_all_its_words(path: str, number: int) -> None:
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


def test_a_bridge_and_a_reason(path: str) -> None:
    with FakeBroker(path, say(stream(REFUSED))):
        (line,) = tapster("events", broker=path).stdout.splitlines()
    wanted = LINE.replace("attached", "refused").replace("default", "tapbr1")
    assert line == f"{wanted} not?nice"


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
def test_an_end_of_the_broker_is_an_error(path: str, data: bytes, why: str) -> None:
    with FakeBroker(path, say(data)):
        done = tapster("events", "--json", broker=path)
    assert done.returncode == 1
    assert json.loads(done.stdout.splitlines()[-1]) == ATTACHED
    assert done.stderr == f"tapster: {why}\n"


def test_no_broker_is_an_error_and_none_is_started(runtime: str) -> None:
    done = tapster("events", broker=None)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "tapster: no broker is running\n"
    assert os.listdir(runtime) == []


def test_a_reader_that_has_left_is_no_news(path: str) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    with FakeBroker(path, fake.say_and_hang(stream(ATTACHED))):
        done = tapster("events", broker=path, stdout=theirs)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (141, "")


VALUES = st.none() | st.text() | st.integers() | st.lists(st.text())


@given(st.dictionaries(st.sampled_from([*events.COLUMNS, "reason", "x"]), VALUES))
def test_any_event_is_one_harmless_line(event: dict[str, object]) -> None:
    line = events.line(event)
    assert line.isprintable()
    assert len(line.split(" ")) >= len(events.COLUMNS)
