# SPDX-License-Identifier: LGPL-2.1-or-later
"""Decide by QEMU's own bridge.conf, so that a site's rules move over unchanged.

The verdict is what `qemu-bridge-helper` (7.2) gives the same caller on the same files,
oddities included: an administrator who trusts that file must not find it meaning
something else here. Oddities are kept, and told in the verdict's notes. How a file is
split into lines is in `bridge_conf_lines`.

* Nothing is allowed unless a rule says so; any matching `deny` wins.
* An error in the main file refuses the request. If an included file has an error or
  cannot be read, the rules up to there stay.
* A directory reads as an empty file.

Where the helper hangs, has effects or can be made to overlook a rule, and where the
broker cannot know what the caller would have read, the request is refused. These are
all the differences:

* a file that includes itself (the helper reads on until it is out of descriptors, or
  for ever if there are two such lines); more than 32 files deep (a caller who limits
  the helper's descriptors hides deeper files from it; that is not possible here);
* more than 1024 files, 16384 lines or 1 MiB in all, or 8192 names looked up on the way
  to them: a caller whose own file is included could keep the broker busy;
* a FIFO or a device, save /dev/null; anything in /proc, such as /proc/self/cwd, or
  /sys; anything on a file system that a user serves (FUSE);
* a file that the caller may read and the broker may not;
* a bridge whose name is empty (there the helper fails after the rules).

An include that is passed over may have held a `deny`. With `strict_includes` such an
include refuses the request: a file that is missing, relative, not the caller's to read,
a directory or a socket, or that has an error in it.

A relative include is relative to the caller's working directory, where the caller may
put anything. It counts as missing, which is what the helper finds when called from an
empty directory. Files are looked up in the broker's mount namespace, not in the
caller's. Names are compared as given, so a `deny` does not match a bridge's alternative
name: whoever asks resolves those first.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable

from ..core.facts import Source, Verdict
from .access import Contents, LookupBudget, read_as_user
from .bridge_conf_includes import IncludeReader, Load
from .bridge_conf_lines import IFNAMSIZ, WHITE, Line, parse
from .permissions import Reader, Undecidable

__all__ = ["Reader", "decide", "decide_all", "judge", "judge_all"]

MAX_LOOKUPS = 8192
MAX_NOTES = 32

_ALL = b"all"


def decide(
    path: str, bridge: str, reader: Reader, strict_includes: bool = False
) -> Verdict:
    """Whether the file at `path` lets `reader` have a port of `bridge`.

    Reads the files anew at each call. Never raises for what they hold or are.

    :param path: of the main file.
    :param bridge: the bridge's own name.
    :param reader: the caller, as whom files are read.
    :param strict_includes: refuse where the helper passes over an include.
    """
    return decide_all(path, [bridge], reader, strict_includes)[bridge]


def decide_all(
    path: str, bridges: Iterable[str], reader: Reader, strict_includes: bool = False
) -> dict[str, Verdict]:
    """Decide as `decide` for many bridges, by reading the files once.

    :param path: of the main file.
    :param bridges: their own names.
    :param reader: the caller, as whom files are read.
    :param strict_includes: refuse where the helper passes over an include.
    """
    budget = LookupBudget(MAX_LOOKUPS)

    def load(name: bytes, limit: int) -> Contents:
        return read_as_user(name, reader, limit, budget)

    return judge_all(path, bridges, load, strict_includes)


def judge(path: str, bridge: str, load: Load, strict_includes: bool = False) -> Verdict:
    """Decide as `decide`, with files that the caller of this reads.

    :param path: of the main file.
    :param bridge: the bridge's own name.
    :param load: reads a file; see `Load`.
    :param strict_includes: refuse where the helper passes over an include.
    """
    return judge_all(path, [bridge], load, strict_includes)[bridge]


def judge_all(
    path: str, bridges: Iterable[str], load: Load, strict_includes: bool = False
) -> dict[str, Verdict]:
    """Decide as `decide_all`, with files that the caller of this reads.

    :param path: of the main file.
    :param bridges: their own names.
    :param load: reads a file; see `Load`.
    :param strict_includes: refuse where the helper passes over an include.
    """
    names = {bridge: _encoded(bridge) for bridge in bridges}
    wanted = frozenset(filter(None, names.values()))
    request = _Request(wanted, load, strict_includes)
    refusal = request.refusal(path) if wanted else None
    return {
        bridge: request.verdict(name, refusal)
        if name
        else Verdict(False, "the bridge's name cannot be one", None, (), True)
        for bridge, name in names.items()
    }


def _encoded(bridge: str) -> bytes:
    """A bridge's name as the kernel has it; empty if it cannot be a name."""
    try:
        name = bridge.encode("utf-8", "surrogateescape")
    except UnicodeError:
        return b""
    return name if len(name) < IFNAMSIZ and b"\0" not in name else b""


class _Request:
    """The rules about some bridges, as one request reads them."""

    def __init__(self, bridges: frozenset[bytes], load: Load, strict: bool) -> None:
        self.files = IncludeReader(load)
        self.strict = strict
        self.matching = bridges | {_ALL}
        self.main = b""
        # By bridge, or "all": the first rule about it, and its number among all.
        self.allowed: dict[bytes, tuple[int, Source]] = {}
        self.denied: dict[bytes, tuple[int, Source]] = {}
        self.included_at = ""  # the include line that is being followed
        self.notes: list[str] = []
        self.unsaid = 0

    def refusal(self, path: str) -> tuple[str, bool] | None:
        """Read everything.

        :returns: if nobody is allowed anything, why, and whether unread lines may
            deny; otherwise None.
        """
        try:
            error = self.read(path.encode("utf-8", "surrogateescape"))
        except OSError as problem:
            reason = f"cannot be read as the caller: {_show(self.main)}: "
            reason += str(problem.strerror)
            return reason, problem.errno not in (errno.ENOENT, errno.ENOTDIR)
        except Undecidable as problem:
            return f"{self.included_at or _show(self.main)}: {problem}", True
        except UnicodeError:
            return "a name that cannot be encoded", True
        return (error, True) if error else None

    def verdict(self, bridge: bytes, refusal: tuple[str, bool] | None) -> Verdict:
        """What the files say about a bridge, once they have been read."""
        notes = self.told()
        if refusal is not None:
            reason, undecided = refusal
            return Verdict(False, reason, None, notes, undecided)
        if source := _first(self.denied, bridge):
            return Verdict(False, f"denied by {_location(source)}", source, notes)
        if source := _first(self.allowed, bridge):
            return Verdict(True, f"allowed by {_location(source)}", source, notes)
        reason = f"no rule of {_show(self.main)} allows it"
        return Verdict(False, reason, None, notes)

    def read(self, path: bytes) -> str | None:
        """Read a file and what it includes.

        :returns: the error in it, if there is one.
        :raises OSError: it cannot be read, and the helper could not either.
        :raises Undecidable: the request must be refused.
        """
        self.main = self.main or path
        data, identity, is_directory = self.files.load(path)
        if is_directory and self.files.depth and self.strict:
            raise Undecidable("a directory")
        self.files.enter(identity)
        parsed = parse(data)
        for line in parsed.lines:
            self.take(path, line)
        self.files.leave()
        return _complaint(path, parsed.error) if parsed.error else None

    def take(self, path: bytes, line: Line) -> None:
        """Follow an include, or keep a rule or an oddity."""
        if line.word == b"include":
            self.include(path, line)
        elif line.remark:
            self.note(_complaint(path, line))
        elif line.argument in self.matching:
            rules = self.denied if line.word == b"deny" else self.allowed
            if line.argument not in rules:
                rules[line.argument] = len(rules), _source(path, line)

    def include(self, path: bytes, line: Line) -> None:
        """Read an included file, whose errors the helper ignores."""
        outer, self.included_at = self.included_at, _location(_source(path, line))
        if not line.argument.startswith(b"/"):
            self.pass_over("the path is not absolute")
        else:
            try:
                error = self.read(line.argument)
            except OSError as problem:
                error = str(problem.strerror)
            if error:
                self.pass_over(error)
        self.included_at = outer

    def pass_over(self, problem: str) -> None:
        """Go on without an include.

        :raises Undecidable: includes are strict, so the request is refused.
        """
        if self.strict:
            raise Undecidable(problem)
        self.note(f"{self.included_at}: ignored: {problem}")

    def note(self, text: str) -> None:
        if len(self.notes) < MAX_NOTES:
            self.notes.append(text)
        else:
            self.unsaid += 1

    def told(self) -> tuple[str, ...]:
        more = (f"and {self.unsaid} more",) if self.unsaid else ()
        return (*self.notes, *more)


def _first(rules: dict[bytes, tuple[int, Source]], bridge: bytes) -> Source | None:
    """The first rule that names a bridge or all of them."""
    found = [rules[name] for name in (_ALL, bridge) if name in rules]
    return min(found)[1] if found else None


def _source(path: bytes, line: Line) -> Source:
    return Source(_show(path), line.number, _show(line.text.rstrip(WHITE)))


def _location(source: Source) -> str:
    return f"{source.path}:{source.line}: {source.text}"


def _complaint(path: bytes, line: Line) -> str:
    return f"{_location(_source(path, line))}: {line.remark}"


def _show(raw: bytes) -> str:
    """Bytes from a file or a path as a piece of one line of a log."""
    text = raw[:200].decode("utf-8", "backslashreplace")
    return text if text.isprintable() else text.encode("unicode_escape").decode()
