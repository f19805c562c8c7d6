# SPDX-License-Identifier: LGPL-2.1-or-later
"""lxc-usernet(5) as a source of policy: how many NICs somebody may have on a bridge.

What the file's lines mean is in `lxc_usernet_lines`. The file is read anew when
fstat(2) says that it is another one or has changed, so an edit counts with the next
request. Its names are looked up for one bridge at a time, as `name_lookup` does: a
name that is not known yet grants nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from ...errors import ConfigError
from ...model import Peer
from ..config.files import opened_directory, opened_file, signature
from ..config.values import NSS, Names
from .lxc_usernet_lines import Grant, Line, parse, show, weigh
from .name_lookup import NameLookup

MAX_BYTES = 1 << 20
MAX_LINES = 16384

# The clock of time stamps is coarse: a file that has just been written may be written
# again and look the same. So a version that is younger than this is read each time.
_SETTLED_NS = 100_000_000
_MOST_FILES = 4  # that are remembered; a broker has one
_NOTHING = Grant(0, (), (), None)


def look_up(
    path: str, bridge: str, peer: Peer, *, owner_only: bool, names: Names = NSS
) -> Grant:
    """What the file at `path` gives `peer` on a Linux bridge.

    Not to be called by two threads at once. Never raises for what the file is.

    :param path: absolute.
    :param bridge: its own name, as alternative names are not looked for.
    :param peer: the caller.
    :param owner_only: refuse what others than root can write to.
    :param names: whose names those in the file are.
    """
    try:
        file = _current(path, owner_only)
        wanted = bridge.encode("utf-8", "surrogateescape")
    except ConfigError as err:
        return _NOTHING._replace(problem=show(err.oneline()))
    except OSError as err:
        return _NOTHING._replace(problem=show(f"{path}: {err.strerror}"))
    except UnicodeError:
        return _NOTHING
    lines = file.lines.get(wanted) if file is not None else None
    if file is None or lines is None:
        return _NOTHING
    return weigh(path, lines, file.numbers_on(wanted, names), peer)


class _File:
    """One version of a file, and whose its names are.

    :param data: what is in it.
    :param before: the version before it, whose names may be known already.
    """

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
        """The numbers of the names that a bridge's lines are about, as far as known."""
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
    """What an open file says: read now, or remembered if it has not changed."""
    seen = signature(status)
    file = _files.get(path)
    if file is not None and file.is_settled and file.signature == seen:
        return file
    age = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns)
    data = _read(path, fd)
    if file is None or file.data != data:
        if file is None and len(_files) >= _MOST_FILES:
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
