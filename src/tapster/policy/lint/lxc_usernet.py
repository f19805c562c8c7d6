# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the file of lxc-usernet says that its author may not have meant.

The broker takes all of it: a line that it cannot make out grants nothing. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..config.values import shown
from ..foreign.lxc_usernet import Line, parse
from .findings import Finding, Severity
from .values import Host, about_bridge


def lint_usernet(path: str, data: bytes, host: Host) -> Iterator[Finding]:
    """Findings in the order of the lines."""
    bridges: set[str] = set()
    seen: set[tuple[bytes, bool, int]] = set()
    lonely: set[int] = set()
    for line in parse(data):

        def finding(
            severity: Severity,
            code: str,
            message: str,
            hint: str | None = None,
            line: Line = line,
        ) -> Finding:
            return Finding(severity, code, message, path, line.number, hint=hint)

        if line.remark:
            yield finding(Severity.WARNING, "usernet", line.remark)
        if line.nics is None:
            continue
        name = _text(line.name)
        is_group = name.startswith("@")
        kind = "group" if is_group else "user"
        try:
            resolve = host.names.gid if is_group else host.names.uid
            number = resolve(name.removeprefix("@"))
        except (KeyError, ValueError):
            text = f"there is no {kind} {shown(name.removeprefix('@'))}"
            yield finding(Severity.WARNING, f"unknown-{kind}", text)
            continue
        if (line.bridge, is_group, number) in seen:
            text = f"not the first line for {shown(name)}: the highest number counts"
            yield finding(Severity.WARNING, "named-twice", text, "they don't add up")
        seen.add((line.bridge, is_group, number))
        if line.nics <= 0 and not line.remark:
            yield finding(Severity.NOTE, "usernet", "it grants nothing")
        if is_group and number not in lonely and host.has_members(number) is False:
            lonely.add(number)
            text = f"nobody is in group {shown(name.removeprefix('@'))}"
            yield finding(Severity.WARNING, "empty-group", text)
        bridge = _text(line.bridge)
        if bridge not in bridges:
            bridges.add(bridge)
            words = about_bridge(bridge, host)
            if words is not None:
                yield finding(*words)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
