# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guests of one network instance, as its dnsmasq is told of them.

Each guest has two files, named after its tap: one with its DHCP reservation, one
with its names. dnsmasq watches their directories, so that a new guest needs no
signal and no restart.
"""

from __future__ import annotations

import os
import secrets
import socket
import struct
from collections.abc import Collection
from ipaddress import IPv4Address
from typing import NamedTuple

from . import state_files

DHCP, HOSTS = "dhcp", "hosts"  # the directories


class HeldLease(NamedTuple):
    """An address that dnsmasq has given to a MAC."""

    mac: str
    ipv4: str


def reservation(mac: str, ipv4: str, ipv6: str | None, name: str) -> str:
    """A guest's line in the DHCP directory (dnsmasq(8), --dhcp-host).

    :param mac: of the guest.
    :param ipv4: its address.
    :param ipv6: its other address; None: it gets none.
    :param name: its name, without a domain.
    """
    address6 = f",[{ipv6}]" if ipv6 else ""
    return f"{mac},{ipv4}{address6},{name}\n"


def names(ipv4: str, ipv6: str | None, name: str, domain: str) -> str:
    """A guest's lines in the hosts directory.

    :param ipv4: the guest's address.
    :param ipv6: its other address; None: it has none.
    :param name: its name, without a domain.
    :param domain: of the network.
    """
    text = f"{ipv4} {name}.{domain} {name}\n"
    if ipv6:
        text += f"{ipv6} {name}.{domain} {name}\n"
    return text


class GuestFiles:
    """The files of all guests of one instance."""

    def __init__(self, directory: str, domain: str) -> None:
        """
        :param directory: the instance's.
        :param domain: that guests' names are in.
        """
        self._directory = directory
        self._domain = domain

    def _path(self, kind: str, ifname: str) -> str:
        return f"{self._directory}/{kind}/{ifname}"

    def write(
        self, ifname: str, mac: str, ipv4: str, ipv6: str | None, name: str
    ) -> None:
        """Write a guest's files.

        :param ifname: its tap's name.
        :param mac: its MAC.
        :param ipv4: its address.
        :param ipv6: its other address; None: it has none.
        :param name: its name, without a domain.
        :raises OSError: they can't be written.
        """
        text = reservation(mac, ipv4, ipv6, name)
        state_files.write(self._path(DHCP, ifname), text)
        text = names(ipv4, ipv6, name, self._domain)
        state_files.write(self._path(HOSTS, ifname), text)

    def remove(self, ifname: str) -> None:
        """Remove the files of the guest with that tap, if there are any."""
        for kind in (DHCP, HOSTS):
            state_files.remove(self._path(kind, ifname))

    def keep_only(self, ifnames: Collection[str]) -> list[HeldLease]:
        """Remove the files of all guests but those with these taps.

        :returns: what the others had, to be given back.
        """
        gone: list[HeldLease] = []
        for kind in (DHCP, HOSTS):
            found = os.listdir(f"{self._directory}/{kind}")
            for ifname in set(found) - set(ifnames):
                path = self._path(kind, ifname)
                if kind == DHCP:
                    gone += _reserved(path)
                state_files.discard(path)
        return gone


def _reserved(path: str) -> list[HeldLease]:
    """What a reservation is about; nothing if the file is damaged."""
    try:
        mac, ipv4, *_ = state_files.read(path, 1024).split(",")
        mac = bytes.fromhex(mac.replace(":", "")).hex(":")
        return [HeldLease(mac, str(IPv4Address(ipv4)))]
    except (OSError, ValueError):
        return []


def give_back(bridge: str, server: str, lease: HeldLease) -> None:
    """Give back the lease of a guest that is gone, in the guest's name: DHCPRELEASE,
    RFC 2131 section 4.4.6. Otherwise its name and address would stay taken until
    the lease ran out.

    :param bridge: whose dnsmasq gave the lease.
    :param server: dnsmasq's address there.
    :param lease: the lease.
    :raises OSError: the message could not be sent.
    """
    op_request, ethernet, length = 1, 1, 6
    packet = struct.pack(
        "!4BIHH4s4s4s4s16s64s128sI",
        op_request,
        ethernet,
        length,
        0,
        secrets.randbits(32),
        0,
        0,
        IPv4Address(lease.ipv4).packed,
        bytes(4),
        bytes(4),
        bytes(4),
        bytes.fromhex(lease.mac.replace(":", "")),
        b"",
        b"",
        0x63825363,  # the magic cookie of RFC 2131
    )
    packet += b"\x35\x01\x07" + b"\x36\x04" + IPv4Address(server).packed + b"\xff"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        # dnsmasq listens on that bridge alone, to what the host itself sends, too.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, bridge.encode())
        sock.sendto(packet, socket.MSG_DONTWAIT, (server, 67))
