# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tables for people: rich draws them on a terminal, elsewhere they are plain text.

A table is a list of rows, the head first, of text that is safe to print. Programs
read the output of --json instead.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def show(table: Sequence[Sequence[str]], colours: Mapping[str, str]) -> None:
    """Print a table.

    :param colours: for the words in the column STATE; used on a terminal only.
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
    """Print the table with colours. The terminal wraps a line that is too long."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    head, *rows = table
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for title in head:
        drawn.add_column(title, no_wrap=True)
    state = head.index("STATE")
    for row in rows:
        cells = [Text(word) for word in row]  # rich would read markup in a str
        cells[state].stylize(colours.get(row[state], ""))
        drawn.add_row(*cells)
    # If there is no height, rich sets the width to 80 on a dumb terminal.
    Console(width=10_000, height=25).print(drawn)
