# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.daemon.resolve.request.check`: what a request may say, whatever exists."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapster.daemon.resolve.request import check
from tapster.errors import InvalidRequest
from tapster.model import AttachRequest


def refused(**words: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        check(AttachRequest(**words))
    assert caught.value.hint
    return caught.value.message


def test_nothing_said_is_fine() -> None:
    assert check(AttachRequest()) == AttachRequest()


def test_all_is_kept() -> None:
    request = AttachRequest("lan", None, "web1", "0a:1b:2c:3d:4e:5f", False, True)
    assert check(request) == request
    request = AttachRequest(bridge="br0.100")
    assert check(request) == request


def test_lower_case() -> None:
    request = check(AttachRequest(name="Web1", mac="0A:1B:2C:3D:4E:5F"))
    assert request.name == "web1"
    assert request.mac == "0a:1b:2c:3d:4e:5f"


def test_one_place_only() -> None:
    assert "exclude" in refused(network="default", bridge="br0")


@pytest.mark.parametrize(
    "bridge",
    ["", ".", "..", "a/b", "a b", "a:b", "a\tb", "a\0b", "x" * 16, "\N{EURO SIGN}" * 6],
)
def test_no_name_of_a_bridge(bridge: str) -> None:
    assert refused(bridge=bridge).startswith("bridge:")


@pytest.mark.parametrize("bridge", ["x", "x" * 15, "\N{EURO SIGN}" * 5, "-", "br0.1"])
def test_a_name_of_a_bridge(bridge: str) -> None:
    assert check(AttachRequest(bridge=bridge)).bridge == bridge


BAD_LABELS = [
    "",
    "-a",
    "a-",
    "a.b",
    "a_b",
    "a b",
    "a\n",
    "x" * 64,
    "\u00e9",
    "\0",
    "..",
]


@pytest.mark.parametrize("name", BAD_LABELS)
def test_no_label(name: str) -> None:
    assert refused(name=name).startswith("name:")
    assert refused(network=name).startswith("network:")


@pytest.mark.parametrize("name", ["a", "0", "a-b", "x" * 63])
def test_a_label(name: str) -> None:
    assert check(AttachRequest(name=name, network=name)).name == name


@pytest.mark.parametrize(
    "mac",
    [
        "",
        "0a:1b:2c:3d:4e",
        "0a:1b:2c:3d:4e:5f:60",
        "0a-1b-2c-3d-4e-5f",
        "0a1b2c3d4e5f     ",
        "a:1b:2c:3d:4e:5f0",
        "0a:1b:2c:3d:4e:5g",
        " 0a:1b:2c:3d:4e:5",
        "\uff10a:1b:2c:3d:4e:5f",
        "01:00:5e:00:00:01",
        "ff:ff:ff:ff:ff:ff",
        "00:00:00:00:00:00",
    ],
)
def test_no_mac_of_a_guest(mac: str) -> None:
    assert refused(mac=mac).startswith("mac:")


WORDS = st.none() | st.text()


@given(WORDS, WORDS, WORDS, WORDS)
def test_anything_else_is_refused_in_words(
    network: str | None, bridge: str | None, name: str | None, mac: str | None
) -> None:
    request = AttachRequest(network, bridge, name, mac)
    try:
        checked = check(request)
    except InvalidRequest as error:
        assert error.oneline().isprintable()
    else:
        assert check(checked) == checked
