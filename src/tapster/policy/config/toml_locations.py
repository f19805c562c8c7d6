# SPDX-License-Identifier: LGPL-2.1-or-later
"""A TOML file that knows where each of its keys is written.

tomllib does not say, and an error without a location sends its reader searching. So
once tomllib has taken a text, it is scanned a second time, for the keys alone.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from bisect import bisect_right
from collections.abc import Iterable
from typing import Any

from ...errors import ConfigError

Keys = tuple[str | int, ...]  # the way to a value: keys, and indices in lists

_BLANK = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_KEY = re.compile(r"""[A-Za-z0-9_-]+|"(?:\\.|[^"\\\n])*"|'[^'\n]*'""")
_DOT = re.compile(r"[ \t]*\.[ \t]*")
_EQUALS = re.compile(r"[ \t]*=[ \t]*")
# Before the three quotes that end a text of many lines, it may have two of its own.
_PLAIN = re.compile(
    r'"""(?:\\.|[^\\])*?"""(?:"{0,2})'
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|[^,\]}\n#]+",  # a number, truth value or date
    re.S,
)


class Invalid(ValueError):
    """A value is not acceptable.

    :param message: why not.
    :param keys: the way from the value to the part of it that is not.
    """

    def __init__(self, message: str, *keys: str | int) -> None:
        super().__init__(message)
        self.keys: Keys = keys

    def below(self, key: str | int) -> Invalid:
        """This error, seen from the table or list that the value is in."""
        self.keys = (key, *self.keys)
        return self


class UnknownKey(Invalid):
    """A key is not known; the message suggests the nearest that is."""

    def __init__(self, key: str, known: Iterable[str]) -> None:
        near = did_you_mean(key, known)
        super().__init__(f"unknown key {key[:60]!r}{near}", key)


class Document:
    """One file.

    :param path: for locations.
    :param text: what is in it.
    :raises ConfigError: it is not TOML.
    """

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self._text = text.replace("\r\n", "\n")  # as tomllib does, for its columns
        # Where each line starts. A list, as thousands of rules may have to be located.
        self._lines = [0, *(found.end() for found in re.finditer("\n", self._text))]
        try:
            self.data: dict[str, Any] = tomllib.loads(self._text)
            self._offsets = _Scanner(self._text).offsets()
        except tomllib.TOMLDecodeError as err:
            raise ConfigError(self._decode_error(str(err))) from err
        except (ValueError, RecursionError) as err:  # Python's limits, not TOML's
            raise ConfigError(f"{path}:1:1: {err}") from err

    def line(self, *keys: str | int) -> str:
        """file:line of a key."""
        return self.location(*keys).rpartition(":")[0]

    def location(self, *keys: str | int) -> str:
        """file:line:column of a key, or of the table it would be in."""
        while keys and keys not in self._offsets:
            keys = keys[:-1]
        return self._at(self._offsets[keys] if keys else 0)

    def error(self, keys: Keys, problem: Invalid | str, depth: int = 2) -> ConfigError:
        """Say what is wrong with the value of a key.

        :param keys: the way to the value.
        :param problem: what is wrong with it.
        :param depth: how many of the keys lead to the table around the value; the
            message leaves these out.
        """
        text = str(problem)
        if isinstance(problem, Invalid):
            keys += problem.keys
        name = ".".join(key[:60] for key in keys[depth:] if isinstance(key, str))
        if name and not isinstance(problem, UnknownKey):
            text = f"{name}: {text}"
        return ConfigError(f"{self.location(*keys)}: {text}")

    def _decode_error(self, message: str) -> str:
        """Turn tomllib's "… (at line L, column C)" into "file:L:C: …"."""
        what, _, where = message.rpartition(" (at ")
        found = re.fullmatch(r"line (\d+), column (\d+)\)", where)
        if found:
            return f"{self.path}:{found[1]}:{found[2]}: {what}"
        return f"{self._at(len(self._text))}: {what or message}"

    def _at(self, offset: int) -> str:
        line = bisect_right(self._lines, offset)
        return f"{self.path}:{line}:{offset - self._lines[line - 1] + 1}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about a word that is not known: the nearest that is."""
    near = difflib.get_close_matches(word, [str(name) for name in known], 1)
    return f"; did you mean {near[0]!r}?" if near else ""


class _Scanner:
    """Finds the keys of a text that tomllib has taken."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._here = 0
        self._found: dict[Keys, int] = {}
        self._last: dict[Keys, int] = {}  # of each [[list]], its last table

    def offsets(self) -> dict[Keys, int]:
        """The offset of each key, and of each value in a list."""
        table: Keys = ()
        while not self._at_end():
            if self._take("["):
                table = self._header()
            else:
                self._assignment(table)
        return self._found

    def _header(self) -> Keys:
        many = self._take("[")
        self._skip(_BLANK)
        table: Keys = ()
        for key, offset in self._keys():
            # A key below a list of tables is in the last of them.
            if table in self._last:
                table += (self._last[table],)
            table += (key,)
            self._found.setdefault(table, offset)
        if many:
            self._last[table] = self._last.get(table, -1) + 1
            table += (self._last[table],)
        self._found[table] = offset
        self._skip(_BLANK)
        self._here += 2 if many else 1
        return table

    def _assignment(self, table: Keys) -> None:
        for key, offset in self._keys():
            table += (key,)
            self._found.setdefault(table, offset)
        self._skip(_EQUALS)
        self._value(table)

    def _value(self, keys: Keys) -> None:
        if self._take("["):
            number = 0
            while not self._ends("]"):
                self._found[(*keys, number)] = self._here
                self._value((*keys, number))
                number += 1
        elif self._take("{"):
            while not self._ends("}"):
                self._assignment(keys)
        else:
            self._skip(_PLAIN)

    def _keys(self) -> list[tuple[str, int]]:
        """The parts of a dotted key."""
        parts = []
        while True:
            offset = self._here
            raw = self._skip(_KEY)
            key = tomllib.loads(f"k={raw}")["k"] if raw[0] in "\"'" else raw
            parts.append((key, offset))
            dot = _DOT.match(self._text, self._here)
            if dot is None:
                return parts
            self._here = dot.end()

    def _at_end(self) -> bool:
        self._skip(_BLANK)
        return self._here == len(self._text)

    def _ends(self, bracket: str) -> bool:
        """Whether a list or table ends here; skips a comma before its end."""
        self._skip(_BLANK)
        if self._take(","):
            self._skip(_BLANK)
        return self._take(bracket)

    def _take(self, sign: str) -> bool:
        taken = self._text.startswith(sign, self._here)
        self._here += taken
        return taken

    def _skip(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._here)
        if found is None:
            raise ValueError("this TOML is not understood")
        self._here = found.end()
        return found[0]
