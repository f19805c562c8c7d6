# SPDX-License-Identifier: LGPL-2.1-or-later
"""What patterns for MAC addresses and guests' names can match.

A pattern consists of `*`, `?` and plain characters, as the configuration has it. The
answer True is certain; False means that it could not be shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ...syntax import LABEL_LENGTH

_START, _INSIDE, _HYPHEN = "start", "inside", "hyphen"  # what a name so far ends in
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

    def fits(sign: str, index: int) -> bool:
        # A `?` stands for one character of any kind, but not for a `*`.
        return inner[index] == sign or (sign == "?" and inner[index] != "*")

    return len(inner) in _match_ends(outer, len(inner), fits)


def matches_no_mac(pattern: str) -> bool:
    """Whether a pattern matches no guest's MAC address."""

    def fits(sign: str, index: int) -> bool:
        return sign == "?" or sign in _characters_at(index)

    return _MAC_LENGTH not in _match_ends(pattern, _MAC_LENGTH, fits)


def _match_ends(
    pattern: str, length: int, fits: Callable[[str, int], bool]
) -> set[int]:
    """Where a pattern's match from the start of a text may end.

    :param pattern: with any number of `*`.
    :param length: of the text.
    :param fits: whether a character of the pattern, no `*`, fits an index of the text.
    """
    ends = {0}
    for sign in pattern:
        if sign == "*":
            ends = set(range(min(ends), length + 1))
        else:
            ends = {end + 1 for end in ends if end < length and fits(sign, end)}
        if not ends:
            break
    return ends


def _characters_at(index: int) -> frozenset[str]:
    """The characters that may stand there in a MAC address."""
    if index % 3 == 2:
        return frozenset(":")
    return _UNICAST if index == 1 else _HEX


def matches_no_name(pattern: str) -> bool:
    """Whether a pattern matches no name that a guest can have."""
    # What a name that matches so far may end in, and how long it is at least.
    ends = {_START: 0}
    for sign in pattern:
        after: dict[str, int] = {}
        for end, length in ends.items():
            for new_end, new_length in _one_more(sign, end, length):
                if new_length <= LABEL_LENGTH:
                    after[new_end] = min(new_length, after.get(new_end, new_length))
        ends = after
    return _INSIDE not in ends


def _one_more(sign: str, end: str, length: int) -> Iterator[tuple[str, int]]:
    """What a name may end in once it matches one more character of a pattern.

    :param sign: that character.
    :param end: what the name ends in before it.
    :param length: how long it is at least before it.
    """
    if sign == "*":
        yield end, length
        yield _INSIDE, length + 1
        # A name does not start with a hyphen, so another character has to come first.
        yield _HYPHEN, length + (2 if end == _START else 1)
        return
    if sign != "-":
        yield _INSIDE, length + 1
    if sign in "-?" and end != _START:
        yield _HYPHEN, length + 1
