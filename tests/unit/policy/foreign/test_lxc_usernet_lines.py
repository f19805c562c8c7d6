# SPDX-License-Identifier: LGPL-2.1-or-later
"""lxc-usernet: what a line means, and what lines come to, as for LXC."""

from __future__ import annotations

import ctypes
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.usernet import ALICE, TEXTS, numbers
from tapster.model import Peer
from tapster.policy.foreign import lxc_usernet_lines
from tapster.policy.foreign.lxc_usernet_lines import Allotment, Grant, parse, weigh


def weighed(data: bytes, peer: Peer = ALICE) -> Grant:
    """`weigh` over the lines of a text for br0."""
    lines = [line for line in parse(data) if line.bridge == b"br0"]
    return weigh("/f", lines, numbers(data), peer)


# --- as LXC


@pytest.mark.parametrize(
    ("data", "lxc", "number"),
    [
        # What lxc-user-nic 5.0.2 gave alice, asked until it refused.
        (b"alice tap br0 2\n", 2, 2),
        (b"alice tap br0 2\nalice tap br0 3\n", 3, 3),
        (b"alice tap br0 3\nalice tap br0 2\n", 3, 3),
        (b"alice tap br0 2\n@g tap br0 3\n", 5, 5),
        (b"@g tap br0 3\nalice tap br0 2\n@h tap br0 1\n@g tap br0 4\n", 7, 7),
        (b"alice tap br0 4\nalice tap br0 -10\n", 0, 0),
        (b"alice tap br0 4\n@g tap br0 -1\n", 4, 4),
        (b"alice tap br0 0\n", 0, 0),
        (b"1001 tap br0 3\n", 0, 0),
        (b" alice tap br0 3\n", 0, 0),
        (b"\talice tap br0 3\n", 0, 0),
        (b"alice\ttap\tbr0\t3\n", 3, 3),
        (b"alice tap br0 3 # why\n", 3, 3),
        (b"alice tap br0 3x\n", 3, 3),
        (b"alice tap br0 0x3\n", 0, 0),
        (b"alice tap br0 +3\n", 3, 3),
        (b"alice tap br0 3.9\r\n", 3, 3),
        (b"alice tap br0\n3\n", 0, 0),
        (b"alice tap br0 3\0 9\n", 3, 3),
        (b"alice veth br0 3\n", 0, 0),
        (b"alice TAP br0 3\n", 0, 0),
        (b"alice tap br1 3\n", 0, 0),
        (b"alice tap br0 2147483648\n", 0, 0),
        (b"alice tap br0 3", 3, 3),
        (b"#alice tap br0 3\n", 0, 0),
        (b"alice \v tap br0 3\n", 3, 3),
        (b"alice\vtap br0 3\n", 0, 0),
        (b"alice tap br0 \v3\n", 3, 3),
        (b"@ tap br0 3\n", 0, 0),
        (b"alice tap br0 " + b"0" * 50 + b"3\n", 3, 3),
        (b"alice tap br0 - 3\n", 0, 0),
        (b"alice" + b" " * 200 + b"tap br0 3\n", 3, 3),
        (b"bob tap br0 3\n", 0, 0),
        (b"@other tap br0 3\n", 0, 0),
        # What differs.
        (b"@alice tap br0 3\n", 0, 3),
        (b"toor tap br0 3\n", 0, 3),
        (b"@g tap br0 0\nalice tap br0 2\n", 3, 2),
        (b"@g tap br0 -1\nalice tap br0 2\n", 3, 2),
        (b"alice tap br0 4294967299\n", 3, 0),
        (b"alice tap br0 99999999999999999999\n@g tap br0 4\n", 5, 0),
    ],
)
def test_a_caller_gets_as_many_nics_as_from_lxc(
    data: bytes, lxc: int, number: int
) -> None:
    assert weighed(data).nics == number
    if number != lxc:
        return
    # Nor does a line behind or before it change what it means.
    for other in (b"", b"\n", b"bob tap br0 9\n", b"alice veth br0 9\n", b"x\n"):
        assert weighed(other + data).nics == number
        assert weighed(data.rstrip(b"\n") + b"\n" + other).nics == number


SCANF = ctypes.CDLL(None).sscanf
FORMAT = b"%99[^ \t] %99[^ \t] %99[^ \t] %d"


def scanned(line: bytes) -> tuple[bytes, bytes, bytes, int] | None:
    """The fields of a line, by the C library."""
    fields = [ctypes.create_string_buffer(100) for _ in range(3)]
    number = ctypes.c_int()
    if SCANF(line, FORMAT, *fields, ctypes.byref(number)) != 4:
        return None
    name, kind, bridge = (field.value for field in fields)
    return name, kind, bridge, number.value


@settings(max_examples=5 * settings().max_examples)
@given(TEXTS)
def test_fields_are_split_as_scanf_splits_them(text: bytes) -> None:
    text = text.replace(b"\n", b"")
    found = [line for line in parse(text) if line.nics is not None]
    expected = scanned(text + b"\n")
    if expected is None or expected[1] != b"tap" or text.startswith(b"#"):
        assert found == []
    elif not re.search(rb"[0-9]{10}", text):  # too large for an int, if larger yet
        (line,) = found
        assert (line.name, line.bridge, line.nics) == (
            expected[0],
            expected[2],
            expected[3],
        )


def by_lxc(data: bytes, peer: Peer, names: dict[bytes, int | None]) -> int:
    """How many NICs LXC gives: each counts to the first name that has room; the
    very first one to the first name."""
    mine = []
    for text in data.split(b"\n"):
        fields = scanned(text + b"\n")
        if fields is None or fields[1:3] != (b"tap", b"br0"):
            continue
        number = names[fields[0]]
        if number in ({peer.gid, *peer.groups} if b"@" in fields[0] else {peer.uid}):
            mine.append((fields[0], fields[3]))
    if sum(number for _, number in mine) <= 0:
        return 0
    held = Counter([mine[0][0]])
    while free := [name for name, number in mine if held[name] < number]:
        held[free[0]] += 1
    return held.total()


LINE = st.tuples(
    st.sampled_from([b"alice", b"bob", b"@g", b"@h", b"@other"]),
    st.sampled_from([b"tap", b"tap", b"tap", b"veth"]),
    st.sampled_from([b"br0", b"br0", b"br0", b"br1"]),
    st.integers(-3, 5).map(lambda n: b"%d" % n),
).map(b" ".join)


@settings(max_examples=5 * settings().max_examples)
@given(st.lists(LINE, max_size=8).map(b"\n".join))
def test_lines_come_to_what_they_do_for_lxc(data: bytes) -> None:
    found, lxc = weighed(data), by_lxc(data, ALICE, numbers(data))
    first = next(iter(found.allotments), Allotment("", 1))
    assert lxc - found.nics == (found.nics > 0 and first.nics == 0)
    assert sum(allotment.nics for allotment in found.allotments) == found.nics


# --- whatever is in a file


@given(st.binary() | st.lists(TEXTS).map(b"\n".join))
def test_any_bytes_come_to_a_grant(data: bytes) -> None:
    found = weighed(data)
    assert found.nics >= 0
    assert all(text.isprintable() for text in (*found.notes, *found.locations))
    if found.nics:
        assert b"tap" in data and found.locations


@given(st.lists(LINE, max_size=8), st.sampled_from([b"\xff", b"x", b"@zzz"]))
def test_lines_about_others_change_nothing(lines: list[bytes], name: bytes) -> None:
    more = [line.replace(b"alice", name) for line in lines]
    assert weighed(b"\n".join(lines)).allotments == (
        weighed(
            b"\n".join([*lines, *(m for m in more if m.startswith(name))])
        ).allotments
    )


def test_what_is_odd_is_told() -> None:
    data = (
        b"alice tap br0 2\n"
        b"eve tap br0 2\n"
        b"@nobodys tap br0 2\n"
        b"\xff\x1b[1m tap br0 1\n"
        b" alice tap br0 2\n"
        b"alice tap br0\n"
        b"alice tap br0 3x\n"
        b"@g tap br0 1\0x\n"
        b"@h tap br0 99999999999\n"
        b"#alice tap br0\n"
        b"eve veth br0 2\n"
        b"eve tap br1 2\n"
    )
    found = weighed(data)
    assert found.nics == 0
    assert found.locations == ("/f:1", "/f:7", "/f:8", "/f:9")
    assert found.notes == (
        "/f:2: there is no user eve",
        "/f:3: there is no group nobodys",
        "/f:4: there is no user \\\\xff\\x1b[1m",
        "/f:5: space before the name: it counts for nothing",
        "/f:6: no number: it counts for nothing",
        "/f:7: the number is taken for 3",
        "/f:8: cut at a NUL byte",
        "/f:9: no such number: whom it is about has nothing",
    )


def test_not_more_than_some_notes_are_kept() -> None:
    notes = weighed(b"eve tap br0 1\n" * 50).notes
    assert len(notes) == lxc_usernet_lines.MAX_NOTES + 1
    assert notes[-1] == "and 18 more"
    locations = weighed(b"alice tap br0 1\n" * 50).locations
    assert len(locations) == lxc_usernet_lines.MAX_LOCATIONS


def test_a_grant_says_which_name_allots_how_many() -> None:
    data = b"@g tap br0 3\nalice tap br0 2\n@g tap br0 4\n@h tap br0 0\n"
    found = weighed(data)
    assert found.allotments == (
        Allotment("@g", 4),
        Allotment("alice", 2),
        Allotment("@h", 0),
    )
    assert found.nics == 6
    bob = Peer(1002, 1002, frozenset({3001}), 1)
    assert weighed(data, bob).allotments == (Allotment("@g", 4),)


@pytest.mark.parametrize("digits", [b"9" * 5000, b"-" + b"9" * 5000])
def test_a_number_of_any_length_is_read(digits: bytes) -> None:
    zeros = b"0" * 5000
    assert weighed(b"alice tap br0 +%s3\n@g tap br0 -%s1\n" % (zeros, zeros)).nics == 3
    assert weighed(b"alice tap br0 " + digits + b"\n@g tap br0 4\n").nics == 0
