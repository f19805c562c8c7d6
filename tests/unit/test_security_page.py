# SPDX-License-Identifier: LGPL-2.1-or-later
"""docs/security.md: each promise has tests, and they exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tapster.daemon.process import sandbox
from tapster.kernel import capabilities

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "security.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py(?:::\w+)*)`", TEXT)))
_, _, _PROMISES = TEXT.partition("| promise | shown by |\n|---|---|\n")
ROWS = [row for row in _PROMISES.partition("\n\n")[0].splitlines() if row]
SHORT = {
    number: name
    for name, number in vars(capabilities).items()
    if name.isupper() and not name.startswith("_")
}


def names_below(node: ast.AST) -> dict[str, ast.AST]:
    kinds = ast.ClassDef | ast.FunctionDef
    return {n.name: n for n in ast.iter_child_nodes(node) if isinstance(n, kinds)}


@cache
def parsed(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text())


@pytest.mark.parametrize("named", NAMED)
def test_test_exists(named: str) -> None:
    path, *parts = named.split("::")
    node: ast.AST = parsed(path)
    for part in parts:
        node = names_below(node)[part]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[2:50])
def test_promise_is_shown(row: str) -> None:
    assert any(f"`{named}`" in row for named in NAMED)


def test_there_are_promises() -> None:
    assert len(ROWS) > 15


def test_table_has_the_capabilities_that_are_kept() -> None:
    heads = "| capabilities", "| started by root"
    rows = [row.split("|") for row in TEXT.splitlines() if row.startswith(heads)]
    columns = [" ".join(row[n] for row in rows) for n in (2, 3, 4)]
    broker, spawner, dnsmasq = (set(re.findall(r"`([A-Z_]+)`", c)) for c in columns)
    assert broker == {SHORT[n] for n in sandbox.BROKER}
    assert broker | spawner == {SHORT[n] for n in sandbox.CHILDREN}
    assert dnsmasq == {"NET_ADMIN", "NET_BIND_SERVICE", "NET_RAW"}


def test_unit_file_gives_what_the_page_says() -> None:
    unit = (ROOT / "data" / "tapsterd.service").read_text()
    given = re.findall(r"^AmbientCapabilities=(.*)$", unit, re.M)
    assert given == ["CAP_NET_ADMIN CAP_NET_BIND_SERVICE CAP_NET_RAW"]
    assert "NoNewPrivileges=yes" in unit and "KillMode=process" in unit
