# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is well-formed, and that `kernel`, which may not import it, says the same."""

from __future__ import annotations

import pytest

from tapster import syntax
from tapster.kernel import netlink, tun

INTERFACE_NAMES = {
    "a": True,
    "br0": True,
    "br-lan.100": True,
    "123456789012345": True,
    "1234567890123456": False,
    "ééééééé1": True,
    "éééééééé": False,  # 8 characters, 16 bytes
    "": False,
    ".": False,
    "..": False,
    "...": True,
    "a/b": False,
    "eth0:1": False,
    "a b": False,
    "a\tb": False,
    "a\0b": False,
    "\u0160": False,  # UTF-8 with a byte 0xa0, which Linux takes for white space
    "\ud800": False,  # no UTF-8 at all
    "tap%d": True,
    "\x1b[2J": True,
}
MACS = {
    "52:54:00:12:34:56": True,
    "00:00:00:00:00:00": True,
    "ff:ff:ff:ff:ff:ff": True,
    "": False,
    "52:54:00:12:34": False,
    "52:54:00:12:34:56:78": False,
    "525400123456": False,
    "52-54-00-12-34-56": False,
    "5:254:00:12:34:56": False,
    "52:54:00:12:34:5g": False,
    "52:54:00:12:34:5 ": False,
    " 52:54:00:12:34:56": False,
    "52:54:00:12:34:56\n": False,
    "\u06652:54:00:12:34:56": False,  # a digit, and not one of ours
}


@pytest.mark.parametrize(("name", "good"), INTERFACE_NAMES.items(), ids=ascii)
def test_interface_name_is_what_the_kernel_takes(name: str, good: bool) -> None:
    assert syntax.is_interface_name(name) is good
    assert tun.is_valid_name(name) is good


@pytest.mark.parametrize("byte", range(128))
def test_interface_name_with_each_character_is_as_the_tap_module_has_it(
    byte: int,
) -> None:
    for name in (chr(byte), f"a{chr(byte)}b"):
        assert syntax.is_interface_name(name) is tun.is_valid_name(name)


@pytest.mark.parametrize(("text", "good"), MACS.items(), ids=ascii)
def test_mac_is_six_pairs_of_digits_with_colons(text: str, good: bool) -> None:
    assert syntax.is_mac(text) is good
    for parse in (syntax.parse_mac, netlink.mac_bytes):
        if good:
            assert parse(text).hex(":") == text
        else:
            with pytest.raises(ValueError):
                parse(text)


def test_mac_in_upper_case_is_read_and_is_not_as_it_is_stored() -> None:
    assert syntax.parse_mac("52:54:00:AB:cD:EF").hex(":") == "52:54:00:ab:cd:ef"
    assert not syntax.is_mac("52:54:00:AB:cD:EF")


@pytest.mark.parametrize(
    ("text", "good"),
    {
        "52:54:00:12:34:56": True,
        "00:00:00:00:00:01": True,
        "00:00:00:00:00:00": False,
        "01:00:5e:00:00:01": False,
        "ff:ff:ff:ff:ff:ff": False,
    }.items(),
)
def test_mac_of_a_group_or_of_nobody_is_no_guests(text: str, good: bool) -> None:
    assert syntax.is_guest_mac(syntax.parse_mac(text)) is good


@pytest.mark.parametrize(
    ("text", "good"),
    {
        "a": True,
        "web-1": True,
        "1": True,
        "x" * 63: True,
        "x" * 64: False,
        "": False,
        "-a": False,
        "a-": False,
        "A": False,
        "a.b": False,
        "a_b": False,
        "a\n": False,
        "é": False,
        "²": False,
    }.items(),
    ids=ascii,
)
def test_label_is_lower_case_letters_digits_and_inner_hyphens(
    text: str, good: bool
) -> None:
    assert syntax.is_label(text) is good


def test_label_may_have_a_shorter_limit() -> None:
    assert syntax.is_label("x" * 40, 40)
    assert not syntax.is_label("x" * 41, 40)
