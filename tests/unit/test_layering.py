# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who may know of whom, read from the source; and what each file starts with.

A client of the broker must not pay for the daemon's libraries, policy must not
reach for the kernel, and what has no privilege must not grow one by an import.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "tapster"
FILES = sorted(SOURCE.rglob("*.py"))

# What stands alone at the top. A client may use all of it but `jsonutil` and `model`.
TOP = {"", "bridge_helper", "errors", "jsonutil", "model", "paths", "syntax", "version"}
CLIENT = TOP - {"jsonutil", "model"} | {"client"}
EVERYBODYS = {"errors", "jsonutil", "model", "paths", "syntax", "version"}
FOLDERS = {
    "cli": CLIENT | {"cli", "vmm"},
    "client": CLIENT,
    "daemon": EVERYBODYS | {"daemon", "kernel", "networks", "policy", "wire"},
    "kernel": {"kernel"},
    "networks": {"errors", "jsonutil", "model", "syntax", "kernel", "networks"},
    "policy": {"errors", "model", "syntax", "policy"},
    "vmm": {"errors", "vmm"},
    "wire": {"errors", "model", "wire"},
}
# A command that is no client of the broker: it reads what the broker reads.
MODULES = {"cli/policy.py": FOLDERS["cli"] | {"policy"}}
# Whose import from outside the standard library is for what.
FOREIGN = {
    "cli": {"rich"},
    "daemon": {"asyncvarlink", "jeepney"},
    "kernel": {"nftables"},
    "wire": {"asyncvarlink"},
}


def part(dotted: str) -> str:
    """`tapster.kernel.tun` is in kernel; `tapster` itself is in ""."""
    return [*dotted.split("."), ""][1]


def where(path: Path) -> str:
    """The folder of a module, or the module's name if it is in none."""
    first = path.relative_to(SOURCE).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


@cache
def nodes(path: Path) -> list[ast.AST]:
    """A file's syntax tree, which several tests walk through."""
    return list(ast.walk(tree(path)))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute name of each import, wherever it stands."""
    package = ["tapster", *path.relative_to(SOURCE).parts[:-1]]
    for node in nodes(path):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *filter(None, [node.module])])
            if name == "tapster":
                # `from .. import errors` names a module, `__version__` does not.
                for alias in node.names:
                    yield node.lineno, f"{name}.{alias.name}"
            else:
                yield node.lineno, name


def test_every_folder_has_its_rule() -> None:
    folders = {where(path) for path in FILES if path.parent != SOURCE}
    assert folders == set(FOLDERS)
    assert {where(path) for path in FILES} - folders == TOP


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports(path: Path) -> None:
    here = where(path)
    allowed = FOLDERS.get(here, CLIENT)
    allowed = MODULES.get(str(path.relative_to(SOURCE)), allowed)
    wrong = []
    for line, name in imports(path):
        top = name.split(".")[0]
        if top == "tapster":
            if part(name) not in allowed:
                wrong.append(f"{path}:{line}: {name}")
        elif top not in sys.stdlib_module_names and top not in FOREIGN.get(here, ()):
            wrong.append(f"{path}:{line}: {name}")
    assert not wrong


def test_the_helper_is_self_contained() -> None:
    names = [name for _, name in imports(SOURCE / "bridge_helper.py")]
    assert not [name for name in names if name.startswith("tapster")]


def sources() -> list[Path]:
    found = [ROOT / "Makefile", ROOT / "tools/setup", ROOT / ".ci/run"]
    for folder in ("src", "tests", "tools", "benchmarks", "data"):
        found += (p for p in (ROOT / folder).rglob("*") if p.is_file())
    skip = {".pyc", ".json", ".varlink", ".md", ".conf"}
    corpus = ROOT / "tests/corpus"  # what parsers are fed with
    found = [p for p in found if corpus not in p.parents]
    return sorted(p for p in found if p.suffix not in skip)


def test_every_source_says_its_licence() -> None:
    tag = "SPDX-License-Identifier: LGPL-2.1-or-later"
    missing = []
    for path in sources():
        head = path.read_text().splitlines()[:4]
        if head and not any(line.endswith(tag) for line in head):
            missing.append(str(path.relative_to(ROOT)))
    assert not missing


def test_every_module_says_why_it_exists() -> None:
    for path in FILES:
        assert ast.get_docstring(tree(path)), path


# The rooms of policy, as `policy/__init__.py` has them: each imports what stands to
# its right, and itself.
POLICY = ("lint", "foreign", "config", "core")
# What a pure function needs of the standard library: nothing that reads or asks.
PURE = {"__future__", "collections", "fnmatch", "itertools", "re", "typing"}
POLICY_FILES = [path for path in FILES if where(path) == "policy"]


@pytest.mark.parametrize("path", POLICY_FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_the_rooms_of_policy_import_one_way(path: Path) -> None:
    room = path.relative_to(SOURCE / "policy").parts[0]
    allowed = POLICY[POLICY.index(room) :] if room in POLICY else ()
    names = [name for _, name in imports(path) if part(name) == "policy"]
    assert not [name for name in names if name.split(".")[2] not in allowed]


def test_deciding_is_pure() -> None:
    for path in (SOURCE / "policy" / "core").glob("*.py"):
        assert {name.split(".")[0] for _, name in imports(path)} <= PURE | {"tapster"}


# The rooms of the daemon, as `daemon/__init__.py` reads them aloud.
DAEMON = SOURCE / "daemon"
DAEMON_FILES = [path for path in FILES if where(path) == "daemon"]


def floors() -> list[str]:
    """The order of the rooms, out of the text that newcomers read."""
    text = ast.get_docstring(tree(DAEMON / "__init__.py")) or ""
    listed = text.partition("and itself. ")[2].partition(". In words")[0]
    return listed.replace("\n", " ").replace(" ", "").split(",")


def room_of(dotted: str) -> str:
    """`tapster.daemon.nics.ledger` is in nics, `tapster.daemon.attach` in attach."""
    return [*dotted.split("."), "", ""][2]


def modules_of(path: Path) -> Iterator[str]:
    """The modules of ours that a module imports, by their full names."""
    package = ["tapster", *path.relative_to(SOURCE).parts[:-1]]
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *filter(None, [node.module])])
            for alias in node.names:
                full = f"{name}.{alias.name}"
                yield full if full in NAMES else name


def module_name(path: Path) -> str:
    parts = ["tapster", *path.relative_to(SOURCE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {module_name(path) for path in FILES}


def test_the_map_names_every_room() -> None:
    rooms = {path.relative_to(DAEMON).parts[0].removesuffix(".py") for path in FILES
             if DAEMON in path.parents}  # fmt: skip
    assert sorted(floors()) == sorted(rooms - {"__init__"})


@pytest.mark.parametrize("path", DAEMON_FILES, ids=lambda p: str(p.relative_to(DAEMON)))
def test_the_rooms_of_the_daemon_import_one_way(path: Path) -> None:
    order = floors()
    room = path.relative_to(DAEMON).parts[0].removesuffix(".py")
    allowed = order[order.index(room) :] if room in order else []
    names = [n for n in modules_of(path) if n.startswith("tapster.daemon.")]
    assert not [name for name in names if room_of(name) not in allowed]


def test_no_module_imports_itself_by_way_of_others() -> None:
    arrows = {
        module_name(path): {name for name in modules_of(path) if name in NAMES}
        for path in FILES
    }
    # Whoever imports nothing that is left is on no circle; take them away until
    # nobody is.
    while free := {name for name, others in arrows.items() if not others - {name}}:
        arrows = {
            name: others - free for name, others in arrows.items() if name not in free
        }
    assert not arrows
