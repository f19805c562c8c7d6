# SPDX-License-Identifier: LGPL-2.1-or-later
"""Audit records as others read them: by docs/events.md, jq's way, the journal's."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs/events.md").read_text()
_TYPES = {"string": str, "integer": int}


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading of docs/events.md."""
    part = DOCUMENT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in lines[2:]]


def fields() -> dict[str, tuple[type, bool]]:
    """Of each documented field its type, and whether it may be null."""
    found = {}
    for name, kind, *_ in rows("Fields"):
        word, _, null = kind.partition(" or ")
        assert null in ("", "null"), kind
        found[name] = (_TYPES[word], bool(null))
    return found


def check(record: dict[str, Any]) -> dict[str, Any]:
    """A record that has each documented field, rightly typed, and no other."""
    told = fields()
    assert set(record) == set(told)
    for name, (kind, nullable) in told.items():
        value = record[name]
        assert type(value) is kind or (nullable and value is None), (name, value)
    outcomes = {row[0]: row[1] for row in rows("Events")}
    assert record["outcome"] == outcomes[record["event"]]
    return record


def of_log(text: str) -> list[dict[str, Any]]:
    """The records among the lines of a log."""
    lines = [line for line in text.splitlines() if line.startswith("{")]
    return [check(json.loads(line)) for line in lines]


def of_entry(entry: bytes) -> dict[str, str]:
    """An entry's fields, as the journal's native protocol says to read them."""
    found = {}
    while entry:
        line, _, rest = entry.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (length,) = struct.unpack("<Q", rest[:8])
            value = rest[8 : 8 + length]
            assert rest[8 + length : 9 + length] == b"\n"
            rest = rest[9 + length :]
        found[name.decode()] = value.decode()
        entry = rest
    return found
