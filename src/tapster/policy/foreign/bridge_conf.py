# SPDX-License-Identifier: LGPL-2.1-or-later
"""Decide by QEMU's own bridge.conf, so that a site's rules move over unchanged.

The verdict is what `qemu-bridge-helper` (7.2) gives the same caller on the same
files, oddities included: an administrator who trusts that file must not find
it meaning something else here. What is odd is kept and told in the notes.

A file is lines of `allow NAME`, `deny NAME`, `include PATH`; NAME may be `all`.

* Nothing is allowed unless a rule says so; any matching `deny` wins.
* White space is space, tab, newline, form feed and carriage return, not the
  vertical tab. `#` starts a comment only as the first character of a line.
* A word ends at the line's first space, or, if it has none, its first tab:
  `allow<tab>br0` is a rule, `allow<tab>br0 ` with a space behind an error.
* What follows is one name, spaces and `# why` included.
* A line longer than 4095 bytes goes on as another line. A NUL ends a line's
  meaning, not the line.
* An unknown word, a word alone, or a name of 16 bytes or more is an error, and
  nothing behind it counts. In the main file it refuses the request. In an
  included file, as when that one cannot be read, the rules so far stay.
* A directory reads as an empty file.

Where the helper hangs, has effects or can be made to overlook a rule, and
where the broker cannot know what the caller would have read, the request is
refused, which is all the difference there is:

* a file that includes itself (the helper reads on until it is out of
  descriptors, or for ever if there are two such lines); more than 32 files deep
  (from the helper a caller hides what is deeper than he lets it have
  descriptors, here he cannot);
* more than 1024 files, 16384 lines or 1 MiB in all, or 8192 names on the way to
  them, which a caller whose own file is included could have the broker look up;
* a FIFO or a device, save /dev/null; anything in /proc, such as /proc/self/cwd,
  or /sys; anything on a file system that a user serves (FUSE);
* a file that the caller may read and the broker may not;
* a bridge whose name is empty (there the helper fails after the rules).

An include that is passed over is a `deny` that may have been. With
`strict_includes` the request is refused, by the line that includes: a file that is
missing, relative, not the caller's to read, no file but a directory or a socket,
or has an error in it.

A relative include is relative to wherever the caller stands, who may put there
what he likes: it is taken for missing, which is what the helper finds when
called from an empty directory. Files are looked up in the broker's mount
namespace, not in the caller's. Names are compared as given, so a `deny` does
not meet a bridge's alternative name: whoever asks resolves those first.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ..core.facts import Source, Verdict
from .access import Contents, LookupBudget, Reader, Undecidable, read_as_user

__all__ = ["Reader", "decide", "decide_all", "judge", "judge_all"]
__all__ += ["parse"]

MAX_BYTES = 1 << 20  # of one request, all files together
MAX_LINES = 16384
MAX_FILES = 1024
MAX_STEPS = 8192
MAX_DEPTH = 32
MAX_NOTES = 32

_CHUNK = 4095  # the helper's buffer, less its NUL
_IFNAMSIZ = 16
_ALL = b"all"
_WHITE = b" \t\n\f\r"
_WORDS = (b"allow", b"deny", b"include")
_IMPOSSIBLE = re.compile(rb"[\s/:]|^\.{0,2}$")  # in the name of an interface

Load = Callable[[bytes, int], Contents]


class Line(NamedTuple):
    """One directive, or an oddity or error (no word) to be told of."""

    number: int
    word: bytes
    argument: bytes
    text: bytes
    remark: str = ""


class Parsed(NamedTuple):
    lines: list[Line]  # the directives before the error, and what is odd
    error: Line | None


def parse(data: bytes) -> Parsed:
    """Split a file into its directives, as the helper would; pure."""
    lines: list[Line] = []
    for number, whole in enumerate(data.split(b"\n"), 1):
        chunks = [whole]
        if len(whole) >= _CHUNK:
            chunks = [whole[i : i + _CHUNK] for i in range(0, len(whole), _CHUNK)]
            lines.append(Line(number, b"", b"", whole, "long line, read in pieces"))
        for chunk in chunks:
            text, nul, _ = chunk.partition(b"\0")
            text = text.lstrip(_WHITE)
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
    argument = argument.strip(_WHITE)
    if word != b"include" and len(argument) >= _IFNAMSIZ:
        return Line(number, b"", b"", text, "name too long")
    return Line(number, word, argument, text)


def decide(
    path: str, bridge: str, reader: Reader, strict_includes: bool = False
) -> Verdict:
    """Whether the file at `path` lets `reader` have a port of `bridge`.

    Reads the files anew at each call. Never raises for what they hold or are.

    :param strict_includes: refuse where the helper passes over an include.
    """
    return decide_all(path, [bridge], reader, strict_includes)[bridge]


def decide_all(
    path: str, bridges: Iterable[str], reader: Reader, strict_includes: bool = False
) -> dict[str, Verdict]:
    """The same for many bridges, by reading the files once."""
    budget = LookupBudget(MAX_STEPS)

    def load(name: bytes, limit: int) -> Contents:
        return read_as_user(name, reader, limit, budget)

    return judge_all(path, bridges, load, strict_includes)


def judge(path: str, bridge: str, load: Load, strict_includes: bool = False) -> Verdict:
    """`decide` with its reading given from outside.

    :param load: the contents of a file for the caller, at most so many bytes;
        raises `OSError` for what the helper meets too, else `Undecidable`.
    """
    return judge_all(path, [bridge], load, strict_includes)[bridge]


def judge_all(
    path: str, bridges: Iterable[str], load: Load, strict_includes: bool = False
) -> dict[str, Verdict]:
    """`decide_all` in the same way."""
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
    """As the kernel has it; empty if it can't be a name."""
    try:
        name = bridge.encode("utf-8", "surrogateescape")
    except UnicodeError:
        return b""
    return name if len(name) < _IFNAMSIZ and b"\0" not in name else b""


class _Request:
    """What one request has read so far."""

    def __init__(self, bridges: frozenset[bytes], load: Load, strict: bool) -> None:
        self.load = load
        self.strict = strict
        self.matching = bridges | {_ALL}
        self.main = b""
        # By bridge, or "all": the first rule about it, and which it was of all.
        self.allowed: dict[bytes, tuple[int, Source]] = {}
        self.denied: dict[bytes, tuple[int, Source]] = {}
        self.location = ""  # the include being read
        self.notes: list[str] = []
        self.unsaid = 0
        self.bytes_left = MAX_BYTES
        self.lines_left = MAX_LINES
        self.files_left = MAX_FILES
        self.open: list[tuple[int, int]] = []  # a chain of includes

    def refusal(self, path: str) -> tuple[str, bool] | None:
        """Take in all there is. Why that allows nobody anything, if it does not,
        and whether nobody knows what it denies."""
        try:
            error = self.read(path.encode("utf-8", "surrogateescape"))
        except OSError as problem:
            reason = f"cannot be read as the caller: {_show(self.main)}: "
            reason += str(problem.strerror)
            return reason, problem.errno not in (errno.ENOENT, errno.ENOTDIR)
        except Undecidable as problem:
            return f"{self.location or _show(self.main)}: {problem}", True
        except UnicodeError:
            return "a name that cannot be encoded", True
        return (error, True) if error else None

    def verdict(self, bridge: bytes, refusal: tuple[str, bool] | None) -> Verdict:
        """What was read says about a bridge."""
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
        """Take in a file and what it includes; the error in it, if there is one.

        :raise OSError: it cannot be read, and the helper could not either.
        :raise Undecidable: the request must be refused.
        """
        self.main = self.main or path
        if self.files_left == 0:
            raise Undecidable(f"more than {MAX_FILES} files")
        self.files_left -= 1
        data, identity, is_directory = self.load(path, self.bytes_left)
        self.bytes_left -= len(data)
        self.lines_left -= data.count(b"\n") + 1
        if self.lines_left < 0:
            raise Undecidable(f"more than {MAX_LINES} lines")
        if is_directory and self.open and self.strict:
            raise Undecidable("a directory")
        if identity in self.open:
            raise Undecidable("a file that includes itself")
        if len(self.open) == MAX_DEPTH:
            raise Undecidable(f"more than {MAX_DEPTH} files deep")
        self.open.append(identity)
        parsed = parse(data)
        for line in parsed.lines:
            if line.word == b"include":
                self.include(path, line)
            elif line.remark:
                self.note(_complaint(path, line))
            elif line.argument in self.matching:
                rules = self.denied if line.word == b"deny" else self.allowed
                if line.argument not in rules:
                    rules[line.argument] = len(rules), _source(path, line)
        self.open.pop()
        return _complaint(path, parsed.error) if parsed.error else None

    def include(self, path: bytes, line: Line) -> None:
        """Take in an included file, whose errors the helper ignores."""
        outer, self.location = self.location, _location(_source(path, line))
        if not line.argument.startswith(b"/"):
            self.pass_over("the path is not absolute")
        else:
            try:
                error = self.read(line.argument)
            except OSError as problem:
                error = str(problem.strerror)
            if error:
                self.pass_over(error)
        self.location = outer

    def pass_over(self, problem: str) -> None:
        """:raise Undecidable: nothing may be, and so the request is refused."""
        if self.strict:
            raise Undecidable(problem)
        self.note(f"{self.location}: ignored: {problem}")

    def note(self, text: str) -> None:
        if len(self.notes) < MAX_NOTES:
            self.notes.append(text)
        else:
            self.unsaid += 1

    def told(self) -> tuple[str, ...]:
        more = (f"and {self.unsaid} more",) if self.unsaid else ()
        return (*self.notes, *more)


def _first(rules: dict[bytes, tuple[int, Source]], bridge: bytes) -> Source | None:
    """The first rule about a bridge, by its name or as one of all."""
    found = [rules[name] for name in (_ALL, bridge) if name in rules]
    return min(found)[1] if found else None


def _source(path: bytes, line: Line) -> Source:
    return Source(_show(path), line.number, _show(line.text.rstrip(_WHITE)))


def _location(source: Source) -> str:
    return f"{source.path}:{source.line}: {source.text}"


def _complaint(path: bytes, line: Line) -> str:
    return f"{_location(_source(path, line))}: {line.remark}"


def _show(raw: bytes) -> str:
    """Bytes from a file or a path as a piece of one line of a log."""
    text = raw[:200].decode("utf-8", "backslashreplace")
    return text if text.isprintable() else text.encode("unicode_escape").decode()
