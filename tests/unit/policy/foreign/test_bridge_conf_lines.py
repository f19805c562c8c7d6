# SPDX-License-Identifier: LGPL-2.1-or-later
"""bridge.conf: what a line means."""

from __future__ import annotations

import pytest

from tapster.policy.foreign.bridge_conf_lines import parse


def rules(data: bytes) -> list[tuple[bytes, bytes]]:
    return [(line.word, line.argument) for line in parse(data).lines if line.word]


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        (b"allow br0", (b"allow", b"br0")),
        (b"deny\tbr0", (b"deny", b"br0")),
        (b" \t\f\r allow \t br0 \f\r\t", (b"allow", b"br0")),
        (b"allow br0 # why", (b"allow", b"br0 # why")),
        (b"allow br0\v", (b"allow", b"br0\v")),
        (b"allow ", (b"allow", b"")),
        (b"allow\t", (b"allow", b"")),
        (b"allow br0\0 anything", (b"allow", b"br0")),
        (b"include /a b/c ", (b"include", b"/a b/c")),
        (b"include " + b"/" * 300, (b"include", b"/" * 300)),
        (b"allow 123456789012345", (b"allow", b"123456789012345")),
        (b"allow \xff\xa0", (b"allow", b"\xff\xa0")),
    ],
)
def test_a_line_is_a_rule(line: bytes, rule: tuple[bytes, bytes]) -> None:
    for end in (b"", b"\n"):
        assert rules(line + end) == [rule]


@pytest.mark.parametrize(
    "line", [b"", b" ", b"#", b" # allow br0", b"\r", b"\0allow br0", b" \0bogus"]
)
def test_a_line_means_nothing(line: bytes) -> None:
    parsed = parse(line + b"\nallow br0\n")
    assert rules(line + b"\nallow br0\n") == [(b"allow", b"br0")]
    assert parsed.error is None


@pytest.mark.parametrize(
    ("line", "remark"),
    [
        (b"bogus", "a word alone"),
        (b"allow", "a word alone"),
        (b"allow\r", "a word alone"),
        (b"allow\vbr0", "a word alone"),
        (b"Allow br0", "unknown word"),
        (b"allow\tbr0 ", "unknown word"),
        (b"\vallow br0", "unknown word"),
        (b"\xef\xbb\xbfallow br0", "unknown word"),
        (b"allow 1234567890123456", "name too long"),
        (b"deny br0 # because of", "name too long"),
    ],
)
def test_a_wrong_line_ends_the_file(line: bytes, remark: str) -> None:
    parsed = parse(b"allow br0\n\n" + line + b"\nallow br1\n")
    assert [rule.argument for rule in parsed.lines] == [b"br0"]
    assert parsed.error is not None
    assert (parsed.error.number, parsed.error.remark) == (3, remark)


def test_a_long_line_goes_on_as_another() -> None:
    assert rules(b"#" + b" " * 4094 + b"allow br0") == [(b"allow", b"br0")]
    assert rules(b"#" + b" " * 4093 + b"allow br0") == []  # cut within `allow`
    assert rules(b"#" * 4095 + b"\nallow br0") == [(b"allow", b"br0")]
    parsed = parse(b"\n#" + b"x" * 5000)
    assert parsed.lines[0].remark == "long line, read in pieces"
    assert parsed.error is not None and parsed.error.number == 2
