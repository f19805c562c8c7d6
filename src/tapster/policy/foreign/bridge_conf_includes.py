# SPDX-License-Identifier: LGPL-2.1-or-later
"""What one request may read of bridge.conf and the files that it includes.

A caller may include files of its own, so all files together have a limit. Where the
helper would hang, or could be made to overlook a rule, the request is refused.
"""

from __future__ import annotations

from collections.abc import Callable

from .access import Contents
from .permissions import Undecidable

MAX_BYTES = 1 << 20  # all files together
MAX_LINES = 16384
MAX_FILES = 1024
MAX_DEPTH = 32

# Reads a file, of so many bytes at most. Raises OSError for what the helper would
# meet, too; otherwise Undecidable.
Load = Callable[[bytes, int], Contents]


class IncludeReader:
    """Reads files, and knows through which includes it came to the present one.

    :param load: reads one file.
    """

    def __init__(self, load: Load) -> None:
        self._load = load
        self._bytes_left = MAX_BYTES
        self._lines_left = MAX_LINES
        self._files_left = MAX_FILES
        self._open: list[tuple[int, int]] = []  # a chain of includes

    @property
    def depth(self) -> int:
        """How many files are open: 1 while it is the main file."""
        return len(self._open)

    def load(self, path: bytes) -> Contents:
        """Read a file; it counts towards the limits from now on.

        :raises OSError: it cannot be read, and the helper could not either.
        :raises Undecidable: the request must be refused.
        """
        if self._files_left == 0:
            raise Undecidable(f"more than {MAX_FILES} files")
        self._files_left -= 1
        contents = self._load(path, self._bytes_left)
        self._bytes_left -= len(contents.data)
        self._lines_left -= contents.data.count(b"\n") + 1
        if self._lines_left < 0:
            raise Undecidable(f"more than {MAX_LINES} lines")
        return contents

    def enter(self, identity: tuple[int, int]) -> None:
        """Say that the lines of a file come next, until `leave`.

        :raises Undecidable: it includes itself, or is too deep in includes.
        """
        if identity in self._open:
            raise Undecidable("a file that includes itself")
        if len(self._open) == MAX_DEPTH:
            raise Undecidable(f"more than {MAX_DEPTH} files deep")
        self._open.append(identity)

    def leave(self) -> None:
        self._open.pop()
