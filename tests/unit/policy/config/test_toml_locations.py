# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each key of a TOML file is found where it is written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from hypothesis import given
from hypothesis import strategies as st

from support.toml_texts import LINES, TABLES
from tapster.errors import ConfigError
from tapster.policy.config.toml_locations import Document, Keys

TOML = """\
a.b . "c d" = 1 # a comment with [brackets] and = signs
'e' = [1, {x = 2, "y" = [
  3, # three ]
  \'\'\'
]\'\'\'\',
]}]
s = \"\"\"
k = 1 \\\"\"\" [no] \"\"\"\"\"
t = { u = "}\\" = ", v.w = 'x' }
[[r]]
[ r . "n" ]
k = 1979-05-27 07:32:00
[[r]]
n.k = inf
[[r.m]]
[r.m.o]
"""


def every(data: object, before: Keys = ()) -> Iterator[Keys]:
    """The way to each key and to each value in a list."""
    items: Iterable[tuple[str | int, object]] = ()
    if isinstance(data, dict):
        items = data.items()
    elif isinstance(data, list):
        items = enumerate(data)
    for key, value in items:
        yield (*before, key)
        yield from every(value, (*before, key))


def test_a_key_s_location_is_where_its_name_begins() -> None:
    document = Document("f", TOML)
    found = {keys: document.location(*keys)[2:] for keys in every(document.data)}
    assert found == {
        ("a",): "1:1",
        ("a", "b"): "1:3",
        ("a", "b", "c d"): "1:7",
        ("e",): "2:1",
        ("e", 0): "2:8",
        ("e", 1): "2:11",
        ("e", 1, "x"): "2:12",
        ("e", 1, "y"): "2:19",
        ("e", 1, "y", 0): "3:3",
        ("e", 1, "y", 1): "4:3",
        ("s",): "7:1",
        ("t",): "9:1",
        ("t", "u"): "9:7",
        ("t", "v"): "9:21",
        ("t", "v", "w"): "9:23",
        ("r",): "10:3",
        ("r", 0): "10:3",
        ("r", 0, "n"): "11:7",
        ("r", 0, "n", "k"): "12:1",
        ("r", 1): "13:3",
        ("r", 1, "n"): "14:1",
        ("r", 1, "n", "k"): "14:3",
        ("r", 1, "m"): "15:5",
        ("r", 1, "m", 0): "15:5",
        ("r", 1, "m", 0, "o"): "16:6",
    }
    assert document.location("r", 1, "zzz", 3) == document.location("r", 1)
    assert document.location("zzz") == "f:1:1"
    assert document.line("r", 0, "n") == "f:11"
    crlf = Document("f", TOML.replace("\n", "\r\n"))
    assert {keys: crlf.location(*keys)[2:] for keys in every(crlf.data)} == found


@given(st.lists(LINES).map("\n".join) | st.lists(TABLES).map("\n".join))
def test_every_key_is_found_where_it_is(text: str) -> None:
    try:
        document = Document("f", text)
    except ConfigError as error:
        assert "not understood" not in str(error)
        return
    lines = text.split("\n")
    for keys in every(document.data):
        line, column = map(int, document.location(*keys).split(":")[1:])
        there = lines[line - 1][column - 1 :]
        if isinstance(keys[-1], str) and re.fullmatch(r"\w+", keys[-1]):
            assert there.lstrip("'\"").startswith(keys[-1])
