# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where the log goes: to the journal as entries with fields, or to stderr as lines.

A message is one line, whatever callers put into their requests. A message with
fields (`Structured`) is a JSON object there; any other begins with "tapsterd: ".
"""

from __future__ import annotations

import logging
import os
import socket
import stat
import sys

from .journal import NOW, Journal, is_journal

IDENTIFIER = "tapsterd"
_PRIORITIES = {  # of syslog(3), by Python's levels
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}


class Structured:
    """What is logged instead of a text: a message with fields."""

    def line(self) -> str:
        """All of it in one line of printable ASCII."""
        raise NotImplementedError

    def fields(self) -> dict[str, str]:
        """All of it as fields of the journal, MESSAGE among them."""
        raise NotImplementedError


def set_up(verbose: bool) -> None:
    """Have everything that this process logs go to the journal, where stderr is the
    journal, and otherwise to stderr.

    :param verbose: log messages of level DEBUG, too.
    """
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if sys.stderr is not None:  # None where the broker was started without one
        stderr = sys.stderr.fileno()
        if is_journal(stderr, os.environ.get("JOURNAL_STREAM")):
            handler = JournalHandler(Journal(), stderr)
    handler.setFormatter(LineFormatter(f"{IDENTIFIER}: %(levelname)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
    # No line says where in the source it was logged, nor by which thread or process:
    # logging is told not to find that out.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def safe(text: str) -> str:
    """Escape control characters, and indent continuation lines so that none can be
    mistaken for a new log entry."""
    if text.isprintable():
        return text
    return "\n    ".join(visible(line) for line in text.split("\n"))


def visible(text: str) -> str:
    """Escape control characters, line ends among them."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )


class LineFormatter(logging.Formatter):
    """Formats messages so that no text in them can forge a line. A traceback, which
    `logging` appends, is left as it is."""

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(record.msg, Structured):
            return record.msg.line()
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        record.message = safe(record.message)
        return super().formatMessage(record)


_message = LineFormatter("%(message)s")


class JournalHandler(logging.Handler):
    """Sends each record to the journal. Where the journal does not take it, it is a
    line on stderr; where stderr would have to wait as well, it is lost, and how many
    were lost is told with the next entry that the journal takes."""

    def __init__(self, journal: Journal, stderr: int) -> None:
        """
        :param journal: is closed with this.
        :param stderr: a descriptor, which stays the caller's.
        """
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
        except Exception:  # noqa: BLE001 - as each handler of `logging` does
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
