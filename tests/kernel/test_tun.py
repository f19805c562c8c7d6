# SPDX-License-Identifier: LGPL-2.1-or-later
"""Taps: their names, their flags, and never somebody else's."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys

import pytest

from tapster.kernel import tun

pytestmark = pytest.mark.own_network


def shown(name: str) -> dict[str, object] | None:
    """What ip(8) says of a device."""
    done = subprocess.run(
        ["ip", "-j", "-d", "link", "show", "dev", name], capture_output=True, text=True
    )
    return json.loads(done.stdout)[0] if done.returncode == 0 else None


def names() -> list[str]:
    output = subprocess.run(["ip", "-j", "link"], capture_output=True, check=True)
    return sorted(entry["ifname"] for entry in json.loads(output.stdout))


def test_created_tap_lives_as_long_as_its_descriptor() -> None:
    fd = tun.create("tap-a", vnet_hdr=False)
    device = shown("tap-a")
    assert device is not None
    assert device["linkinfo"]["info_data"]["type"] == "tap"  # type: ignore[index]
    assert device["operstate"] == "DOWN"
    assert not os.get_inheritable(fd)
    os.close(fd)
    assert shown("tap-a") is None


@pytest.mark.parametrize("asked", [False, True])
def test_vnet_header_is_there_when_asked_for(asked: bool) -> None:
    fd = tun.create("tap-a", vnet_hdr=asked)
    try:
        device = shown("tap-a")
        assert device is not None
        data = device["linkinfo"]["info_data"]  # type: ignore[index]
        assert bool(data["vnet_hdr"]) is asked
        assert data["pi"] is False
        assert not data["multi_queue"] and not data["persist"]
        name, flags = tun.name_and_flags(fd)
        assert name == "tap-a"
        assert bool(flags & tun.IFF_VNET_HDR) is asked
    finally:
        os.close(fd)


@pytest.mark.parametrize("kind", ["veth", "bridge", "tap", "persistent tap"])
def test_existing_device_is_never_adopted(kind: str) -> None:
    held = -1
    if kind == "tap":
        held = tun.create("dev-a", vnet_hdr=False)
    elif kind == "persistent tap":
        command = ["ip", "tuntap", "add", "dev", "dev-a", "mode", "tap"]
        subprocess.run(command, check=True)
    else:
        subprocess.run(["ip", "link", "add", "dev-a", "type", kind], check=True)
    before = shown("dev-a")
    with pytest.raises(tun.TapError) as raised:
        tun.create("dev-a", vnet_hdr=False)
    assert raised.value.errno in (errno.EBUSY, errno.EINVAL)
    assert str(raised.value).startswith("TUNSETIFF dev-a: ")
    assert shown("dev-a") == before
    if held >= 0:
        os.close(held)


def test_alternative_name_of_another_device_is_refused() -> None:
    subprocess.run(["ip", "link", "add", "dev-a", "type", "bridge"], check=True)
    command = ["ip", "link", "property", "add", "dev", "dev-a", "altname", "tap-a"]
    subprocess.run(command, check=True)
    with pytest.raises(tun.TapError):
        tun.create("tap-a", vnet_hdr=False)
    assert names() == ["dev-a", "lo"]


@pytest.mark.parametrize("name", ["a", "fifteen-bytes-x", "üüüüüüü", "-", "tap.1"])
def test_names_of_1_to_15_bytes_are_taken_as_they_are(name: str) -> None:
    assert 1 <= len(name.encode()) <= 15
    fd = tun.create(name, vnet_hdr=False)
    assert names() == sorted(["lo", name])
    assert tun.name_and_flags(fd)[0] == name
    os.close(fd)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "sixteen-bytes-xx",
        "üüüüüüüü",
        "x" * 300,
        ".",
        "..",
        "a/b",
        "a:b",
        "tap%d",
        "tap%",
        "a\0b",
        "\0",
        "a b",
        "a\tb",
        "a\nb",
        "\udc80",
    ],
)
def test_other_names_are_refused_before_the_kernel_sees_them(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(tun, "TUN_DEVICE", "/nonexistent/net/tun")
    with pytest.raises(ValueError, match="not a device name"):
        opened.append(str(tun.create(name, vnet_hdr=False)))
    assert names() == ["lo"]


def test_rule_for_names_is_the_kernels() -> None:
    """Each byte inside a name: what we take, the kernel takes as it stands, and
    what the kernel would not take, or not as it stands, we refuse."""
    for number in [*range(0x31), 0x3A, 0x7F, 0x80, 0x85, 0xA0, 0xFF]:
        name = b"a" + bytes((number,)) + b"b"
        fd = tun.open_device()
        try:
            flags = tun.IFF_TAP | tun.IFF_NO_PI
            request = name.ljust(16, b"\0") + flags.to_bytes(2, sys.byteorder)
            try:
                reply = fcntl.ioctl(fd, tun.TUNSETIFF, request.ljust(40, b"\0"))
                taken = reply[:16].partition(b"\0")[0] == name
            except OSError as error:
                assert error.errno == errno.EINVAL
                taken = False
            # A '%' is the kernel's own pattern, which create() refuses on top.
            assert tun.is_valid_name(name) is taken or name == b"a%b", name
        finally:
            os.close(fd)


def test_failing_device_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tun, "TUN_DEVICE", "/nonexistent/tun")
    with pytest.raises(tun.TapError) as raised:
        tun.create("tap-a", vnet_hdr=False)
    assert str(raised.value) == "open /nonexistent/tun: No such file or directory"


def test_descriptor_that_is_no_tap_is_said_to_be_none() -> None:
    with open("/dev/null") as null, pytest.raises(tun.TapError, match="TUNGETIFF"):
        tun.name_and_flags(null.fileno())
