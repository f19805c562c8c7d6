# SPDX-License-Identifier: LGPL-2.1-or-later
"""QEMU's way to write properties: `key=value,flag,...`, or JSON.

An option that is rewritten must change in one place only, so each property is kept
together with its text. Properties are read as QEMU's own qemu_opts and qobject_input
read them. Nothing here is about networks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence


class Props:
    """The properties in one option's value, in the order they were written.

    :raises ValueError: the value is JSON and cannot be read.
    """

    __slots__ = ("_items", "_json")

    def __init__(self, text: str, implied: str, json: bool = False) -> None:
        self._json = json and text.startswith("{")
        self._items = list(_read_json(text) if self._json else _split(text, implied))

    def get(self, key: str) -> str | None:
        """The value that QEMU would use: the last of several, but the first id."""
        values = [value for name, value, _ in self._items if name == key]
        if not values:
            return None
        return str(values[0 if key == "id" else -1])

    def text(
        self,
        first: Mapping[str, str] | None = None,
        drop: Sequence[str] = (),
        last: Mapping[str, str] | None = None,
    ) -> str:
        """The text of the option's value, with some properties changed.

        The properties that are kept are kept to the letter.

        :param first: properties at the beginning, which replace the user's own. The
            first of them is the type, whose key is left out.
        :param drop: keys of properties that are left out.
        :param last: properties at the end.
        """
        first, last = first or {}, last or {}
        kept = [item for item in self._items if item[0] not in {*drop, *first}]
        if self._json:
            import json

            whole = {**first, **{name: value for name, value, _ in kept}, **last}
            return json.dumps(whole, ensure_ascii=False)
        head = [f"{name}={escape(value)}" for name, value in first.items()]
        head[:1] = [word.removeprefix("type=") for word in head[:1]]
        tail = [f"{name}={escape(value)}" for name, value in last.items()]
        # An empty piece would turn the comma before it into an escape.
        return ",".join([*head, *(raw for *_, raw in kept if raw), *tail])


def escape(value: str) -> str:
    """The text for a property's value that QEMU reads as this value."""
    return value.replace(",", ",,")


def _split(text: str, implied: str) -> Iterator[tuple[str, object, str]]:
    """QEMU's `key=value,flag,...`: (key, value, text) of each, as qemu_opts does."""
    at = 0
    while at < len(text):
        start = at
        equals, comma = text.find("=", at), text.find(",", at)
        value: str
        if equals >= 0 and (comma < 0 or equals < comma):
            key = text[at:equals]
            value, at = _value(text, equals + 1)
        elif start == 0:
            key = implied
            value, at = _value(text, 0)
        else:
            at = comma if comma >= 0 else len(text)
            key, value = text[start:at], "on"
            if key.startswith("no"):
                key, value = key[2:], "off"
        yield key, value, text[start:at]
        at += 1


def _value(text: str, start: int) -> tuple[str, int]:
    """The value that starts at `start`, and the place of the comma after it."""
    end = start
    while (end := text.find(",", end)) >= 0 and text.startswith(",,", end):
        end += 2
    if end < 0:
        end = len(text)
    return text[start:end].replace(",,", ","), end


def _read_json(text: str) -> Iterator[tuple[str, object, str]]:
    import json

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len(found := dict(pairs)) != len(pairs):
            raise ValueError("duplicate key")
        return found

    try:
        found = json.loads(text, object_pairs_hook=unique)
    except RecursionError:
        raise ValueError("nested too deep") from None
    for name, value in found.items():
        yield name, value, ""
