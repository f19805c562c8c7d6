# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster ls`: the wire's words for programs, a safe table for people."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.broker import NIC, FakeBroker, encode, error, hang_up, say
from support.command import COMMAND, tapster, world
from tapster.cli import ls
from tapster.cli.text import size, visible

pytestmark = pytest.mark.usefixtures("no_leaked_fd")

ODD = {
    **NIC,
    "name": "\x1b[31m[red]\u202ex\n",
    "network": None,
    "mac": None,
    "state": "refused",
    "reason": "its MAC is\tanother's",
    "rx_bytes": 5 << 20,
    "rx_packets": 12345,
}


def listing(*nics: dict[str, Any]) -> bytes:
    return encode({"nics": list(nics)})


def test_ls_json_has_exactly_the_fields_of_the_wire(path: str) -> None:
    future = {**NIC, "colour": "red"}
    with FakeBroker(path, say(listing(ODD, future))):
        done = tapster("ls", "--json", broker=path)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == [ODD, future]
    assert done.stdout.isascii()
    assert "\x1b" not in done.stdout


def test_ls_has_a_line_for_each_nic(path: str) -> None:
    with FakeBroker(path, say(listing(NIC, NIC))):
        done = tapster("ls", broker=path)
    assert (done.returncode, done.stderr) == (0, "")
    head, first, second = done.stdout.splitlines()
    assert head.split() == list(ls.HEAD)
    assert first.split() == second.split() == [
        "web1", "alice", "4711", "default", "tapster1", NIC["mac"], "10.1.2.3", "-",
        "active", "1B/3", "2B/4",
    ]  # fmt: skip
    assert head.index("STATE") == first.index("active")


def test_ls_shows_the_reason_of_a_nic_that_is_not_active(path: str) -> None:
    with FakeBroker(path, say(listing(NIC, ODD, {**NIC, "reason": "it was odd"}))):
        done = tapster("ls", broker=path)
    head, good, odd, odd_once = done.stdout.splitlines()
    assert head.endswith("REASON")
    assert good.endswith("2B/4")
    assert odd_once.endswith("2B/4")
    assert odd.endswith("its MAC is?another's")
    assert "tapbr1" in odd
    assert "5.0MiB/12345" in odd


def test_ls_shows_when_a_nic_expires(path: str) -> None:
    soon = {**NIC, "expires": "2026-01-02T23:04:05+00:00"}
    odd = {**ODD, "expires": "to\x1bmorrow"}
    with FakeBroker(path, say(listing(NIC, soon, odd))):
        done = tapster("ls", broker=path, env={"TZ": "Asia/Kolkata"})
        as_json = tapster("ls", "--json", broker=path)
    head, never, then, strange = done.stdout.splitlines()
    assert head.split() == [*ls.HEAD, "EXPIRES", "REASON"]
    assert never.endswith("2B/4")
    at = head.index("EXPIRES")
    assert then[at:] == "2026-01-03 04:34:05"
    assert strange[at:].split("  ")[0] == "to?morrow"
    assert strange.endswith("its MAC is?another's")
    expiries = [nic["expires"] for nic in json.loads(as_json.stdout)]
    assert expiries == [None, soon["expires"], odd["expires"]]


@given(st.text() | st.datetimes(timezones=st.timezones()).map(datetime.isoformat))
def test_any_date_is_shown_as_printable_text(date: str) -> None:
    assert ls.local_time(date).isprintable()


def test_guest_name_cannot_control_the_terminal(path: str) -> None:
    with FakeBroker(path, say(listing(ODD))):
        done = tapster("ls", broker=path)
    assert all(c.isprintable() for line in done.stdout.splitlines() for c in line)
    assert len(done.stdout.splitlines()) == 2
    assert "?[31m[red]?x?" in done.stdout


def on_a_terminal(path: str, **more: str) -> str:
    """What `tapster ls` writes to one of 80 columns."""
    ours, theirs = pty.openpty()
    env = world(path, **{"TERM": "xterm-256color", "COLUMNS": "80", **more})
    try:
        process = subprocess.Popen([*COMMAND, "ls"], env=env, stdout=theirs)
        os.close(theirs)
        shown = b""
        try:
            while some := os.read(ours, 65536):
                shown += some
        except OSError:
            pass  # nobody has the other end any more
        assert process.wait(60) == 0
    finally:
        os.close(ours)
    return shown.decode()


def test_terminal_gets_the_table_in_colours(path: str) -> None:
    with FakeBroker(path, say(listing(NIC, ODD))):
        plain = tapster("ls", broker=path).stdout.splitlines()
        coloured = on_a_terminal(path)
        without = on_a_terminal(path, NO_COLOR="1", TERM="dumb").splitlines()
    assert [line.split() for line in without] == [line.split() for line in plain]
    assert "\x1b[32mactive\x1b[0m" in coloured
    assert "\x1b[31mrefused" in coloured
    assert "?[31m[red]?x?" in coloured


def test_ls_without_a_broker_lists_no_nic_and_says_so(runtime: str) -> None:
    for arguments, shown in ((), ""), (("--json",), "[]\n"):
        done = tapster("ls", *arguments, broker=None)
        assert (done.returncode, done.stdout) == (0, shown)
        assert done.stderr == "tapster: no broker is running\n"
    assert os.listdir(runtime) == []


def test_ls_without_a_nic_says_so(path: str) -> None:
    with FakeBroker(path, say(listing())):
        done = tapster("ls", broker=path)
        assert (done.returncode, done.stdout) == (0, "")
        assert done.stderr == "tapster: nothing is attached\n"
        done = tapster("ls", "--json", broker=path)
        assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_ls_of_a_broker_that_fails_is_an_error(path: str) -> None:
    busy = error("io.tapster.Broker.BrokerBusy", message="busy", hint="try again")
    with FakeBroker(path, say(busy), hang_up):
        done = tapster("ls", "--json", broker=path)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "tapster: busy (try again)\n"
        assert tapster("ls", broker=path).returncode == 1
    done = tapster("ls", broker="/nowhere")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("tapster: no broker at /nowhere: ")


def test_full_disk_is_an_error_in_one_line(path: str) -> None:
    with FakeBroker(path, say(listing(NIC))), open("/dev/full", "w") as full:
        done = tapster("ls", broker=path, stdout=full)
    assert done.returncode == 1
    assert done.stderr == "tapster: No space left on device\n"


def test_ls_whose_reader_has_left_has_the_status_of_sigpipe(path: str) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    with FakeBroker(path, say(listing(NIC))):
        done = tapster("ls", broker=path, stdout=theirs)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1.0KiB"),
        (1536, "1.5KiB"),
        (10 * 1024, "10KiB"),
        ((1 << 20) - 1, "1.0MiB"),
        (3 << 30, "3.0GiB"),
        (1 << 70, "1024EiB"),
    ],
)
def test_sizes_have_at_most_four_characters_and_a_unit(count: int, text: str) -> None:
    assert size(count) == text


@given(st.integers(0, 1 << 64))
def test_sizes_are_rounded_by_less_than_a_tenth(count: int) -> None:
    text = size(count)
    units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
    unit = text.lstrip("0123456789.")
    value = float(text.removesuffix(unit)) * 1024 ** units.index(unit)
    assert abs(value - count) <= 0.051 * count
    assert len(text) <= 7


@given(st.text() | st.none() | st.integers())
def test_text_for_people_is_printable_and_never_empty(value: object) -> None:
    text = visible(value)
    assert text
    assert text.isprintable()
    assert visible(text) == text
