# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `tapster policy check` has to say: each finding is one thing about one line."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NamedTuple

from ...errors import ConfigError
from ..config.toml_locations import Document, Keys

_LOCATION = re.compile(
    r"(?P<file>.+?)(?::(?P<line>\d+)(?::(?P<column>\d+))?)?: (?P<text>.*)", re.S
)


class Severity(StrEnum):
    """How bad it is, the worst first."""

    ERROR = "error"  # the broker refuses it
    WARNING = "warning"  # it does not do what it seems to, or more
    NOTE = "note"  # it may well be meant so


class Finding(NamedTuple):
    """What is wrong, and where."""

    severity: Severity
    code: str  # stays the same when the words change
    message: str  # one line
    file: str | None = None
    line: int | None = None
    column: int | None = None
    hint: str | None = None  # what to do about it
    related: tuple[str, ...] = ()  # file:line of other lines that have to do with it

    @property
    def location(self) -> str:
        """file:line:column, as much of it as there is."""
        parts = (self.file, self.line, self.column)
        return ":".join(str(part) for part in parts if part is not None)


def at(
    document: Document,
    keys: Keys,
    severity: Severity,
    code: str,
    message: str,
    hint: str | None = None,
    related: tuple[str, ...] = (),
) -> Finding:
    """A finding about a key of a file.

    :param document: the file.
    :param keys: the way to the key.
    :param severity: how bad it is.
    :param code: what it is called; stays the same when the words change.
    :param message: one line.
    :param hint: what to do about it.
    :param related: file:line of other lines that have to do with it.
    """
    file, line, column = document.location(*keys).rsplit(":", 2)
    return Finding(severity, code, message, file, int(line), int(column), hint, related)


def of_error(error: ConfigError, code: str) -> Finding:
    """A finding from an error of the files' reader, whose message starts with the
    location."""
    found = _LOCATION.fullmatch(error.message)
    if found is None:
        return Finding(Severity.ERROR, code, error.message, hint=error.hint)
    line, column = (
        int(text) if text is not None else None for text in found.group(2, 3)
    )
    return Finding(
        Severity.ERROR, code, found["text"], found["file"], line, column, error.hint
    )
