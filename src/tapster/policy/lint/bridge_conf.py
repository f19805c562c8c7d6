# SPDX-License-Identifier: LGPL-2.1-or-later
"""What bridge.conf says that its author may not have meant.

The broker reads it at each request, for one bridge and as one caller. Here all of it is
looked at, for every bridge, as far as who checks may read it; the rest is told as not
checked.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from errno import EACCES, EISDIR, ENOENT, ENOTDIR
from typing import NamedTuple

from ..config.load import Reading
from ..core.rulebook import DENY
from ..foreign.bridge_conf_includes import IncludeReader, Load
from ..foreign.bridge_conf_lines import Line, Parsed, parse
from ..foreign.permissions import Undecidable
from .findings import Finding, Severity, at
from .host import Host
from .networks import about_bridge

_CODE = "bridge-conf"
ALL = "all"
_REFUSED = "every request for a Linux bridge is refused"
_LINES = "a line is allow, deny or include, a space, and a name"
_OURS = "the broker cannot "  # how `access` begins if who reads lacks a right


class Files(NamedTuple):
    """How files are looked at."""

    load: Load
    look: Callable[[bytes], os.stat_result]  # as os.stat
    is_root: bool  # whether who checks may read what any other user may


class BridgeConf(NamedTuple):
    """What there is to say of bridge.conf."""

    findings: list[Finding]
    is_there: bool
    may_allow: bool  # some bridge to somebody
    # What the main file says to everyone and no included file can change: bridges, or
    # "all", and file:line.
    allows: dict[str, str]
    denies: dict[str, str]

    def allowed(self, bridges: Iterable[str]) -> list[str]:
        """Those of these bridges that everyone may use."""
        return [name for name in bridges if name in self.allows or ALL in self.allows]


def lint_bridge_conf(path: str, strict: bool, host: Host, files: Files) -> BridgeConf:
    """Check bridge.conf and what it includes.

    :param path: of the main file.
    :param strict: whether a request is refused for an include that is passed over.
    :param host: whose bridges the names are.
    :param files: how files are looked at.
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
    """Rules that allow a Linux bridge which bridge.conf denies to everyone."""
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
    """Goes through the files, and keeps what is to be said of them."""

    def __init__(self, strict: bool, host: Host, files: Files) -> None:
        self.findings: list[Finding] = []
        self.may_allow = False
        self.denies: dict[str, str] = {}  # by the main file
        self._allows: dict[str, str] = {}  # by the main file
        self._denied: set[str] = set()  # by any file
        self._is_sure = True  # all of it was read, and counts
        self._is_over = False  # the broker refuses here: what follows counts for nobody
        self._strict = strict
        self._host = host
        self._files = files
        self._includes = IncludeReader(files.load)
        self._bridges: set[str] = set()

    def read(self, path: bytes) -> Parsed:
        """Go through a file and what it includes.

        :raises OSError: it cannot be read, which an include passes over.
        :raises Undecidable: the broker refuses the request.
        """
        data, identity, is_directory = self._includes.load(path)
        if is_directory and self._includes.depth:
            raise IsADirectoryError(EISDIR, "a directory, which counts as empty")
        self._includes.enter(identity)
        self._writer(path)
        parsed = parse(data)
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
        self._includes.leave()
        return parsed

    def allows(self) -> dict[str, str]:
        """What the main file allows everyone, and no file denies."""
        if not self._is_sure or ALL in self._denied:
            return {}
        if self._denied:  # "all" is not all, then
            self._allows.pop(ALL, None)
        return {
            name: location
            for name, location in self._allows.items()
            if name not in self._denied
        }

    def unreadable(
        self, path: str, line: int | None, problem: OSError | Undecidable
    ) -> None:
        """Say what cannot be read: by who checks, or by the broker either.

        :param path: of the file that is to blame.
        :param line: of the include that leads there; None for the main file.
        :param problem: what happened.
        """
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
        """Say what has the broker refuse every request for a Linux bridge.

        :param path: of the file that is to blame.
        :param line: which line of it, if it is one.
        :param problem: what is wrong.
        :param hint: what to do about it.
        """
        self._is_sure = False
        text = f"{problem}: {_REFUSED}"
        self._say(path, line, Severity.ERROR, _CODE, text, hint)

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

    def _rule(self, path: str, line: Line, is_odd: bool) -> None:
        """
        :param is_odd: something was said of the line already.
        """
        name, is_main = _text(line.argument), self._includes.depth == 1
        allows = line.word == b"allow"
        self._keep(name, allows, f"{path}:{line.number}" if is_main else None)
        words = None
        if name == ALL:
            # What an included file allows may be for those few who can read it.
            if allows and is_main:
                text = "everyone may use every Linux bridge of this host"
                hint = "name the bridges"
                words = Severity.WARNING, "allows-all-bridges", text, hint
        elif name not in self._bridges and not is_odd:
            self._bridges.add(name)
            words = about_bridge(name, self._host)
        if words is not None:
            self._say(path, line.number, *words)

    def _keep(self, name: str, allows: bool, location: str | None) -> None:
        """
        :param location: file:line, if it is the main file.
        """
        if allows:
            self.may_allow = True
        else:
            self._denied.add(name)
        if location is not None:
            (self._allows if allows else self.denies).setdefault(name, location)

    def _writer(self, path: bytes) -> None:
        """Say if others than root may write to a file."""
        try:
            writer = other_writer(self._files.look(path))
        except OSError:
            return  # it was there a moment ago
        if writer is not None:
            name = _text(path)
            text = f"{writer}, and so may say who may use which Linux bridge"
            hint = f"chown root {name}; chmod go-w {name}"
            self._say(name, None, Severity.WARNING, "other-writer", text, hint)

    def _pass_over(self, path: str, line: int, problem: str, hint: str) -> None:
        """Say that an include is passed over, or that the broker refuses to."""
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
