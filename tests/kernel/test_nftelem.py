# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.kernel.nftelem`: what the kernel makes of our bytes, as nft reads it."""

from __future__ import annotations

import errno
import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tapster.kernel import nftelem
from tapster.kernel.netlink import NetlinkError
from tapster.kernel.nft import Nft
from tapster.kernel.nftelem import NFPROTO_BRIDGE, Element, ElementSocket
from tapster.networks import elements, ruleset
from tapster.networks.elements import Guest

pytestmark = pytest.mark.own_network

GUEST = Guest(
    "tapstern000000a", 101, "n", "02:11:22:33:44:55", "10.64.1.5", "fd00:1::5"
)
ON_LAN = Guest(
    "tapsterl000000b", 102, "l", "fe:ff:ff:ff:ff:fe", "192.0.2.9", strict=True
)
WAITS = Guest("tapsterl000000c", 103, "l", None, waiting=True)


def listing() -> Any:
    """All sets and maps of the bridge table that have elements."""
    text = subprocess.run(
        ["nft", "-j", "list", "table", "bridge", "tapster"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return {
        inner["name"]: sorted(map(str, inner["elem"]))
        for entry in json.loads(text)["nftables"]
        if (inner := entry.get("set") or entry.get("map"))
        and inner.get("elem")
        and not inner["name"].startswith("__")
    }


class Sets:
    """The project's own tables, and a socket, in a namespace of their own."""

    def __enter__(self) -> ElementSocket:
        for guest in (GUEST, ON_LAN, WAITS):  # text has names, bytes have numbers
            subprocess.run(
                ["ip", "link", "add", guest.ifname, "index", str(guest.ifindex),
                 "type", "bridge"],
                check=True,
            )  # fmt: skip
        Nft().run("make tables", ruleset.tables())
        self._socket = ElementSocket()
        return self._socket

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def keys(*guests: Guest) -> Iterator[Element]:
    for guest in guests:
        yield from elements.keys(elements.of_port(guest))


def test_bytes_and_text_are_the_same_elements() -> None:
    guests = (GUEST, ON_LAN, WAITS)
    with Sets() as sets:
        sets.add("add", keys(*guests))
        by_bytes = listing()
        sets.delete("delete", keys(*guests))
        assert listing() == {}
        for guest in guests:
            Nft().run("add", elements.added(elements.of_port(guest)))
        assert listing() == by_bytes
        assert set(by_bytes) == {
            "ports", "macs", "guests", "guests6", "claimed6", "checked4", "checked6",
        }  # fmt: skip
        sets.delete("delete", keys(*guests))  # text's elements, by bytes
        assert listing() == {}


def test_adding_twice_is_no_error_and_one_element() -> None:
    with Sets() as sets:
        sets.add("add", keys(GUEST))
        before = listing()
        sets.add("add", keys(GUEST))
        assert listing() == before


def test_deleting_what_is_not_there_says_so_and_deletes_nothing() -> None:
    with Sets() as sets:
        sets.add("add", keys(GUEST))
        before = listing()
        with pytest.raises(NetlinkError) as caught:
            sets.delete("take all", keys(GUEST, WAITS))
        assert caught.value.errno == errno.ENOENT
        assert caught.value.operation == "take all"
        assert listing() == before


def test_a_key_is_changed_from_one_frame_to_the_next() -> None:
    """A port that waited is checked, in one transaction."""
    with Sets() as sets:
        before = elements.of_port(WAITS)
        after = elements.of_port(WAITS._replace(mac=GUEST.mac, waiting=False))
        sets.add("add", elements.keys(before))
        assert "waiting" in str(listing()["ports"])
        sets.change(
            "change",
            elements.keys([e for e in before if e not in after]),
            elements.keys([e for e in after if e not in before]),
        )
        assert "waiting" not in str(listing()["ports"])
        assert "lan" in str(listing()["ports"]) and "macs" in listing()
        with pytest.raises(NetlinkError):  # and back to what is not there: nothing
            sets.change("back", elements.keys(before), [])
            sets.change("back", elements.keys(before), [])


def test_all_or_none_is_added() -> None:
    with Sets() as sets:
        wrong = Element(NFPROTO_BRIDGE, "tapster", "no such set", bytes(16))
        with pytest.raises(NetlinkError) as caught:
            sets.add("add", [*keys(GUEST), wrong])
        assert caught.value.errno == errno.ENOENT
        short = Element(NFPROTO_BRIDGE, "tapster", "checked4", b"x")
        with pytest.raises(NetlinkError):
            sets.add("add", [*keys(GUEST), short])
        assert listing() == {}
        sets.add("add", keys(GUEST))  # the socket is none the worse for it
        assert "guests" in listing()


def test_without_a_table_and_without_elements() -> None:
    with ElementSocketOnly() as sets:
        with pytest.raises(NetlinkError):
            sets.add("add", keys(GUEST))
        sets.add("nothing", [])
        sets.delete("nothing", [])


class ElementSocketOnly(Sets):
    def __enter__(self) -> ElementSocket:
        self._socket = ElementSocket()
        return self._socket


@pytest.mark.parametrize("count", [1, 40])
def test_some_at_once(count: int) -> None:
    guests = [
        Guest(f"tapstern{n}", 200 + n, "n", f"02:00:00:00:00:{n:02x}", f"10.64.1.{n}")
        for n in range(count)
    ]  # fmt: skip
    with Sets() as sets:
        sets.add("add", keys(*guests))
        assert len(listing()["guests"]) == count
        sets.delete("delete", keys(*guests))
        assert listing() == {}


@pytest.mark.parametrize(
    "mac", ["", "02:11:22:33:44", "02:11:22:33:44:55:66", "x" * 17]
)
def test_what_is_no_mac_is_refused_here(mac: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        nftelem.ether_addr(mac)
