# SPDX-License-Identifier: LGPL-2.1-or-later
"""`audit.log`: where the log goes, and lines that nobody can forge."""

from __future__ import annotations

import io
import logging
import os
import socket
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.records import of_entry
from tapster.daemon.audit import journal, log

pytestmark = pytest.mark.usefixtures("no_leaked_fd")


class Told(log.Structured):
    def line(self) -> str:
        return '{"a": 1}'

    def fields(self) -> dict[str, str]:
        return {"MESSAGE": "a is 1", "TAPSTER_A": "1"}


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    made = logging.Logger("tapster.test")
    yield made
    for handler in made.handlers:
        handler.close()


@pytest.fixture
def output(logger: logging.Logger) -> io.StringIO:
    output = io.StringIO()
    handler = logging.StreamHandler(output)
    handler.setFormatter(log.LineFormatter("tapsterd: %(levelname)s: %(message)s"))
    logger.addHandler(handler)
    return output


def test_a_line_has_its_level_and_message(
    logger: logging.Logger, output: io.StringIO
) -> None:
    logger.warning("uid %d did it: %s", 7, "na\u00efve")
    assert output.getvalue() == "tapsterd: WARNING: uid 7 did it: na\u00efve\n"


def test_a_line_of_what_has_fields_is_json(
    logger: logging.Logger, output: io.StringIO
) -> None:
    logger.info(Told())
    assert output.getvalue() == '{"a": 1}\n'


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\ntapsterd: ERROR: b", "a\n    tapsterd: ERROR: b"),
        ("\x1b[2J\r\x7f", r"\x1b[2J\r\x7f"),
        ("a\u2028\u202eb\x85", r"a\u2028\u202eb\x85"),
    ],
)
def test_a_line_can_not_be_forged(
    logger: logging.Logger, output: io.StringIO, text: str, line: str
) -> None:
    logger.error("%s", text)
    assert output.getvalue() == f"tapsterd: ERROR: {line}\n"


@given(st.text())
def test_a_line_moves_no_cursor(text: str) -> None:
    first, *more = log.safe(text).split("\n")
    assert first.isprintable()
    assert all(line.startswith("    ") and line.isprintable() for line in more)


def test_a_traceback_is_logged_whole(
    logger: logging.Logger, output: io.StringIO
) -> None:
    try:
        raise ValueError("a\nb")
    except ValueError:
        logger.exception("it\x07failed")
    first, second, *_ = output.getvalue().splitlines()
    assert first == r"tapsterd: ERROR: it\x07failed"
    assert second.startswith("Traceback")


def test_an_entry_has_the_priority_of_its_level(
    logger: logging.Logger, place: str, received: socket.socket
) -> None:
    logger.addHandler(log.JournalHandler(journal.Journal(place), 2))
    for level, priority in ((10, 7), (20, 6), (30, 4), (40, 3), (50, 2)):
        logger.log(level, "level %d\x1b", level)
        assert of_entry(received.recv(4096)) == {
            "MESSAGE": rf"level {level}\x1b",
            "PRIORITY": str(priority),
            "SYSLOG_IDENTIFIER": "tapsterd",
        }


def test_an_entry_has_a_traceback_in_its_message(
    logger: logging.Logger, place: str, received: socket.socket
) -> None:
    logger.addHandler(log.JournalHandler(journal.Journal(place), 2))
    try:
        raise ValueError("why")
    except ValueError:
        logger.exception("it failed")
    message = of_entry(received.recv(65536))["MESSAGE"]
    assert message.startswith("it failed\nTraceback")
    assert message.endswith("ValueError: why")


def test_an_entry_has_the_fields_of_what_is_logged(
    logger: logging.Logger, place: str, received: socket.socket
) -> None:
    logger.addHandler(log.JournalHandler(journal.Journal(place), 2))
    logger.warning(Told())
    assert of_entry(received.recv(4096)) == {
        "MESSAGE": "a is 1",
        "TAPSTER_A": "1",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "tapsterd",
    }


def test_stderr_has_what_the_journal_does_not_take(
    logger: logging.Logger, place: str
) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        handler = log.JournalHandler(journal.Journal(place), theirs.fileno())
        handler.setFormatter(log.LineFormatter("t: %(message)s"))
        logger.addHandler(handler)
        logger.warning("one")
        logger.warning(Told())
        assert ours.recv(4096) == b't: one\n{"a": 1}\n'


def test_a_stderr_that_is_no_socket_has_it_too(
    logger: logging.Logger, place: str
) -> None:
    ours, theirs = os.pipe()
    logger.addHandler(log.JournalHandler(journal.Journal(place), theirs))
    logger.warning("one \u20ac")
    os.close(theirs)
    assert os.read(ours, 4096) == "one \u20ac\n".encode()
    os.close(ours)


def test_nothing_waits_where_neither_takes_it_and_the_loss_is_told(
    logger: logging.Logger, place: str
) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        handler = log.JournalHandler(journal.Journal(place), theirs.fileno())
        logger.addHandler(handler)
        for _ in range(1000):
            logger.warning("x" * 100)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.bind(place)
            logger.warning("found")
            logger.warning("found again")
            told = [of_entry(sock.recv(4096))["MESSAGE"] for _ in range(3)]
        written = 0
        ours.setblocking(False)
        try:
            while data := ours.recv(65536):
                written += data.count(b"\n")
        except BlockingIOError:
            pass
    lost = 1000 - written
    message = f"{lost} records were lost: the journal did not take them"
    assert lost > 0
    assert told == [message, "found", "found again"]


@pytest.mark.parametrize("is_it", [True, False])
def test_what_stderr_is_decides(
    is_it: bool,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    root = logging.Logger("root")
    monkeypatch.setattr(logging, "getLogger", lambda *_: root)
    for name in ("_srcfile", "logThreads", "logProcesses", "logMultiprocessing"):
        monkeypatch.setattr(logging, name, getattr(logging, name))
    with open(tmp_path_factory.mktemp("l") / "log", "w+") as file:
        status = os.fstat(file.fileno())
        inode = status.st_ino if is_it else status.st_ino + 1
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{inode}")
        monkeypatch.setattr(sys, "stderr", file)
        log.set_up(verbose=False)
        (handler,) = root.handlers
        assert isinstance(handler, log.JournalHandler) is is_it
        handler.close()
    assert root.level == logging.INFO
