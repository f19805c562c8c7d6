# SPDX-License-Identifier: LGPL-2.1-or-later
"""The host's own bridges, found by name in each request.

What never changes of a device, by its index, is looked up once. Its name and MTU
are asked of the kernel each time, by three ioctls: the answer to a netlink request
would be long to read.
"""

from __future__ import annotations

import errno
import socket

from ...kernel import netdevice, rtnetlink
from ...kernel.netlink import NetlinkSocket
from ...kernel.rtnetlink import Link


class Bridges:
    """Finds Linux bridges in the namespace it was made in."""

    def __init__(self, netlink: NetlinkSocket) -> None:
        self._netlink = netlink
        self._known: dict[int, Link] = {}
        self._pinned: set[int] = set()
        self._socket = socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
        )

    def close(self) -> None:
        self._socket.close()

    def index_of(self, name: str) -> int:
        """The index of a device.

        :raises OSError: there is no device of that name.
        """
        return netdevice.index_of(self._socket, name)

    def find(self, name: str) -> Link | None:
        """The device of that name, whatever its kind; None if there is none.

        Of a bridge only index, name, kind, MTU and address may be relied on.
        """
        try:
            index = netdevice.index_of(self._socket, name)
            known = self._known.get(index)
            # The kernel finds alternative names, too.
            if known is not None and netdevice.name_of(self._socket, index) == name:
                return known._replace(
                    name=name, mtu=netdevice.mtu_of(self._socket, name)
                )
        except OSError as err:
            if err.errno == errno.ENODEV:
                return None
            raise
        link = rtnetlink.get_link(self._netlink, name)
        if link is not None and link.kind == "bridge":
            if len(self._known) > 4096:
                self._known.clear()
            self._known[link.ifindex] = link
        return link

    def pin_mac(self, link: Link) -> None:
        """Set the MAC of an administrator's bridge to what it is now: a bridge whose
        MAC was never set takes over the MAC of one of its ports."""
        if link.ifindex not in self._pinned:
            self._netlink.transact(
                [rtnetlink.set_link(link.ifindex, link.name, mac=link.address)]
            )
            self._pinned.add(link.ifindex)
