# SPDX-License-Identifier: LGPL-2.1-or-later
"""What bridge.conf says that its author may not have meant.

The broker reads it at each request, for one bridge and as one caller. Here it is
looked at whole, by the right to read of who checks: what that is not enough for is
told as not checked.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from errno import EACCES, EISDIR, ENOENT, ENOTDIR
from typing import NamedTuple

from ..config.load import Reading
from ..core.rulebook import DENY
from ..foreign.access import Undecidable
from ..foreign.bridge_conf import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_FILES,
    MAX_LINES,
    Line,
    Load,
    Parsed,
    parse,
)
from .findings import Finding, Severity, at
from .values import Host, about_bridge

_CODE = "bridge-conf"
ALL = "all"
_REFUSED = "every request for a Linux bridge is refused"
_LINES = "a line is allow, deny or include, a space, and a name"
_OURS = "the broker cannot "  # what `access` says of the rights of who reads


class Files(NamedTuple):
    """How files are looked at."""

    load: Load
    look: Callable[[bytes], os.stat_result]  # raises OSError
    is_root: bool  # whether who checks may read all that others may


class BridgeConf(NamedTuple):
    """What there is to say of bridge.conf.

    `allows` and `denies` are bridges, or "all", of which its main file says so to
    everyone, and the line; no included file may say otherwise.
    """

    findings: list[Finding]
    is_there: bool
    may_allow: bool  # a bridge to somebody
    allows: dict[str, str]
    denies: dict[str, str]

    def allowed(self, bridges: Iterable[str]) -> list[str]:
        """Those of some bridges that it allows everyone."""
        return [name for name in bridges if name in self.allows or ALL in self.allows]


def lint_bridge_conf(path: str, strict: bool, host: Host, files: Files) -> BridgeConf:
    """
    :param strict: whether a request is refused for an include that is passed over.
    """
    walk = _Walk(strict, host, files)
    is_there = True
    try:
        parsed = walk.read(os.fsencode(path))
        if parsed.error is not None:
            walk.refuse(path, parsed.error.number, parsed.error.remark, _LINES)
    except OSError as problem:
        is_there = problem.errno not in (ENOENT, ENOTDIR)
        if is_there:
            walk.unreadable(path, None, problem)
    except Undecidable as problem:
        walk.unreadable(path, None, problem)
    # A file may be included more than once.
    findings = list(dict.fromkeys(walk.findings))
    return BridgeConf(findings, is_there, walk.may_allow, walk.allows(), walk.denies)


def denied_bridges(reading: Reading, denies: dict[str, str]) -> Iterator[Finding]:
    """The rules that allow a Linux bridge which bridge.conf denies everyone."""
    for rule, document, keys in reading.written:
        if rule.effect == DENY:
            continue
        for number, name in enumerate(rule.bridges):
            location = denies.get(name) or denies.get(ALL)
            if location is not None:
                yield at(
                    document,
                    (*keys, "bridges", number),
                    Severity.WARNING,
                    "denied-bridge",
                    f"{location} denies Linux bridge {name} to everyone",
                    "remove that line, or the bridge here",
                    (location,),
                )


def other_writer(status: os.stat_result) -> str | None:
    """Who may write to a file besides root, in words."""
    if status.st_uid != 0:
        return f"it belongs to uid {status.st_uid}"
    by_group = status.st_mode & stat.S_IWGRP and status.st_gid != 0
    if by_group or status.st_mode & stat.S_IWOTH:
        return f"others may write to it (mode {stat.S_IMODE(status.st_mode):04o})"
    return None


class _Walk:
    """What has been read so far."""

    def __init__(self, strict: bool, host: Host, files: Files) -> None:
        self.findings: list[Finding] = []
        self.may_allow = False
        self.denies: dict[str, str] = {}  # by the main file
        self._allows: dict[str, str] = {}
        self._denied: set[str] = set()  # by any file
        self._is_sure = True  # that all of it was read, and counts
        self._strict = strict
        self._host = host
        self._files = files
        self._is_over = False  # nobody gets any further
        self._bytes_left = MAX_BYTES
        self._lines_left = MAX_LINES
        self._files_left = MAX_FILES
        self._open: list[tuple[int, int]] = []  # a chain of includes
        self._bridges: set[str] = set()

    def read(self, path: bytes) -> Parsed:
        """Take in a file and what it includes.

        :raises OSError: it cannot be read, which an include passes over.
        :raises Undecidable: the broker refuses to go on.
        """
        if self._files_left == 0:
            raise Undecidable(f"more than {MAX_FILES} files")
        self._files_left -= 1
        data, identity, is_directory = self._files.load(path, self._bytes_left)
        self._bytes_left -= len(data)
        self._lines_left -= data.count(b"\n") + 1
        if self._lines_left < 0:
            raise Undecidable(f"more than {MAX_LINES} lines")
        if is_directory and self._open:
            raise IsADirectoryError(EISDIR, "a directory, which counts as empty")
        if identity in self._open:
            raise Undecidable("a file that includes itself")
        if len(self._open) == MAX_DEPTH:
            raise Undecidable(f"more than {MAX_DEPTH} files deep")
        self._writer(path)
        parsed = parse(data)
        self._open.append(identity)
        odd = {line.number for line in parsed.lines if line.remark}
        for line in parsed.lines:
            if self._is_over:
                break
            if line.word == b"include":
                self._include(_text(path), line)
            elif line.remark:
                self._warn(_text(path), line.number, line.remark, None)
            else:
                self._rule(_text(path), line, line.number in odd)
        self._open.pop()
        return parsed

    def _include(self, path: str, line: Line) -> None:
        name = _text(line.argument)
        if not line.argument.startswith(b"/"):
            hint = "write the whole path"
            self._pass_over(path, line.number, f"{name} is not a whole path", hint)
            return
        try:
            error = self.read(line.argument).error
        except OSError as problem:
            if problem.errno == EACCES and not self._files.is_root:
                self.unreadable(path, line.number, problem)
            else:
                text = f"{name}: {problem.strerror}"
                hint = "remove the line, or have it lead to a file"
                self._pass_over(path, line.number, text, hint)
        except Undecidable as problem:
            self.unreadable(path, line.number, problem)
        else:
            if error is not None:
                text = f"{error.remark}; nothing behind it counts"
                self._pass_over(name, error.number, text, _LINES)

    def allows(self) -> dict[str, str]:
        """By the main file, if no file denies it."""
        if not self._is_sure or ALL in self._denied:
            return {}
        if self._denied:  # what is all, then
            self._allows.pop(ALL, None)
        return {
            name: location
            for name, location in self._allows.items()
            if name not in self._denied
        }

    def _rule(self, path: str, line: Line, is_odd: bool) -> None:
        name, is_main = _text(line.argument), len(self._open) == 1
        location = f"{path}:{line.number}"
        if line.word == b"allow":
            self.may_allow = True
            if is_main:
                self._allows.setdefault(name, location)
        else:
            self._denied.add(name)
            if is_main:
                self.denies.setdefault(name, location)
        words = None
        if name == ALL:
            # Few may be whom an included file says it to.
            if line.word == b"allow" and is_main:
                text = "everyone may use every Linux bridge of this host"
                hint = "name the bridges"
                words = Severity.WARNING, "allows-all-bridges", text, hint
        elif name not in self._bridges and not is_odd:
            self._bridges.add(name)
            words = about_bridge(name, self._host)
        if words is not None:
            self._say(path, line.number, *words)

    def _writer(self, path: bytes) -> None:
        try:
            writer = other_writer(self._files.look(path))
        except OSError:
            return  # it was there a moment ago
        if writer is not None:
            name = _text(path)
            text = f"{writer}, and so may say who may use which Linux bridge"
            hint = f"chown root {name}; chmod go-w {name}"
            self._say(name, None, Severity.WARNING, "other-writer", text, hint)

    def unreadable(
        self, path: str, line: int | None, problem: OSError | Undecidable
    ) -> None:
        """Say what cannot be read: by us alone, or by the broker either."""
        text = problem.strerror if isinstance(problem, OSError) else str(problem)
        is_ours = isinstance(problem, OSError) or str(problem).startswith(_OURS)
        if is_ours and not self._files.is_root:
            self.may_allow, self._is_sure = True, False
            text = f"not checked, as you may not read it: {text}"
            self._say(path, line, Severity.NOTE, "not-checked", text, None)
        else:
            self.refuse(path, line, str(text), None)
            self._is_over = True

    def refuse(
        self, path: str, line: int | None, problem: str, hint: str | None
    ) -> None:
        """Say what has the broker refuse everything."""
        self._is_sure = False
        text = f"{problem}: {_REFUSED}"
        self._say(path, line, Severity.ERROR, _CODE, text, hint)

    def _pass_over(self, path: str, line: int, problem: str, hint: str) -> None:
        if self._strict:
            self.refuse(path, line, problem, hint)
        else:
            self._warn(path, line, f"ignored: {problem}", hint)

    def _warn(self, path: str, line: int, text: str, hint: str | None) -> None:
        self._say(path, line, Severity.WARNING, _CODE, text, hint)

    def _say(
        self,
        path: str,
        line: int | None,
        severity: Severity,
        code: str,
        text: str,
        hint: str | None,
    ) -> None:
        self.findings.append(Finding(severity, code, text, path, line, hint=hint))


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
