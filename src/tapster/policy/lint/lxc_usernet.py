# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the file of lxc-usernet says that its author may not have meant. Pure.

The broker refuses none of it: a line that it cannot make out grants nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..config.values import shown
from ..foreign.lxc_usernet_lines import Line, parse
from .findings import Finding, Severity
from .host import Host
from .networks import about_bridge

# What is wrong with a line: severity, code, message, hint.
_Words = tuple[Severity, str, str, str | None]


def lint_usernet(path: str, data: bytes, host: Host) -> Iterator[Finding]:
    """Findings in the order of the lines.

    :param path: the file's, for the findings.
    :param data: what is in it.
    :param host: whose users, groups and bridges the names are.
    """
    file = _File(host)
    for line in parse(data):
        for severity, code, message, hint in file.about(line):
            yield Finding(severity, code, message, path, line.number, hint=hint)


class _File:
    """What the lines so far were about, so that nothing is told twice."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._bridges: set[str] = set()
        self._grants: set[tuple[bytes, bool, int]] = set()
        self._lonely: set[int] = set()  # groups without members

    def about(self, line: Line) -> Iterator[_Words]:
        if line.remark:
            yield Severity.WARNING, "usernet", line.remark, None
        if line.nics is None:
            return
        name = _text(line.name)
        is_group = name.startswith("@")
        number = self._number(name)
        if number is None:
            kind = "group" if is_group else "user"
            text = f"there is no {kind} {shown(name.removeprefix('@'))}"
            yield Severity.WARNING, f"unknown-{kind}", text, None
            return
        if (line.bridge, is_group, number) in self._grants:
            text = f"not the first line for {shown(name)}: the highest number counts"
            yield Severity.WARNING, "named-twice", text, "they don't add up"
        self._grants.add((line.bridge, is_group, number))
        if line.nics <= 0 and not line.remark:
            yield Severity.NOTE, "usernet", "it grants nothing", None
        if is_group and self._is_lonely(number):
            text = f"nobody is in group {shown(name.removeprefix('@'))}"
            yield Severity.WARNING, "empty-group", text, None
        bridge = _text(line.bridge)
        if bridge not in self._bridges:
            self._bridges.add(bridge)
            words = about_bridge(bridge, self._host)
            if words is not None:
                yield words

    def _number(self, name: str) -> int | None:
        """The uid or, behind an "@", the gid of a name; None if nobody has it."""
        names = self._host.names
        resolve = names.gid if name.startswith("@") else names.uid
        try:
            return resolve(name.removeprefix("@"))
        except (KeyError, ValueError):
            return None

    def _is_lonely(self, gid: int) -> bool:
        """Whether a group has no members, and that was not told of before."""
        if gid in self._lonely or self._host.has_members(gid) is not False:
            return False
        self._lonely.add(gid)
        return True


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
