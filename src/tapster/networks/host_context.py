# SPDX-License-Identifier: LGPL-2.1-or-later
"""What all network instances of one broker share: sockets, stores, directories."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from ..kernel.netlink import NetlinkSocket
from ..kernel.nft import Nft
from ..kernel.nftelem import ElementSocket
from .dnsmasq_launch import Launcher
from .ip_forwarding import IpForwarding
from .state_store import StateStore


@dataclass(slots=True)
class HostContext:
    """The host's kernel interfaces and the broker's directories.

    The composition root makes it and closes the sockets. `routing` is the only
    field that changes afterwards.
    """

    netlink: NetlinkSocket
    nft: Nft
    sets: ElementSocket
    store: StateStore
    ip_forwarding: IpForwarding
    launcher: Launcher
    directory: str  # <runtime>/networks, a directory in it for each instance
    upstream: tuple[str, ...]  # DNS servers; empty: those of /etc/resolv.conf
    avoid: tuple[IPv4Network | IPv6Network, ...]  # routes of a host we can't see
    rootless: bool = False
    routing: bool = False  # whether nftables has the inet table
