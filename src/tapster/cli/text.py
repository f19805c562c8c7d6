# SPDX-License-Identifier: LGPL-2.1-or-later
"""Text for people: what comes from others cannot command their terminal."""

from __future__ import annotations

import sys


def visible(value: object) -> str:
    """One word or line to print: nothing in it moves, hides or colours anything.

    None is "-". Names come from other users' requests, through the broker.
    """
    text = "-" if value is None or value == "" else str(value)
    return "".join(c if c.isprintable() else "?" for c in text)


def note(text: str) -> None:
    """Say a line on stderr."""
    print(f"tapster: {visible(text)}", file=sys.stderr)


def size(count: int) -> str:
    """Bytes as people read them: 999B, 1.5KiB, 12MiB."""
    if abs(count) < 1024:
        return f"{count}B"
    amount = float(count)
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):
        amount /= 1024
        # 1023.9 is shown as 1024 of this unit; rather 1.0 of the next.
        if abs(amount) < 1023.5 or unit == "EiB":
            break
    digits = 1 if abs(amount) < 9.95 else 0
    return f"{amount:.{digits}f}{unit}"
