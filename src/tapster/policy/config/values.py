# SPDX-License-Identifier: LGPL-2.1-or-later
"""Values of any kind, checked and typed.

Each function takes a value as tomllib returns it, and returns the typed value or raises
`Invalid`. The message repeats the value, since a list may have many. Some functions
take terms and return such a function.
"""

from __future__ import annotations

import grp
import pwd
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, NamedTuple, TypeVar

from ...syntax import LABEL_LENGTH, is_label
from .toml_locations import Invalid, UnknownKey, did_you_mean

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)

_NAME_PATTERN = re.compile(r"[a-z0-9*?-]+")
_DURATION = re.compile(r"([1-9][0-9]{0,8})(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
LONGEST = 366 * 86400  # seconds
_MAX_ID = 2**32 - 2  # the one above means "no user"


class Names(NamedTuple):
    """The numbers of users' and groups' names; KeyError if nobody has the name."""

    uid: Callable[[str], int]
    gid: Callable[[str], int]


NSS = Names(
    lambda name: pwd.getpwnam(name).pw_uid, lambda name: grp.getgrnam(name).gr_gid
)


def shown(value: Any) -> str:
    """A value as a piece of one line of a message."""
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "a table"
    if isinstance(value, bool):
        return str(value).lower()
    try:
        text = repr(value) if isinstance(value, str) else str(value)
    except ValueError:  # more digits than Python writes
        return "this number"
    return text if len(text) <= 60 else f"{text[:59]}…"


def string(value: Any) -> str:
    if not isinstance(value, str):
        raise Invalid(f"{shown(value)} is not a string")
    return value


def boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Invalid(f"{shown(value)} is neither true nor false")
    return value


def table(
    value: Any, convert: Mapping[str, Callable[[Any], Any]] | None = None
) -> dict[str, Any]:
    """A table.

    :param convert: the keys that it may have, and the functions that check and type
        their values; None: any keys, with values as they are.
    """
    if not isinstance(value, dict):
        raise Invalid(f"{shown(value)} is not a table")
    if convert is None:
        return value
    found = {}
    for key, item in value.items():
        if key not in convert:
            raise UnknownKey(key, convert)
        try:
            found[key] = convert[key](item)
        except Invalid as err:
            raise err.below(key) from None
    return found


def integer(low: int, high: int) -> Callable[[Any], int]:
    """A whole number from `low` to `high`."""

    def convert(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise Invalid(f"{shown(value)} is not a whole number")
        if not low <= value <= high:
            raise Invalid(f"{shown(value)} is not from {low} to {high}")
        return value

    return convert


def each(
    convert: Callable[[Any], T], empty: str = ""
) -> Callable[[Any], tuple[T, ...]]:
    """A list of values that `convert` takes.

    :param empty: what to do instead of writing an empty list; "" if one may be.
    """

    def convert_all(value: Any) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise Invalid(f"{shown(value)} is not a list")
        if not value and empty:
            raise Invalid(f"the list is empty; {empty}")
        found = []
        for number, item in enumerate(value):
            try:
                found.append(convert(item))
            except Invalid as err:
                raise err.below(number) from None
        return tuple(found)

    return convert_all


def choice(kind: type[E], *later: str) -> Callable[[Any], E]:
    """One of the words of an enumeration.

    :param later: words of a later version, which are refused as such.
    """

    def convert(value: Any) -> E:
        text = string(value)
        if text in later:
            raise Invalid(f"{shown(text)} is not in this version")
        try:
            return kind(text)
        except ValueError:
            words = ", ".join(f'"{member}"' for member in kind)
            near = did_you_mean(text, list(kind))
            raise Invalid(f"{shown(text)} is none of {words}{near}") from None

    return convert


def label(value: Any, longest: int = LABEL_LENGTH) -> str:
    """A guest's or a network's name."""
    text = string(value)
    if not is_label(text, longest):
        raise Invalid(
            f"{shown(text)} is not 1 to {longest} lower-case letters, digits and '-', "
            "which is neither first nor last"
        )
    return text


def name_pattern(value: Any) -> str:
    """A pattern for guests' names; `*` and `?` mean what they do in a shell."""
    text = string(value).lower()
    if len(text) > LABEL_LENGTH or not _NAME_PATTERN.fullmatch(text):
        raise Invalid(f"{shown(value)} is not a pattern for guests' names, as in web-*")
    return text


def duration(value: Any) -> int:
    """Seconds: a number, or a text with a unit, "90s", "30m", "8h" or "7d"."""
    if isinstance(value, str):
        found = _DURATION.fullmatch(value)
        if found is None:
            raise Invalid(f"{shown(value)} is not a time, as in 30m, 8h or 7d")
        value = int(found[1]) * _SECONDS[found[2]]
    return integer(1, LONGEST)(value)


def identity(what: str, resolve: Callable[[str], int]) -> Callable[[Any], int]:
    """The number of a user or group, which may be written by name or by number.

    :param what: "user" or "group".
    :param resolve: the number of a name.
    """

    def convert(value: Any) -> int:
        if not isinstance(value, str):
            return integer(0, _MAX_ID)(value)
        try:
            return resolve(value)
        except (KeyError, ValueError):  # ValueError: a name with a NUL
            hint = "; a number has no quotes" if value.isdecimal() else ""
            raise Invalid(f"there is no {what} {shown(value)}{hint}") from None

    return convert
