# SPDX-License-Identifier: LGPL-2.1-or-later
"""Addresses and routes of the host. Numbers: linux/if_addr.h, linux/rtnetlink.h."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_network

from ..netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NetlinkSocket,
    Reply,
    Request,
    attr,
    attr_u32,
    attrs,
    number,
)

RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_IFADDR = 5, 7, 9

IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
IFA_F_NODAD = 0x02
RTA_DST, RTA_OIF = 1, 4
RTN_UNICAST, RTN_LOCAL = 1, 2
RTN_BLACKHOLE, RTN_UNREACHABLE, RTN_PROHIBIT = 6, 7, 8
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 0, 253
# Routes that say what is to become of packets to a network. (The others are
# broadcast, anycast and multicast addresses.)
_ROUTES = (RTN_UNICAST, RTN_LOCAL, RTN_BLACKHOLE, RTN_UNREACHABLE, RTN_PROHIBIT)
_FAMILIES = (socket.AF_INET, socket.AF_INET6)

_IFADDR = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst length, …, type, flags

Network = IPv4Network | IPv6Network


def add_address(index: int, address: IPv4Interface | IPv6Interface) -> Request:
    """Give a device an address, without duplicate address detection."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    raw = address.ip.packed
    scope = RT_SCOPE_LINK if address.is_link_local else RT_SCOPE_UNIVERSE
    body = attr(IFA_LOCAL, raw) + attr(IFA_ADDRESS, raw)
    if address.version == 6:
        body += attr_u32(IFA_FLAGS, IFA_F_NODAD)
    return Request(
        f"add address {address}",
        RTM_NEWADDR,
        NLM_F_CREATE | NLM_F_EXCL,
        _IFADDR.pack(family, address.network.prefixlen, 0, scope, index) + body,
    )


def used_networks(netlink: NetlinkSocket) -> Iterator[tuple[int, Network]]:
    """Find the networks that the host uses: those of all addresses of all devices, and
    of all routes of all tables. Default routes are left out.

    :returns: the index of the device (0: the route names none) and the network.
    """
    request = Request("list addresses", RTM_GETADDR, 0, _IFADDR.pack(0, 0, 0, 0, 0))
    for reply in netlink.dump(request):
        yield from _networks_of_address(reply)
    for family in _FAMILIES:
        request = Request("list routes", RTM_GETROUTE, 0, _RTMSG.pack(family, *[0] * 8))
        for reply in netlink.dump(request):
            yield from _networks_of_route(reply, family)


def _networks_of_address(reply: Reply) -> Iterator[tuple[int, Network]]:
    family, length, _, _, index = _IFADDR.unpack_from(reply.payload)
    if family not in _FAMILIES:
        return
    for kind, value in attrs(reply.payload, _IFADDR.size):
        if kind == IFA_ADDRESS:
            yield index, ip_network((bytes(value), length), strict=False)


def _networks_of_route(reply: Reply, wanted: int) -> Iterator[tuple[int, Network]]:
    family, length, _, _, _, _, _, kind, _ = _RTMSG.unpack_from(reply.payload)
    if family != wanted or kind not in _ROUTES or not length:
        return
    found = dict(attrs(reply.payload, _RTMSG.size))
    destination = found.get(RTA_DST)
    if destination is not None:
        network = ip_network((bytes(destination), length), strict=False)
        yield number(found.get(RTA_OIF)), network
