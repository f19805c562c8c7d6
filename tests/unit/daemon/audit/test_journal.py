# SPDX-License-Identifier: LGPL-2.1-or-later
"""`audit.journal`: entries that the journal takes, sent without waiting."""

from __future__ import annotations

import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.records import of_entry
from tapster.daemon.audit import journal

pytestmark = pytest.mark.usefixtures("no_leaked_fd")

MINE = f"{os.stat('/').st_dev}:{os.stat('/').st_ino}"


def test_an_entry_has_a_line_for_each_field() -> None:
    entry = journal.serialize({"MESSAGE": "a=b", "PRIORITY": "6"})
    assert entry == b"MESSAGE=a=b\nPRIORITY=6\n"


def test_a_value_with_line_ends_can_not_pass_for_another_field() -> None:
    entry = journal.serialize({"A": "x\n_UID=0\n", "B": ""})
    assert entry == b"A\n\x09\0\0\0\0\0\0\0x\n_UID=0\n\nB=\n"


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9_]{0,9}", fullmatch=True),
                       st.text(st.characters(codec="utf-8"))))  # fmt: skip
def test_what_is_written_into_an_entry_is_what_is_read(fields: dict[str, str]) -> None:
    assert of_entry(journal.serialize(fields)) == fields


@given(st.text(st.characters(categories=["Cs", "L"])))
def test_half_a_character_can_be_written(value: str) -> None:
    of_entry(journal.serialize({"A": value}))


@pytest.mark.parametrize(
    ("stream", "is_it"),
    [(MINE, True), (None, False), ("", False), ("1:2", False), (MINE[:-1], False),
     (f"{MINE}:", False), (f"{MINE} ", False), ("x:y", False), ("\u00b2:1", False),
     (MINE.replace(":", ""), False)],
)  # fmt: skip
def test_stderr_is_the_journal_if_both_are_the_same_file(
    stream: str | None, is_it: bool
) -> None:
    fd = os.open("/", os.O_RDONLY)
    try:
        assert journal.is_journal(fd, stream) is is_it
    finally:
        os.close(fd)
    assert not journal.is_journal(fd, stream)  # closed


def test_an_entry_is_sent_as_one_datagram(place: str, received: socket.socket) -> None:
    sender = journal.Journal(place)
    assert sender.send({"MESSAGE": "one\ntwo"})
    assert of_entry(received.recv(4096)) == {"MESSAGE": "one\ntwo"}
    sender.close()


def test_nobody_waits_for_a_journal_that_does_not_read(
    place: str, received: socket.socket
) -> None:
    sender = journal.Journal(place)
    taken = [sender.send({"MESSAGE": "x" * 1000}) for _ in range(5000)]
    assert taken[0] and not taken[-1]
    while taken.pop(0):
        received.recv(4096)
    assert sender.send({"MESSAGE": "again"})
    sender.close()


def test_an_entry_that_is_too_large_is_not_sent(
    place: str, received: socket.socket
) -> None:
    sender = journal.Journal(place)
    assert not sender.send({"MESSAGE": "x" * 16 * 1024 * 1024})
    assert sender.send({"MESSAGE": "y"})
    assert of_entry(received.recv(4096)) == {"MESSAGE": "y"}
    sender.close()


def test_a_journal_that_went_may_come_back(place: str) -> None:
    sender = journal.Journal(place)
    assert not sender.send({"MESSAGE": "x"})
    for _ in range(2):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.bind(place)
            assert sender.send({"MESSAGE": "x"})
        assert not sender.send({"MESSAGE": "x"})
        os.unlink(place)
    sender.close()
