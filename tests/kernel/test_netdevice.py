# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.kernel.netdevice`, held against `ip`."""

from __future__ import annotations

import errno
import json
import socket
import subprocess

import pytest

from tapster.kernel import netdevice

pytestmark = pytest.mark.own_network


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def test_what_is_known_of_a_device() -> None:
    ip("link", "add", "br-a", "mtu", "1400", "type", "bridge")
    ip("link", "property", "add", "dev", "br-a", "altname", "another-name-of-br-a")
    shown = subprocess.run(
        ["ip", "-j", "link", "show", "br-a"], capture_output=True, check=True
    ).stdout
    (link,) = json.loads(shown)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        assert netdevice.index_of(sock, "br-a") == link["ifindex"]
        assert netdevice.mtu_of(sock, "br-a") == link["mtu"] == 1400
        assert netdevice.name_of(sock, link["ifindex"]) == "br-a"


def test_what_is_not_there_is_an_error() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        for ask in (netdevice.index_of, netdevice.mtu_of):
            with pytest.raises(OSError) as caught:
                ask(sock, "gone")
            assert caught.value.errno == errno.ENODEV
        with pytest.raises(OSError):
            netdevice.name_of(sock, 4711)
