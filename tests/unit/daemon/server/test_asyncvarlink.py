# SPDX-License-Identifier: LGPL-2.1-or-later
"""No private name of asyncvarlink is overridden or read.

An update of it may change such names without a word. They are found by looking at
asyncvarlink as it is installed: at its classes, and at what they assign to `self`.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import asyncvarlink
import pytest

import tapster

SOURCE = Path(tapster.__file__).parent
# Files that have to do with asyncvarlink at all.
FILES = [
    path for path in sorted(SOURCE.rglob("*.py")) if "asyncvarlink" in path.read_text()
]


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def theirs() -> Iterator[ModuleType]:
    """asyncvarlink's modules."""
    for found in pkgutil.iter_modules(asyncvarlink.__path__, "asyncvarlink."):
        yield importlib.import_module(found.name)


def assigned(tree: ast.AST) -> set[str]:
    """Private names that are assigned to `self`, or to `cls`."""
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in ("self", "cls")
        and is_private(node.attr)
    }


def private_names(cls: type) -> set[str]:
    """The private names of one of asyncvarlink's classes."""
    tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(cls)))
    return {name for name in dir(cls) if is_private(name)} | assigned(tree)


def all_private_names() -> set[str]:
    """Private names of asyncvarlink's modules, classes, functions and objects."""
    found = set()
    for module in theirs():
        found |= {name for name in vars(module) if is_private(name)}
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.Attribute) and is_private(node.attr):
                found.add(node.attr)
            elif isinstance(node, ast.FunctionDef) and is_private(node.name):
                found.add(node.name)
            elif isinstance(node, ast.Name) and is_private(node.id):
                found.add(node.id)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)  # as setattr() has it
    return {name for name in found if is_private(name) and name.isidentifier()}


def our_classes() -> Iterator[type]:
    """Classes of the project that derive from asyncvarlink's."""
    for path in FILES:
        parts = path.relative_to(SOURCE).with_suffix("").parts
        module = importlib.import_module(".".join(("tapster", *parts)))
        for value in vars(module).values():
            if (
                inspect.isclass(value)
                and value.__module__ == module.__name__
                and any(is_theirs(base) for base in value.__mro__)
            ):
                yield value


def is_theirs(cls: type) -> bool:
    return cls.__module__.split(".")[0] == "asyncvarlink"


def test_there_is_something_to_look_at() -> None:
    assert len(FILES) > 4
    assert {"_registry", "_varlink_signature", "_recvfd"} <= all_private_names()
    assert "BrokerInterface" in {cls.__name__ for cls in our_classes()}


def test_no_class_overrides_a_private_name_that_it_inherits() -> None:
    for cls in our_classes():
        inherited = set[str]()
        for base in cls.__mro__:
            if is_theirs(base):
                inherited |= private_names(base)
        # What asyncvarlink itself sets in each class that derives from its own.
        own = {name for name in vars(cls) if is_private(name)} - {"_error_map"}
        tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(cls)))
        assert not (own | assigned(tree)) & inherited, cls


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_private_name_is_imported_or_read(path: Path) -> None:
    names = all_private_names()
    wrong = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            "asyncvarlink"
        ):
            found = [a.name for a in node.names if is_private(a.name)]
            found += [part for part in (node.module or "").split(".") if part[0] == "_"]
            wrong += found
        elif isinstance(node, ast.Attribute) and node.attr in names:
            # `self._x` is the class's own, which the test above looks at.
            if not (isinstance(node.value, ast.Name) and node.value.id == "self"):
                wrong.append(f"{node.lineno}: {ast.unparse(node)}")
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("attr"):
            for argument in node.args[1:2]:
                if isinstance(argument, ast.Constant) and argument.value in names:
                    wrong.append(f"{node.lineno}: {ast.unparse(node)}")
    assert not wrong


def test_the_protocols_and_the_transport_are_not_derived_from() -> None:
    """Most of what they are is private: the server room has its own."""
    from asyncvarlink.protocol import VarlinkBaseProtocol, VarlinkTransport

    for cls in our_classes():
        assert not issubclass(cls, (VarlinkBaseProtocol, VarlinkTransport)), cls
