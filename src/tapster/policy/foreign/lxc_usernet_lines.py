# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lines of an lxc-usernet(5) file, and what they come to for a caller. Pure.

A file is lines of `user type bridge number` or `@group type bridge number`. Lines of
type `tap` are for tapster. All other lines are LXC's, which knows `veth` alone; they
mean nothing here. A line only grants: what cannot be made out grants nothing.

Lines are read as `lxc-user-nic` (5.0) reads them, oddities included:

* Fields end at spaces and tabs. A line that begins with one counts for nothing.
* There are no comments: `#alice` is a name that nobody has. What follows the
  number is passed over, so that `4 # why` is 4, and `4x` and `4.9` are, too.
* A NUL ends a line's meaning. A field of more than 99 bytes goes on as the next.
* The number is decimal, with a sign or without. If all lines about a caller do not
  come to more than 0 together, the caller has nothing.
* Of several lines for one name the highest number holds. Lines for different
  names add up: those for the user and for each of the user's groups.
* A NIC counts to the first name in the file whose number is not reached yet. What
  counts to a group counts for all its members: they share that number.
  `Grant.allotments` has the names; `Grant.nics` is the sum, which a caller has who
  shares with nobody.

Four things differ from LXC. All but the first two grant less:

* Membership is the kernel's: LXC does not look at the primary group.
* A line for a second name of an account counts; for LXC only a line for the first.
* The number 0 is 0; LXC gives one NIC by the file's first line even then.
* A number beyond 32 bits leaves those whom it is about without anything; LXC
  reads another number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ...model import Peer

MAX_NOTES = 32
MAX_LOCATIONS = 32

_TYPE = b"tap"
# As scanf(3) takes it: the longest piece each time, and never back.
_LINE = re.compile(
    rb"([^ \t]{1,99}+)[ \t\n\v\f\r]*+([^ \t]{1,99}+)[ \t\n\v\f\r]*+"
    rb"([^ \t]{1,99}+)[ \t\n\v\f\r]*+([+-]?[0-9]++)"
)
_LOWEST, _HIGHEST = -(2**31), 2**31 - 1


class Line(NamedTuple):
    """A line of type `tap`."""

    number: int
    name: bytes
    bridge: bytes
    nics: int | None  # None: the line counts for nothing
    remark: str = ""


class Allotment(NamedTuple):
    """How many NICs the file gives whoever has a name."""

    name: str  # as written: a group's with its "@"
    nics: int


class Grant(NamedTuple):
    """What the file gives a caller on a bridge."""

    nics: int  # by all lines together
    locations: tuple[str, ...]  # file:line of the lines about the caller, 32 at most
    notes: tuple[str, ...]  # what is odd, for the log: printable lines, and not many
    problem: str | None  # why the file cannot be used; a missing file is no problem
    allotments: tuple[Allotment, ...] = ()  # in the order of the file


def parse(data: bytes) -> list[Line]:
    """The lines of type `tap`, and those that were meant to be."""
    lines = []
    for number, whole in enumerate(data.split(b"\n"), 1):
        text, nul, _ = whole.partition(b"\0")
        if text.startswith(b"#") or _TYPE not in text:
            continue
        found = _LINE.match(text)
        if found is None:
            words = text.split()
            if len(words) > 2 and words[1] == _TYPE and not words[0].startswith(b"#"):
                remark = "no number: it counts for nothing"
                if text[:1].isspace():
                    remark = "space before the name: it counts for nothing"
                lines.append(Line(number, words[0], words[2], None, remark))
        elif found[2] == _TYPE:
            nics, remark = _number(found[4])
            if nul:
                remark = remark or "cut at a NUL byte"
            if text[found.end() : found.end() + 1].strip():
                remark = remark or f"the number is taken for {nics}"
            lines.append(Line(number, found[1], found[3], nics, remark))
    return lines


def _number(text: bytes) -> tuple[int, str]:
    digits = text.lstrip(b"+-0") or b"0"  # int() takes no more than 4300
    if len(digits) <= 10:
        number = -int(digits) if text.startswith(b"-") else int(digits)
        if _LOWEST <= number <= _HIGHEST:
            return number, ""
    return _LOWEST, "no such number: whom it is about has nothing"


def weigh(
    path: str, lines: Iterable[Line], numbers: Mapping[bytes, int | None], peer: Peer
) -> Grant:
    """What the lines for one bridge give a caller.

    :param path: of the file, for locations and notes.
    :param lines: those about that bridge, in the order of the file.
    :param numbers: the uid of each user's name, the gid of each group's, with its
        "@"; None if nobody has the name. A name that is missing is not known yet.
    :param peer: the caller.
    """
    groups = {peer.gid, *peer.groups}
    total = 0
    best: dict[tuple[bool, int], Allotment] = {}
    locations: list[str] = []
    odd: list[tuple[Line, str]] = []
    for line in lines:
        remark = line.remark
        is_group = line.name.startswith(b"@")
        number = numbers.get(line.name)
        if line.nics is None:
            pass
        elif number is None:
            remark = "there is no {}" if line.name in numbers else "{} is not known yet"
        elif number in groups if is_group else number == peer.uid:
            locations.append(f"{path}:{line.number}")
            total += line.nics
            before = best.get((is_group, number))
            if before is not None:
                remark = remark or "not the first for that name: the highest counts"
            best[is_group, number] = _highest(before, line)
        if remark:
            odd.append((line, remark))
    allotments = tuple(best.values()) if total > 0 else ()
    return Grant(
        sum(allotment.nics for allotment in allotments),
        tuple(map(show, locations[:MAX_LOCATIONS])),
        _notes(path, odd),
        None,
        allotments,
    )


def _highest(before: Allotment | None, line: Line) -> Allotment:
    """The allotment of a name by the lines before, and one more."""
    nics = max(line.nics or 0, 0)
    if before is None:
        return Allotment(_name(line.name), nics)
    return before._replace(nics=max(nics, before.nics))


def _notes(path: str, odd: list[tuple[Line, str]]) -> tuple[str, ...]:
    notes = [_note(path, line, remark) for line, remark in odd[:MAX_NOTES]]
    if len(odd) > MAX_NOTES:
        notes.append(f"and {len(odd) - MAX_NOTES} more")
    return tuple(notes)


def _note(path: str, line: Line, remark: str) -> str:
    name = _name(line.name.removeprefix(b"@"))
    kind = "group" if line.name.startswith(b"@") else "user"
    return show(f"{path}:{line.number}: " + remark.replace("{}", f"{kind} {name}"))


def _name(raw: bytes) -> str:
    return show(raw.decode("utf-8", "backslashreplace"))


def show(text: str) -> str:
    """Text as one line of a log."""
    text = text[:400]
    if text.isprintable():
        return text
    return text.encode("unicode_escape", "backslashreplace").decode()
