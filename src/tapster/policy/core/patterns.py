# SPDX-License-Identifier: LGPL-2.1-or-later
"""What patterns for MAC addresses and guests' names can match.

A pattern consists of `*`, `?` and plain characters, as the configuration has it. The
answer True is certain; False means that it could not be shown.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...syntax import LABEL_LENGTH

_MAC_LENGTH = 17
_HEX = frozenset("0123456789abcdef")
_UNICAST = frozenset("02468ace")  # the second digit


def are_within(inner: Sequence[str], outer: Sequence[str]) -> bool:
    """Whether `outer` matches all that `inner` does. An empty list matches anything."""
    if not outer:
        return True
    return bool(inner) and all(
        any(is_within(pattern, wide) for wide in outer) for pattern in inner
    )


def is_within(inner: str, outer: str) -> bool:
    """Whether the pattern `outer` matches all that the pattern `inner` does."""
    if inner == outer:
        return True
    # Up to where in `inner` the part of `outer` so far may match.
    ends = {0}
    for sign in outer:
        if sign == "*":
            ends = set(range(min(ends), len(inner) + 1))
        else:
            # A `?` stands for one sign of any kind, but not for a `*`.
            ends = {
                end + 1
                for end in ends
                if end < len(inner)
                and (inner[end] == sign or (sign == "?" and inner[end] != "*"))
            }
        if not ends:
            return False
    return len(inner) in ends


def matches_no_mac(pattern: str) -> bool:
    """Whether a pattern matches no guest's MAC address."""
    ends = {0}
    for sign in pattern:
        if sign == "*":
            ends = set(range(min(ends), _MAC_LENGTH + 1))
        else:
            ends = {
                end + 1
                for end in ends
                if end < _MAC_LENGTH and (sign == "?" or sign in _characters_at(end))
            }
        if not ends:
            return True
    return _MAC_LENGTH not in ends


def _characters_at(index: int) -> frozenset[str]:
    """The characters that may stand there in a MAC address."""
    if index % 3 == 2:
        return frozenset(":")
    return _UNICAST if index == 1 else _HEX


def matches_no_name(pattern: str) -> bool:
    """Whether a pattern matches no name that a guest can have."""
    start, inside, hyphen = "start", "inside", "hyphen"
    # What a name that matches so far may end in, and how long it is at least.
    ends: dict[str, int] = {start: 0}
    for sign in pattern:
        after: dict[str, int] = {}

        def reach(end: str, length: int, after: dict[str, int] = after) -> None:
            if length <= LABEL_LENGTH:
                after[end] = min(length, after.get(end, length))

        for end, length in ends.items():
            if sign == "*":
                reach(end, length)
                reach(inside, length + 1)
                # Behind a letter or digit: a name does not start with a hyphen.
                reach(hyphen, length + (2 if end == start else 1))
                continue
            if sign != "-":
                reach(inside, length + 1)
            if sign in "-?" and end != start:
                reach(hyphen, length + 1)
        ends = after
    return inside not in ends
