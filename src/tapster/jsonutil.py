# SPDX-License-Identifier: LGPL-2.1-or-later
"""Typed reading of JSON that somebody else wrote, with errors that name the place.

A *reader* takes one parsed value and returns it as what it is meant to be, or
raises `JsonError`. Any function that raises ValueError or TypeError for what it
does not like is one: `Mode`, `IPv4Address`. The readers here are named after
JSON's types; `get` applies one to an attribute:

    uid = get(data, "uid", integer(0, 2**32 - 1))
    guests = get(data, "guests", mapping(string))
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

T = TypeVar("T")
Reader = Callable[[Any], T]

_SHOWN = 40  # characters of a value in a message


class JsonError(ValueError):
    """A value is not what is expected there.

    `path` leads from the outermost value to that one, as in ``forward[0].port``.
    """

    def __init__(self, reason: str, path: str = "") -> None:
        super().__init__(reason, path)
        self.reason = reason
        self.path = path

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}" if self.path else self.reason


class MissingAttribute(JsonError, KeyError):
    """An object lacks an attribute that it must have."""


def parse(text: str) -> Any:
    """Parse a text.

    :raises JsonError: it is no JSON, or is nested too deeply for this parser.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise JsonError("nested too deeply") from None
    except ValueError as err:
        raise JsonError(str(err)) from err


def _refused(wanted: str, value: object) -> JsonError:
    return JsonError(f"not {wanted}: {repr(value)[:_SHOWN]}")


def _read(read: Reader[T], value: object, place: str) -> T:
    """Apply a reader; what it raises says where that was."""
    try:
        return read(value)
    except JsonError as err:
        dot = "." if err.path and not err.path.startswith("[") else ""
        raise type(err)(err.reason, f"{place}{dot}{err.path}") from err
    except (ValueError, TypeError) as err:
        raise JsonError(str(err), place) from err


# Attributes of an object


def get(data: object, name: str, read: Reader[T]) -> T:
    """Read an attribute of an object.

    :param data: the object.
    :param name: of the attribute.
    :param read: what reads its value.
    :raises JsonError: `data` is no object, or the reader refuses the value.
    :raises MissingAttribute: there is no such attribute.
    """
    found = json_object(data)
    if name not in found:
        raise MissingAttribute("missing", name)
    return _read(read, found[name], name)


def attributes(
    data: object, readers: Mapping[str, Reader[Any]], optional: Collection[str] = ()
) -> dict[str, Any]:
    """Read an object that has the attributes of `readers` and no others.

    :param data: the object.
    :param readers: what reads each attribute, by its name.
    :param optional: names of attributes that may be missing. They are missing in
        the result, too.
    :raises JsonError: `data` is no object, has another attribute, or a reader
        refuses a value.
    :raises MissingAttribute: an attribute is missing.
    """
    found = json_object(data)
    for name in found:
        if name not in readers:
            raise JsonError("unknown", name)
    return {
        name: get(found, name, read)
        for name, read in readers.items()
        if name in found or name not in optional
    }


# Readers


def json_object(value: object) -> dict[str, Any]:
    """An object, of whatever attributes."""
    if not isinstance(value, dict):
        raise _refused("an object", value)
    return value


def string(value: object) -> str:
    """A string."""
    if not isinstance(value, str):
        raise _refused("a string", value)
    return value


def word(value: object) -> str:
    """A string of one line without spaces, for a file or command of such words."""
    if not isinstance(value, str) or not value.isprintable() or " " in value:
        raise _refused("a word", value)
    return value


def boolean(value: object) -> bool:
    """True or false, and no number."""
    if not isinstance(value, bool):
        raise _refused("true or false", value)
    return value


def integer(least: int, most: int | None = None) -> Reader[int]:
    """The reader of an integer from `least` to `most` (None: of any size)."""

    def read(value: object) -> int:
        if type(value) is not int:  # true and false are of a subclass
            raise _refused("an integer", value)
        if value < least or (most is not None and value > most):
            raise JsonError(f"out of range: {repr(value)[:_SHOWN]}")
        return value

    return read


def floating(value: object) -> float:
    """A finite number, as json writes a float: with a fraction or an exponent."""
    if not isinstance(value, float) or not math.isfinite(value):
        raise _refused("a finite float", value)
    return value


def optional(read: Reader[T]) -> Reader[T | None]:
    """The reader of what `read` reads, or of null, which is None."""
    return lambda value: None if value is None else read(value)


def text_as(make: Callable[[str], T]) -> Reader[T]:
    """The reader of a string from which `make` makes a value."""
    return lambda value: make(string(value))


def array(read: Reader[T]) -> Reader[list[T]]:
    """The reader of an array, each of whose values `read` reads."""

    def read_all(value: object) -> list[T]:
        if not isinstance(value, list):
            raise _refused("an array", value)
        return [_read(read, each, f"[{place}]") for place, each in enumerate(value)]

    return read_all


def mapping(read: Reader[T]) -> Reader[dict[str, T]]:
    """The reader of an object of any attributes, each of which `read` reads."""
    return lambda value: {
        name: _read(read, each, name) for name, each in json_object(value).items()
    }


def row(value: object, *readers: Reader[Any]) -> list[Any]:
    """Read an array of as many values as there are readers, each by its own.

    :raises JsonError: it is no such array.
    """
    values = array(lambda each: each)(value)
    if len(values) != len(readers):
        raise JsonError(f"{len(values)} values instead of {len(readers)}")
    return [
        _read(read, each, f"[{place}]")
        for place, (read, each) in enumerate(zip(readers, values, strict=True))
    ]
