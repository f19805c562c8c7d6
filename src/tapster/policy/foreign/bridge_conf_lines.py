# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lines of a bridge.conf, split as `qemu-bridge-helper` (7.2) splits them. Pure.

A file is lines of `allow NAME`, `deny NAME`, `include PATH`; NAME may be `all`.

* White space is space, tab, newline, form feed and carriage return, not the
  vertical tab. `#` starts a comment only as the first character of a line.
* A word ends at the line's first space, or, if it has none, its first tab:
  `allow<tab>br0` is a rule, `allow<tab>br0 ` with a space behind an error.
* What follows is one name, spaces and `# why` included.
* A line longer than 4095 bytes goes on as another line. A NUL ends a line's
  meaning, not the line.
* An unknown word, a word alone, or a name of 16 bytes or more is an error, and
  nothing behind it counts.
"""

from __future__ import annotations

import re
from typing import NamedTuple

IFNAMSIZ = 16  # of an interface's name, with its NUL
WHITE = b" \t\n\f\r"

_CHUNK = 4095  # the helper's buffer, less its NUL
_WORDS = (b"allow", b"deny", b"include")
_IMPOSSIBLE = re.compile(rb"[\s/:]|^\.{0,2}$")  # in the name of an interface


class Line(NamedTuple):
    """A directive; or, without a word, an oddity or error with its remark."""

    number: int
    word: bytes
    argument: bytes
    text: bytes
    remark: str = ""


class Parsed(NamedTuple):
    """A file's lines."""

    lines: list[Line]  # the directives before the error, and what is odd
    error: Line | None


def parse(data: bytes) -> Parsed:
    """Split a file into its directives."""
    lines: list[Line] = []
    for number, whole in enumerate(data.split(b"\n"), 1):
        chunks = [whole]
        if len(whole) >= _CHUNK:
            chunks = [whole[i : i + _CHUNK] for i in range(0, len(whole), _CHUNK)]
            lines.append(Line(number, b"", b"", whole, "long line, read in pieces"))
        for chunk in chunks:
            text, nul, _ = chunk.partition(b"\0")
            text = text.lstrip(WHITE)
            if not text or text.startswith(b"#"):
                continue
            if nul:
                lines.append(Line(number, b"", b"", text, "cut at a NUL byte"))
            line = _parse_line(number, text)
            if not line.word:
                return Parsed(lines, line)
            lines.append(line)
            if line.word != b"include" and _IMPOSSIBLE.search(line.argument):
                remark = "no interface can have this name"
                lines.append(Line(number, b"", b"", text, remark))
    return Parsed(lines, None)


def _parse_line(number: int, text: bytes) -> Line:
    word, separator, argument = text.partition(b" ")
    if not separator:
        word, separator, argument = text.partition(b"\t")
    if not separator:
        return Line(number, b"", b"", text, "a word alone")
    if word not in _WORDS:
        return Line(number, b"", b"", text, "unknown word")
    argument = argument.strip(WHITE)
    if word != b"include" and len(argument) >= IFNAMSIZ:
        return Line(number, b"", b"", text, "name too long")
    return Line(number, word, argument, text)
