# SPDX-License-Identifier: LGPL-2.1-or-later
"""A Linux bridge of ours, which bears our mark: the alias says whose instance it is.

Only CAP_NET_ADMIN can set an alias. A bridge of the right name without the mark is
somebody else's, and is left alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from ipaddress import (
    IPv4Interface,
    IPv4Network,
    IPv6Interface,
    IPv6Network,
    ip_interface,
)

from ..errors import BrokerFailure
from ..kernel import rtnetlink, sysctl
from ..kernel.netlink import NetlinkError, NetlinkSocket
from ..model import BRIDGE_PREFIX
from . import addresses

_log = logging.getLogger(__name__)

ALIAS = "tapster network"  # how the mark begins


def name_of(seed: bytes, key: str) -> str:
    """The name of the bridge of the instance `key`."""
    number = int.from_bytes(addresses.digest(seed, "bridge", key)[:8], "big")
    return BRIDGE_PREFIX + addresses.base36(number, 8)


def host_addresses(
    subnet4: IPv4Network, subnet6: IPv6Network | None
) -> list[IPv4Interface | IPv6Interface]:
    """The host's own addresses on a bridge with these subnets."""
    own = [ip_interface(f"{addresses.gateway(subnet4)}/{subnet4.prefixlen}")]
    if subnet6 is not None:
        own.append(ip_interface(f"{addresses.gateway(subnet6)}/64"))
        own.append(ip_interface("fe80::1/64"))
    return own


class OwnBridge:
    """The bridge of one network instance, whether it is there or not."""

    def __init__(self, netlink: NetlinkSocket, name: str, key: str) -> None:
        """
        :param netlink: the socket of the namespace that it is in.
        :param name: of the device.
        :param key: of the instance.
        """
        self.name = name
        self.index = 0  # 0: it is not there
        self._netlink = netlink
        self._alias = f"{ALIAS} {key}"

    def make(
        self, mac: str, mtu: int, own: Iterable[IPv4Interface | IPv6Interface]
    ) -> None:
        """Make the bridge and set it up.

        :param mac: its own.
        :param mtu: in bytes.
        :param own: the host's addresses on it.
        :raises BrokerFailure: the kernel would not make it.
        :raises OSError: the kernel made it, and refused the rest.
        """
        try:
            self._netlink.transact(
                [
                    rtnetlink.add_bridge(self.name, mac, mtu),
                    rtnetlink.set_link_by_name(
                        self.name, alias=self._alias, no_ipv6_address=True
                    ),
                ]
            )
        except NetlinkError as err:
            raise BrokerFailure(f"cannot make bridge {self.name}: {err}") from err
        link = rtnetlink.get_link(self._netlink, self.name)
        if link is None:
            raise BrokerFailure(f"bridge {self.name} vanished")
        self.index = link.ifindex
        own = list(own)
        if any(address.version == 6 for address in own):
            sysctl.write(f"ipv6/conf/{self.name}/accept_ra", "0")
        # The host's own programs reach a forwarded port at 127.0.0.1, too. Guests
        # gain nothing by it: what they may send to the host is what `from_guest` in
        # ruleset.py lists, and that is by address.
        sysctl.write(f"ipv4/conf/{self.name}/route_localnet", "1")
        self._netlink.transact(
            [rtnetlink.add_address(self.index, address) for address in own]
            + [rtnetlink.set_link(self.index, self.name, up=True)]
        )

    def find(self) -> bool:
        """Look for the bridge that an earlier broker made.

        :returns: whether it is there and bears the mark.
        """
        link = rtnetlink.get_link(self._netlink, self.name)
        if link is None or link.kind != "bridge" or link.alias != self._alias:
            return False
        self.index = link.ifindex
        return True

    def subnets(self) -> list[IPv4Network | IPv6Network]:
        """The subnets of the addresses that it has, link-local ones aside."""
        return [
            net
            for index, net in rtnetlink.used_networks(self._netlink)
            if index == self.index and not net.is_link_local
        ]

    def delete(self) -> None:
        """Delete the bridge, if it is there and bears the mark."""
        link = rtnetlink.get_link(self._netlink, self.name)
        if link is not None and link.alias == self._alias:
            try:
                self._netlink.transact([rtnetlink.delete_link(link.ifindex, self.name)])
            except NetlinkError as err:
                _log.error("%s", err)
        self.index = 0
