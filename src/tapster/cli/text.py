# SPDX-License-Identifier: LGPL-2.1-or-later
"""Text for people, in which nothing from other users can control their terminal."""

from __future__ import annotations

import sys


def visible(value: object) -> str:
    """A word or line that is safe to print: control characters become "?".

    None and "" become "-". Names come from other users' requests, through the broker.
    """
    text = "-" if value is None or value == "" else str(value)
    return "".join(c if c.isprintable() else "?" for c in text)


def note(text: str) -> None:
    """Print a line on stderr."""
    print(f"tapster: {visible(text)}", file=sys.stderr)


def size(count: int) -> str:
    """Bytes as people read them: 999B, 1.5KiB, 12MiB."""
    if abs(count) < 1024:
        return f"{count}B"
    amount = float(count)
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):
        amount /= 1024
        # 1023.9 would be printed as 1024 of this unit; print 1.0 of the next.
        if abs(amount) < 1023.5 or unit == "EiB":
            break
    digits = 1 if abs(amount) < 9.95 else 0
    return f"{amount:.{digits}f}{unit}"
