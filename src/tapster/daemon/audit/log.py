# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where the log goes: to the journal with fields, or to stderr as lines.

A line is one line, whatever callers put into their requests. What has fields
(`Structured`) is a JSON object there; what has none begins with "tapsterd: ".
"""

from __future__ import annotations

import logging
import os
import socket
import stat
import sys

from .journal import NOW, Journal, is_journal

IDENTIFIER = "tapsterd"
_PRIORITIES = {  # of Python's levels, as syslog(3) numbers them
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}


class Structured:
    """What is logged in place of a message, where it is more than text."""

    def line(self) -> str:
        """All of it in one line of printable ASCII."""
        raise NotImplementedError

    def fields(self) -> dict[str, str]:
        """The same as fields of the journal, MESSAGE among them."""
        raise NotImplementedError


def set_up(verbose: bool) -> None:
    """Have all that is logged in this process go where it belongs."""
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if sys.stderr is not None:  # as it is where nobody wants to hear of us
        stderr = sys.stderr.fileno()
        if is_journal(stderr, os.environ.get("JOURNAL_STREAM")):
            handler = JournalHandler(Journal(), stderr)
    handler.setFormatter(LineFormatter(f"{IDENTIFIER}: %(levelname)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
    # Who logs a line is in the line; where in the source is not, so do not look.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def safe(text: str) -> str:
    """Text that moves no cursor, and of which no line but the first begins as a
    line of the log does."""
    if text.isprintable():
        return text
    return "\n    ".join(visible(line) for line in text.split("\n"))


def visible(text: str) -> str:
    """The same in one line."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )


class LineFormatter(logging.Formatter):
    """Text that others can't forge lines with. A traceback is left as it is."""

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(record.msg, Structured):
            return record.msg.line()
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        record.message = safe(record.message)
        return super().formatMessage(record)


_message = LineFormatter("%(message)s")


class JournalHandler(logging.Handler):
    """Each record an entry of the journal, or a line on stderr where it takes
    none; and where that would have to wait, too, a count of those lost."""

    def __init__(self, journal: Journal, stderr: int) -> None:
        """:param stderr: a descriptor, which stays the caller's."""
        super().__init__()
        self._journal = journal
        self._stderr = stderr
        self._stream: socket.socket | None = None
        if stat.S_ISSOCK(os.fstat(stderr).st_mode):
            self._stream = socket.socket(fileno=os.dup(stderr))
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if isinstance(record.msg, Structured):
                fields = record.msg.fields()
            else:
                fields = {"MESSAGE": _message.format(record)}
            fields["PRIORITY"] = str(_PRIORITIES.get(record.levelno, 6))
            fields["SYSLOG_IDENTIFIER"] = IDENTIFIER
            if self._lost and self._journal.send(self._loss()):
                self._lost = 0
            if not self._journal.send(fields) and not self._write(self.format(record)):
                self._lost += 1
        except Exception:  # noqa: BLE001 - as all handlers of `logging` do
            self.handleError(record)

    def _loss(self) -> dict[str, str]:
        message = f"{self._lost} records were lost: the journal did not take them"
        return {
            "MESSAGE": message,
            "PRIORITY": "4",
            "SYSLOG_IDENTIFIER": IDENTIFIER,
        }

    def _write(self, line: str) -> bool:
        data = f"{line}\n".encode("utf-8", "backslashreplace")
        try:
            if self._stream is None:
                return os.write(self._stderr, data) == len(data)
            return self._stream.send(data, NOW) == len(data)
        except OSError:
            return False

    def close(self) -> None:
        self._journal.close()
        if self._stream is not None:
            self._stream.close()
        super().close()
