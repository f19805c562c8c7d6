# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reads from the host what a diagnosis needs, besides the rules of nftables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

from ....kernel import rtnetlink, sysctl
from ....kernel.netlink import NetlinkSocket
from .device_managers import (
    NETWORKD,
    NETWORKMANAGER,
    is_running,
    networkd_file,
    networkmanager_leaves_us,
)

_SYSCTLS = (
    *("ipv4/ip_forward", "ipv4/conf/all/rp_filter", "ipv6/conf/all/forwarding"),
    *("ipv6/conf/all/disable_ipv6", "ipv6/conf/default/disable_ipv6"),
    *("bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"),
)


class Overlap(NamedTuple):
    """A subnet of ours that the host has something else in."""

    bridge: str
    subnet: str
    other: str  # subnet and device, for people


@dataclass(frozen=True)
class HostFacts:
    """What the judging functions know of the host."""

    sysctls: Mapping[str, str] = field(default_factory=dict)  # those that exist
    uplinks: Sequence[str] = ()  # devices with a default route
    overlaps: Sequence[Overlap] = ()
    networkmanager: bool | None = None  # does it leave us alone? None: not running
    networkd: str | None = None  # the file by which it would manage our devices

    @property
    def has_ipv6(self) -> bool:
        return self.sysctls.get("ipv6/conf/all/disable_ipv6", "1") == "0"


def gather(
    netlink: NetlinkSocket, bridges: Sequence[str], root: str = "/"
) -> HostFacts:
    """Read them, in the network namespace of the calling thread.

    :param netlink: a socket in that namespace.
    :param bridges: those whose settings and subnets matter.
    :param root: what /etc, /run and /usr are below.
    """
    uplinks = sorted(set(_default_routes()))
    keys = [
        *_SYSCTLS,
        *(f"ipv4/conf/{name}/rp_filter" for name in uplinks),
        *(f"ipv4/conf/{name}/forwarding" for name in bridges),
        *(f"ipv6/conf/{name}/disable_ipv6" for name in bridges),
    ]
    found = {key: sysctl.read(key) for key in keys}
    return HostFacts(
        {key: value for key, value in found.items() if value is not None},
        uplinks,
        list(_overlaps(netlink, bridges)),
        networkmanager_leaves_us(root) if is_running(NETWORKMANAGER, root) else None,
        networkd_file(root) if is_running(NETWORKD, root) else None,
    )


def _default_routes() -> Iterator[str]:
    # /proc/net is the process's first thread's, which may be in another namespace.
    with open("/proc/thread-self/net/route", encoding="ascii") as file:
        for line in file:
            words = line.split()
            if len(words) > 7 and words[1] == words[7] == "00000000":
                yield words[0]


def _overlaps(netlink: NetlinkSocket, bridges: Sequence[str]) -> Iterator[Overlap]:
    names = {link.ifindex: link.name for link in rtnetlink.links(netlink)}
    used = sorted(
        {
            (names.get(index, "a route"), net)
            for index, net in rtnetlink.used_networks(netlink)
            if not net.is_link_local and not net.is_multicast
        },
        key=str,
    )
    for bridge in bridges:
        own = {net for device, net in used if device == bridge}
        # Without a single address's route, which lies within the subnet's.
        subnets = [net for net in own if not any(_within(net, o) for o in own - {net})]
        for device, net in used:
            for subnet in subnets if device != bridge else ():
                if _within(net, subnet) or _within(subnet, net):
                    yield Overlap(bridge, str(subnet), f"{net} ({device})")


def _within(one: IPv4Network | IPv6Network, other: IPv4Network | IPv6Network) -> bool:
    if isinstance(one, IPv4Network):
        return isinstance(other, IPv4Network) and one.subnet_of(other)
    return isinstance(other, IPv6Network) and one.subnet_of(other)
