# SPDX-License-Identifier: LGPL-2.1-or-later
"""What patterns match, held against fnmatch(3)."""

from __future__ import annotations

import itertools
from fnmatch import fnmatchcase

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapster.policy.core.patterns import (
    are_within,
    is_within,
    matches_no_mac,
    matches_no_name,
)

SIGNS = st.text("ab-*?", max_size=5)
WORDS = ["".join(w) for n in range(6) for w in itertools.product("ab-", repeat=n)]


@settings(max_examples=3 * settings().max_examples, deadline=None)
@given(SIGNS, SIGNS)
def test_a_pattern_within_another_matches_no_more(inner: str, outer: str) -> None:
    if is_within(inner, outer):
        for word in WORDS:
            assert fnmatchcase(word, outer) or not fnmatchcase(word, inner)


@pytest.mark.parametrize(
    ("inner", "outer", "within"),
    [
        ("web-1", "web-*", True),
        ("web-1*", "web-*", True),
        ("web-*", "web-1*", False),
        ("web-?", "web-*", True),
        ("web-*", "web-?", False),
        ("a*b", "*", True),
        ("*ab", "*b", True),
        ("a?c", "a?*", True),
        ("a*", "a?*", False),
        ("52:54:00:*", "52:*:*", True),
    ],
)
def test_which_patterns_are_within_others(inner: str, outer: str, within: bool) -> None:
    assert is_within(inner, outer) is within
    assert are_within([inner], [outer, "x"]) is within
    assert are_within([inner, "y"], [outer]) is (within and outer == "*")
    assert are_within([inner], [])
    assert not are_within([], [outer])


LABELS = [
    word
    for word in WORDS
    if word and not word.startswith("-") and not word.endswith("-")
]


@settings(max_examples=3 * settings().max_examples, deadline=None)
@given(SIGNS.filter(bool))
def test_a_pattern_that_matches_no_name_is_found(pattern: str) -> None:
    # Whatever a pattern of five signs matches, it matches one of five letters.
    some = any(fnmatchcase(name, pattern) for name in LABELS)
    assert matches_no_name(pattern) is not some


@pytest.mark.parametrize(
    ("pattern", "impossible"),
    [
        ("a" * 63, False),
        ("*" + "-" * 61 + "a", False),
        ("?" + "-" * 62, True),
        ("*" * 63, False),
        ("??*" + "a" * 60, False),
        ("web-", True),
        ("-*", True),
        ("*-web", False),
    ],
)
def test_a_name_s_length_and_hyphens_are_minded(pattern: str, impossible: bool) -> None:
    assert matches_no_name(pattern) is impossible


@settings(max_examples=3 * settings().max_examples, deadline=None)
@given(st.binary(min_size=6, max_size=6), st.data())
def test_a_pattern_of_a_mac_matches_it(raw: bytes, data: st.DataObject) -> None:
    mac = bytes([raw[0] & ~1, *raw[1:]]).hex(":")
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, 17)] * 2)))
    blur = data.draw(st.sampled_from(["*", "?" * (end - start), mac[start:end] + "*"]))
    pattern = mac[:start] + blur + mac[end:]
    assert fnmatchcase(mac, pattern)
    assert not matches_no_mac(pattern)


@pytest.mark.parametrize(
    ("pattern", "impossible"),
    [
        ("52:54:00", True),
        ("52:54:00*", False),
        ("*", False),
        ("?" * 17, False),
        ("?" * 16, True),
        ("53:*", True),
        ("?3:*", True),
        ("5254*", True),
        ("*:::*", True),
        ("52:54:00:12:34:567", True),
        ("*0a", False),
    ],
)
def test_a_pattern_that_matches_no_mac_is_found(pattern: str, impossible: bool) -> None:
    assert matches_no_mac(pattern) is impossible
