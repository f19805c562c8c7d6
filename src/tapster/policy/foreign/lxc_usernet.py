# SPDX-License-Identifier: LGPL-2.1-or-later
"""lxc-usernet(5) as a source of policy: how many NICs somebody may have on a bridge.

A file is lines of `user type bridge number` or `@group type bridge number`. Those
of type `tap` are ours; all others are LXC's, which knows `veth` alone, and mean
nothing here. A line only grants: what cannot be read or made out grants nothing.

Lines are read as `lxc-user-nic` (5.0) does, oddities included:

* Fields end at spaces and tabs. A line that begins with one counts for nothing.
* There are no comments: `#alice` is a name that nobody has. What follows the
  number is passed over, so that `4 # why` is 4, and `4x` and `4.9` are, too.
* A NUL ends a line's meaning. A field of more than 99 bytes goes on as the next.
* The number is decimal, with a sign or without. If those of all lines that are
  about a caller do not come to more than 0 together, it has nothing.
* Of several lines for one name the highest number holds. Lines for different
  names add up: those for the user and for each of its groups.
* A NIC is counted to the first name in the file whose number is not reached, and
  a group's to the group: its members share that number. `Grant.allotments` has
  the names; `Grant.nics` is the sum, which a caller has who shares with nobody.

What differs, so that it grants less, save for the first two:

* Membership is the kernel's: LXC does not look at the primary group.
* A line for a second name of an account counts, for LXC only one for the first.
* The number 0 is 0; LXC gives one NIC by the file's first line even then.
* A number beyond 32 bits leaves those whom it is about without anything; LXC
  reads another number.

The file is read anew when it is another one by fstat(2), so that an edit counts
with the next request. Its names are looked up for one bridge at a time, as
`name_lookup` does: one that is not known yet grants nothing.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ...errors import ConfigError
from ...model import Peer
from ..config.files import opened_directory, opened_file, signature
from ..config.values import NSS, Names
from .name_lookup import NameLookup

MAX_BYTES = 1 << 20
MAX_LINES = 16384
MAX_NOTES = 32
MAX_LOCATIONS = 32

# The clock of time stamps is coarse. What has just been written may be written
# again and look the same, so it is not relied on before it is this old.
_SETTLED_NS = 100_000_000

_TYPE = b"tap"
# As scanf(3) takes it: the longest piece each time, and never back.
_LINE = re.compile(
    rb"([^ \t]{1,99}+)[ \t\n\v\f\r]*+([^ \t]{1,99}+)[ \t\n\v\f\r]*+"
    rb"([^ \t]{1,99}+)[ \t\n\v\f\r]*+([+-]?[0-9]++)"
)
_LOWEST, _HIGHEST = -(2**31), 2**31 - 1


class Allotment(NamedTuple):
    """How many NICs the file gives whoever has a name."""

    name: str  # as written: a group's with its "@"
    nics: int


class Grant(NamedTuple):
    """What the file gives a caller on a bridge."""

    nics: int  # by all lines together
    locations: tuple[str, ...]  # file:line of the lines about the caller, 32 at most
    notes: tuple[str, ...]  # what is odd, for the log: printable lines, and not many
    problem: str | None  # why the file cannot be used; one that is missing can
    allotments: tuple[Allotment, ...] = ()  # in the order of the file


class Line(NamedTuple):
    """A line of type `tap`."""

    number: int
    name: bytes
    bridge: bytes
    nics: int | None  # None: the line counts for nothing
    remark: str = ""


def parse(data: bytes) -> list[Line]:
    """The lines of type `tap`, and those that were meant to be; pure."""
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


def look_up(
    path: str, bridge: str, peer: Peer, *, owner_only: bool, names: Names = NSS
) -> Grant:
    """What the file at `path` gives `peer` on a Linux bridge.

    Not to be called by two threads at once. Never raises for what the file is.

    :param bridge: its own name, as alternative names are not looked for.
    :param owner_only: refuse what others than root can write to.
    :param names: whose names those in the file are.
    """
    try:
        file = _current(path, owner_only)
        wanted = bridge.encode("utf-8", "surrogateescape")
    except ConfigError as err:
        return _NOTHING._replace(problem=_show(err.oneline()))
    except OSError as err:
        return _NOTHING._replace(problem=_show(f"{path}: {err.strerror}"))
    except UnicodeError:
        return _NOTHING
    lines = file.lines.get(wanted) if file is not None else None
    if file is None or lines is None:
        return _NOTHING
    return weigh(path, lines, file.numbers_on(wanted, names), peer)


def weigh(
    path: str, lines: Iterable[Line], numbers: Mapping[bytes, int | None], peer: Peer
) -> Grant:
    """What the lines for one bridge give `peer`; pure.

    :param numbers: uid or gid of a name, None for nobody's; a name that is not
        there is not known yet.
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
            if len(locations) < MAX_LOCATIONS:
                locations.append(_show(f"{path}:{line.number}"))
            total += line.nics
            allotment = best.get((is_group, number))
            if allotment is None:
                allotment = Allotment(_name(line.name), max(line.nics, 0))
            else:
                remark = remark or "not the first for that name: the highest counts"
                allotment = allotment._replace(nics=max(line.nics, allotment.nics))
            best[is_group, number] = allotment
        if remark:
            odd.append((line, remark))
    allotments = tuple(best.values()) if total > 0 else ()
    notes = [_note(path, line, remark) for line, remark in odd[:MAX_NOTES]]
    if len(odd) > MAX_NOTES:
        notes.append(f"and {len(odd) - MAX_NOTES} more")
    nics = sum(allotment.nics for allotment in allotments)
    return Grant(nics, tuple(locations), tuple(notes), None, allotments)


def _note(path: str, line: Line, remark: str) -> str:
    name = _name(line.name.removeprefix(b"@"))
    kind = "group" if line.name.startswith(b"@") else "user"
    return _show(f"{path}:{line.number}: " + remark.replace("{}", f"{kind} {name}"))


_NOTHING = Grant(0, (), (), None)


class _File:
    """One version of a file, and whose its names are."""

    def __init__(self, data: bytes, before: _File | None) -> None:
        self.data = data
        self.signature: tuple[int, ...] = ()
        self.is_settled = False
        self.lines: dict[bytes, list[Line]] = {}
        for line in parse(data):
            self.lines.setdefault(line.bridge, []).append(line)
        self._wanted = {
            bridge: frozenset(line.name for line in lines)
            for bridge, lines in self.lines.items()
        }
        self._lookups: dict[bytes, NameLookup] = {}
        if before is not None:
            kept = before._lookups.items()
            self._lookups = {key: item for key, item in kept if key in self.lines}

    def numbers_on(self, bridge: bytes, names: Names) -> Mapping[bytes, int | None]:
        """The numbers of the names that a bridge's lines are about."""
        wanted = self._wanted[bridge]
        last = self._lookups.get(bridge)
        if last is not None and last.serves(names, wanted):
            return last.numbers
        known = last.numbers if last is not None and last.names is names else {}
        is_slow = any(item.is_under_way for item in self._lookups.values())
        new = self._lookups[bridge] = NameLookup(names, wanted, known, is_slow)
        return new.numbers


_files: dict[str, _File] = {}  # the last version of each path


def _current(path: str, owner_only: bool) -> _File | None:
    """The file as it is now; None if there is none.

    :raises ConfigError: it is refused.
    :raises OSError: it cannot be read.
    """
    directory = os.path.dirname(path)
    with opened_directory(directory, None, os.O_PATH, owner_only) as parent:
        if parent is None:
            return None
        try:
            with opened_file(path, parent, owner_only) as (fd, status):
                return _version(path, fd, status)
        except FileNotFoundError:
            return None


def _version(path: str, fd: int, status: os.stat_result) -> _File:
    """What an open file says: read, or known from before."""
    seen = signature(status)
    file = _files.get(path)
    if file is not None and file.is_settled and file.signature == seen:
        return file
    age = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns)
    data = _read(path, fd)
    if file is None or file.data != data:
        if file is None and len(_files) >= 4:
            _files.clear()
        file = _files[path] = _File(data, file)
    file.signature, file.is_settled = seen, age > _SETTLED_NS
    return file


def _read(path: str, fd: int) -> bytes:
    with open(fd, "rb", closefd=False) as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: more than {MAX_BYTES} bytes")
    if data.count(b"\n") >= MAX_LINES:
        raise ConfigError(f"{path}: more than {MAX_LINES} lines")
    return data


def _name(raw: bytes) -> str:
    return _show(raw.decode("utf-8", "backslashreplace"))


def _show(text: str) -> str:
    """Text as one line of a log."""
    text = text[:400]
    if text.isprintable():
        return text
    return text.encode("unicode_escape", "backslashreplace").decode()
