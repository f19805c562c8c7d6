# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names of users and groups that nobody has, all of a file at once.

The reader of the configuration stops at its first error. Names that nobody has are
the most frequent one, so they are looked for here on their own; `lenient` gives each
a number of its own, so that the rest can be read all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..config.toml_locations import Document, Invalid, Keys
from ..config.values import Names, identity
from .findings import Finding, of_error


def unknown_names(document: Document, names: Names) -> Iterator[Finding]:
    """An error for each name of a user or group that nobody has."""
    user, group = identity("user", names.uid), identity("group", names.gid)
    for keys, value in _named(document):
        what, convert = ("group", group) if "groups" in keys[2:3] else ("user", user)
        try:
            convert(value)
        except Invalid as err:
            yield of_error(document.error(keys, err), f"unknown-{what}")


def lenient(names: Names) -> Names:
    """Names that all are somebody's: one that nobody has gets a negative number."""
    nobody: dict[str, int] = {}

    def resolved(resolve: Callable[[str], int]) -> Callable[[str], int]:
        def convert(name: str) -> int:
            try:
                return resolve(name)
            except (KeyError, ValueError):
                return nobody.setdefault(name, -1 - len(nobody))

        return convert

    return Names(resolved(names.uid), resolved(names.gid))


def _named(document: Document) -> Iterator[tuple[Keys, str]]:
    """Where names of users and groups stand, whatever else is in the file."""
    for number, rule in enumerate(_list(document.data.get("rules"))):
        for key in ("users", "groups"):
            for index, value in enumerate(_list(_table(rule).get(key))):
                if isinstance(value, str):
                    yield ("rules", number, key, index), value
    for name, network in _table(document.data.get("networks")).items():
        for guest, what in _table(_table(network).get("reservations")).items():
            value = _table(what).get("user")
            if isinstance(value, str):
                yield ("networks", name, "reservations", guest, "user"), value


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _table(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}
