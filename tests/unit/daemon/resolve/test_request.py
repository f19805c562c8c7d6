# SPDX-License-Identifier: LGPL-2.1-or-later
"""`resolve.request`: what a request may say, whatever exists; and what it means."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapster.daemon.resolve.request import check, resolve
from tapster.errors import InvalidRequest
from tapster.kernel.rtnetlink import Link
from tapster.model import AttachRequest, NetworkDefinition
from tapster.policy.config.load import Config
from tapster.policy.core.rulebook import DEFAULT_NETWORK, Target


def refused(**words: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        check(AttachRequest(**words))
    assert caught.value.hint
    return caught.value.message


def test_a_request_may_leave_out_everything() -> None:
    assert check(AttachRequest()) == AttachRequest()


def test_what_a_request_says_is_kept() -> None:
    request = AttachRequest("lan", None, "web1", "0a:1b:2c:3d:4e:5f", False, True)
    assert check(request) == request
    request = AttachRequest(bridge="br0.100")
    assert check(request) == request


def test_a_name_and_a_mac_are_taken_in_lower_case() -> None:
    request = check(AttachRequest(name="Web1", mac="0A:1B:2C:3D:4E:5F"))
    assert request.name == "web1"
    assert request.mac == "0a:1b:2c:3d:4e:5f"


def test_a_network_and_a_bridge_exclude_each_other() -> None:
    assert "exclude" in refused(network="default", bridge="br0")


@pytest.mark.parametrize(
    "bridge",
    ["", ".", "..", "a/b", "a b", "a:b", "a\tb", "a\0b", "x" * 16, "\N{EURO SIGN}" * 6],
)
def test_what_can_not_be_a_bridge_s_name_is_refused(bridge: str) -> None:
    assert refused(bridge=bridge).startswith("bridge:")


@pytest.mark.parametrize("bridge", ["x", "x" * 15, "\N{EURO SIGN}" * 5, "-", "br0.1"])
def test_what_can_be_a_bridge_s_name_is_taken(bridge: str) -> None:
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
def test_what_can_not_be_a_host_or_network_name_is_refused(name: str) -> None:
    assert refused(name=name).startswith("name:")
    assert refused(network=name).startswith("network:")


@pytest.mark.parametrize("name", ["a", "0", "a-b", "x" * 63])
def test_what_can_be_a_host_and_network_name_is_taken(name: str) -> None:
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
def test_what_can_not_be_a_guest_s_mac_is_refused(mac: str) -> None:
    assert refused(mac=mac).startswith("mac:")


WORDS = st.none() | st.text()


@given(WORDS, WORDS, WORDS, WORDS)
def test_any_text_is_taken_or_refused_in_printable_words(
    network: str | None, bridge: str | None, name: str | None, mac: str | None
) -> None:
    request = AttachRequest(network, bridge, name, mac)
    try:
        checked = check(request)
    except InvalidRequest as error:
        assert error.oneline().isprintable()
    else:
        assert check(checked) == checked


NOTHING, DEFAULT = Target(), Target(network=DEFAULT_NETWORK)


@pytest.mark.parametrize(
    ("asked", "target"),
    [
        ({}, DEFAULT),
        ({"network": "lan"}, Target(network="lan")),
        ({"network": "no-such"}, NOTHING),
        ({"network": "br7"}, NOTHING),
        ({"bridge": "br7"}, Target(bridge="br7")),
        ({"bridge": "lan"}, Target(network="lan")),
        ({"bridge": "br0"}, DEFAULT),  # unless there is a bridge of that name
        ({"bridge": "qemubr0"}, DEFAULT),
        ({"bridge": "no-such"}, NOTHING),
        ({"bridge": "eth0"}, NOTHING),  # no bridge
        ({"bridge": "office"}, NOTHING),  # an alternative name
        ({"bridge": "tapbr1"}, NOTHING),  # another user's network
    ],
)
def test_a_name_means_the_bridge_then_the_network_then_the_default_one(
    asked: dict[str, Any], target: Target
) -> None:
    networks = {name: NetworkDefinition(name) for name in (DEFAULT_NETWORK, "lan")}
    bridge = Link(7, "br7", 0, 1500, "", 0, "bridge", "", ("office",), {}, 0, 0, 0, 0)
    devices = {
        "br7": bridge,
        "office": bridge,
        "tapbr1": bridge._replace(name="tapbr1"),
        "eth0": bridge._replace(name="eth0", kind=""),
    }
    request = AttachRequest(**asked)
    found, link = resolve(request, devices.get, Config(networks=networks))
    assert found == target
    assert link == (bridge if target.bridge else None)
