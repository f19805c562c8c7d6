# SPDX-License-Identifier: LGPL-2.1-or-later
"""How large a module and a function may be. ruff holds their complexity (C901)."""

from __future__ import annotations

import ast
from pathlib import Path
from statistics import median

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "tapster"
FILES = sorted(SOURCE.rglob("*.py"))

MODULE_LINES, FUNCTION_LINES = 400, 60
MEDIAN_LINES = range(100, 201)
# What QEMU executes has to be one file.
LONGER = {SOURCE / "bridge_helper.py"}


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_module_fits_into_a_head(path: Path) -> None:
    assert path in LONGER or lines(path) <= MODULE_LINES
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= FUNCTION_LINES, f"{path}:{node.lineno}: {node.name}"


def test_modules_are_neither_halls_nor_cupboards() -> None:
    sizes = [lines(path) for path in FILES if path.stem != "__init__"]
    assert round(median(sizes)) in MEDIAN_LINES
