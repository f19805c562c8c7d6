# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tables, for people: on a terminal rich draws them, elsewhere they are plain.

A table is rows of text that is safe to print, the head first. A program does not
read these: there is --json beside each.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def show(table: Sequence[Sequence[str]], colours: Mapping[str, str]) -> None:
    """Print it.

    :param colours: of the words in the column STATE; on a terminal only.
    """
    if sys.stdout.isatty():
        draw(table, colours)
    else:
        print(plain(table))


def plain(table: Sequence[Sequence[str]]) -> str:
    """Aligned columns, two blanks between them."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(
            word.ljust(width) for word, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in table
    )


def draw(table: Sequence[Sequence[str]], colours: Mapping[str, str]) -> None:
    """The table with colours. A line that is too long is the terminal's to wrap."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    head, *rows = table
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for title in head:
        drawn.add_column(title, no_wrap=True)
    state = head.index("STATE")
    for row in rows:
        cells = [Text(word) for word in row]  # no str: that may have markup
        cells[state].stylize(colours.get(row[state], ""))
        drawn.add_row(*cells)
    # Without a height rich takes a dumb terminal's width for 80.
    Console(width=10_000, height=25).print(drawn)
