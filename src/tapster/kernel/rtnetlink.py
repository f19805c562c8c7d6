# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is said over rtnetlink about links, bridge ports, addresses and routes.

Each function makes one request, to be sent by `NetlinkSocket.transact` alone
or in a batch, or reads one reply. Numbers: linux/if_link.h, linux/rtnetlink.h,
linux/neighbour.h, linux/if_bridge.h; see also rtnetlink(7).
"""

from __future__ import annotations

import errno
import functools
import socket
import struct
import sys
from collections.abc import Iterator
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_network
from typing import Any, NamedTuple

from .netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NetlinkError,
    NetlinkSocket,
    Reply,
    Request,
    attr,
    attr_str,
    attr_u8,
    attr_u16,
    attr_u32,
    attrs,
    nested,
)

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWLINKPROP = 108

RTNLGRP_LINK = 1
RTNLGRP_NEIGH = 3
RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_IFADDR = 5, 7, 9

AF_BRIDGE = 7
IFF_UP = 0x1
IFF_NOARP, IFF_PROMISC, IFF_ALLMULTI = 0x80, 0x100, 0x200
IFF_LOWER_UP = 0x10000

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_QDISC = 1, 3, 4, 6
IFLA_MASTER, IFLA_PROTINFO, IFLA_LINKINFO, IFLA_IFALIAS = 10, 12, 18, 20
IFLA_STATS64, IFLA_AF_SPEC, IFLA_EXT_MASK = 23, 26, 29
RTEXT_FILTER_SKIP_STATS = 1 << 3
IFLA_PROP_LIST, IFLA_ALT_IFNAME = 52, 53
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 4, 5
IFLA_TUN_OWNER, IFLA_TUN_GROUP, IFLA_TUN_PERSIST = 1, 2, 6
IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE = 8, 1

IFLA_BRPORT_GUARD, IFLA_BRPORT_PROTECT = 5, 6
IFLA_BRPORT_LEARNING, IFLA_BRPORT_UNICAST_FLOOD = 8, 9
IFLA_BRPORT_MULTICAST_ROUTER, IFLA_BRPORT_GROUP_FWD_MASK = 25, 31
IFLA_BRPORT_ISOLATED, IFLA_BRPORT_LOCKED, IFLA_BRPORT_MAB = 33, 39, 40
IFLA_BR_STP_STATE, IFLA_BR_MCAST_SNOOPING = 5, 23

NDA_DST, NDA_LLADDR, NDA_MASTER, NDA_FLAGS_EXT = 1, 2, 9, 15
NTF_SELF, NTF_MASTER, NTF_STICKY = 0x02, 0x04, 0x40
NTF_EXT_LOCKED = 1 << 1
NUD_NOARP, NUD_PERMANENT = 0x40, 0x80

IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
IFA_F_NODAD = 0x02
RTA_DST = 1
RTN_UNICAST, RTN_LOCAL = 1, 2
RTN_BLACKHOLE, RTN_UNREACHABLE, RTN_PROHIBIT = 6, 7, 8
# Routes that say what is to become of packets to a network. (The others are
# broadcast, anycast and multicast addresses.)
_ROUTES = (RTN_UNICAST, RTN_LOCAL, RTN_BLACKHOLE, RTN_UNREACHABLE, RTN_PROHIBIT)

_IFINFO = struct.Struct("=BxHiII")  # family, type, index, flags, change
_NDMSG = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type
_IFADDR = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst length, …, type, flags
_STATS64 = struct.Struct("=4Q")  # rx packets, tx packets, rx bytes, tx bytes

Network = IPv4Network | IPv6Network


class Link(NamedTuple):
    """A network device as the kernel tells it."""

    ifindex: int
    name: str
    flags: int
    mtu: int
    address: str
    master: int
    kind: str
    alias: str
    altnames: tuple[str, ...]
    port: dict[int, int]  # IFLA_BRPORT_* → value, for those of one or two bytes
    rx_packets: int
    tx_packets: int
    rx_bytes: int
    tx_bytes: int
    persist: bool = False  # of a tap: outlasts its last descriptor
    owner: int | None = None  # of a tap: the uid that may attach to it
    group: int | None = None
    qdisc: str = ""  # the kind of its queue


class Neighbour(NamedTuple):
    """A forwarding entry of a bridge, or a neighbour of another kind."""

    family: int
    ifindex: int
    master: int
    mac: str
    state: int
    flags: int
    ext_flags: int


def mac_bytes(mac: str) -> bytes:
    """Six bytes of ``aa:bb:cc:dd:ee:ff``; raises ValueError for anything else."""
    raw = bytes.fromhex(mac.replace(":", ""))
    if len(raw) != 6 or raw.hex(":") != mac.lower():
        raise ValueError(f"not a MAC address: {mac!r}")
    return raw


def mac_text(raw: bytes | memoryview) -> str:
    return bytes(raw).hex(":")


# Requests

_NO_IPV6_ADDRESS = nested(
    IFLA_AF_SPEC,
    nested(socket.AF_INET6, attr_u8(IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE)),
)


def set_link(
    index: int,
    what: str,
    *,
    mac: str | None = None,
    mtu: int | None = None,
    name: str | None = None,
    alias: str | None = None,
    master: int | None = None,
    no_ipv6_address: bool = False,
    clear: int = 0,
    up: bool | None = None,
) -> Request:
    """Change a device, in the order in which the kernel does it.

    :param master: the bridge's index; 0: none.
    :param no_ipv6_address: keep the kernel from giving it a link-local address
        when it comes up (addr_gen_mode none).
    :param clear: IFF_* flags that it is to be without.
    """
    body = b""
    if mac is not None:
        body += attr(IFLA_ADDRESS, mac_bytes(mac))
    if mtu is not None:
        body += attr_u32(IFLA_MTU, mtu)
    if name is not None:
        body += attr_str(IFLA_IFNAME, name)
    if alias is not None:
        body += attr(IFLA_IFALIAS, alias.encode()[:255])
    if master is not None:
        body += attr_u32(IFLA_MASTER, master)
    if no_ipv6_address:
        body += _NO_IPV6_ADDRESS
    change = clear | (0 if up is None else IFF_UP)
    return Request(
        f"set {what}",
        RTM_NEWLINK,
        0,
        _IFINFO.pack(0, 0, index, IFF_UP if up else 0, change) + body,
    )


def add_bridge(name: str, mac: str, mtu: int) -> Request:
    """Make a bridge that is ours: no STP, no multicast snooping (it would
    need a querier), and a MAC given explicitly, so that no port's is adopted."""
    data = attr_u32(IFLA_BR_STP_STATE, 0) + attr_u8(IFLA_BR_MCAST_SNOOPING, 0)
    return Request(
        f"create bridge {name}",
        RTM_NEWLINK,
        NLM_F_CREATE | NLM_F_EXCL,
        _IFINFO.pack(0, 0, 0, 0, 0)
        + attr_str(IFLA_IFNAME, name)
        + attr(IFLA_ADDRESS, mac_bytes(mac))
        + attr_u32(IFLA_MTU, mtu)
        + nested(
            IFLA_LINKINFO,
            attr_str(IFLA_INFO_KIND, "bridge"),
            nested(IFLA_INFO_DATA, data),
        ),
    )


def set_link_by_name(name: str, *, alias: str, no_ipv6_address: bool) -> Request:
    """Name a device's purpose before its index is known, in the batch that makes it."""
    body = attr_str(IFLA_IFNAME, name) + attr(IFLA_IFALIAS, alias.encode()[:255])
    if no_ipv6_address:
        body += _NO_IPV6_ADDRESS
    return Request(f"set {name}", RTM_SETLINK, 0, _IFINFO.pack(0, 0, 0, 0, 0) + body)


def add_altname(index: int, altname: str) -> Request:
    """Give a device one more name: at most 127 bytes, unique in the namespace."""
    return Request(
        f"add alternative name {altname}",
        RTM_NEWLINKPROP,
        NLM_F_CREATE | NLM_F_EXCL,
        _IFINFO.pack(0, 0, index, 0, 0)
        + nested(IFLA_PROP_LIST, attr_str(IFLA_ALT_IFNAME, altname)),
    )


def delete_link(index: int, what: str) -> Request:
    return Request(f"delete {what}", RTM_DELLINK, 0, _IFINFO.pack(0, 0, index, 0, 0))


def set_port(index: int, what: str, **settings: int) -> Request:
    """Change settings of a bridge port: learning, flood, locked, mab, guard,
    protect, isolated, each 0 or 1, and group_fwd_mask: which frames to
    01:80:c2:00:00:00 to 0f, by bit, are forwarded as others are, instead of being
    the host's.

    A kernel that does not know a setting ignores it: read it back with
    `get_link` before relying on it.
    """
    return Request(
        f"set bridge port {what}",
        RTM_SETLINK,
        0,
        _IFINFO.pack(AF_BRIDGE, 0, index, 0, 0) + _protinfo(tuple(settings.items())),
    )


@functools.lru_cache(64)
def _protinfo(settings: tuple[tuple[str, int], ...]) -> bytes:
    """The settings themselves. There are few kinds of ports, and many ports."""
    return nested(IFLA_PROTINFO, *(port_attribute(*each) for each in settings))


def port_attribute(name: str, value: int) -> bytes:
    """One setting of a port as the kernel takes it, and tells it."""
    pack = attr_u16 if name == "group_fwd_mask" else attr_u8
    return pack(PORT_SETTINGS[name], value)


PORT_SETTINGS = {
    "learning": IFLA_BRPORT_LEARNING,
    "flood": IFLA_BRPORT_UNICAST_FLOOD,
    "locked": IFLA_BRPORT_LOCKED,
    "mab": IFLA_BRPORT_MAB,
    "guard": IFLA_BRPORT_GUARD,
    "protect": IFLA_BRPORT_PROTECT,
    "isolated": IFLA_BRPORT_ISOLATED,
    "multicast_router": IFLA_BRPORT_MULTICAST_ROUTER,
    "group_fwd_mask": IFLA_BRPORT_GROUP_FWD_MASK,
}


def add_fdb(index: int, mac: str, *, replace: bool = False) -> Request:
    """A static and sticky forwarding entry: frames to `mac` go to this port,
    and no other port can take it over. Refused with EEXIST, unless `replace`,
    if the bridge knows that MAC already."""
    return Request(
        f"add forwarding entry {mac}",
        RTM_NEWNEIGH,
        NLM_F_CREATE | (NLM_F_REPLACE if replace else NLM_F_EXCL),
        _NDMSG.pack(AF_BRIDGE, index, NUD_NOARP, NTF_MASTER | NTF_STICKY, 0)
        + attr(NDA_LLADDR, mac_bytes(mac)),
    )


def put_fdb_back(entry: Neighbour) -> Request:
    """A forwarding entry of a port as it was before it was deleted."""
    return Request(
        f"put back forwarding entry {entry.mac}",
        RTM_NEWNEIGH,
        NLM_F_CREATE | NLM_F_REPLACE,
        _NDMSG.pack(
            AF_BRIDGE,
            entry.ifindex,
            entry.state,
            NTF_MASTER | entry.flags & NTF_STICKY,
            0,
        )
        + attr(NDA_LLADDR, mac_bytes(entry.mac)),
    )


def delete_fdb(index: int, mac: str) -> Request:
    return Request(
        f"delete forwarding entry {mac}",
        RTM_DELNEIGH,
        0,
        _NDMSG.pack(AF_BRIDGE, index, 0, NTF_MASTER, 0)
        + attr(NDA_LLADDR, mac_bytes(mac)),
    )


def add_address(index: int, address: IPv4Interface | IPv6Interface) -> Request:
    """Give a device an address, without duplicate address detection."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    raw = address.ip.packed
    scope = 253 if address.is_link_local else 0
    body = attr(IFA_LOCAL, raw) + attr(IFA_ADDRESS, raw)
    if address.version == 6:
        body += attr_u32(IFA_FLAGS, IFA_F_NODAD)
    return Request(
        f"add address {address}",
        RTM_NEWADDR,
        NLM_F_CREATE | NLM_F_EXCL,
        _IFADDR.pack(family, address.network.prefixlen, 0, scope, index) + body,
    )


# Queries


def get_fdb(netlink: NetlinkSocket, bridge: int, mac: str) -> Neighbour | None:
    """The bridge's forwarding entry for a MAC; None if it has none."""
    payload = _NDMSG.pack(AF_BRIDGE, 0, 0, 0, 0)
    payload += attr(NDA_LLADDR, mac_bytes(mac)) + attr_u32(NDA_MASTER, bridge)
    request = Request(f"get forwarding entry {mac}", RTM_GETNEIGH, 0, payload)
    try:
        replies = netlink.transact([request])
    except NetlinkError as err:
        if err.errno == errno.ENOENT:
            return None
        raise
    return parse_neighbour(replies[0]) if replies else None


def get_link(
    netlink: NetlinkSocket, which: int | str, *, counters: bool = False
) -> Link | None:
    """The device of that index or name; None if there is none.

    :param counters: whether its packets and bytes are wanted, too.
    """
    if isinstance(which, int):
        payload = _IFINFO.pack(0, 0, which, 0, 0)
    else:
        payload = _IFINFO.pack(0, 0, 0, 0, 0) + attr_str(IFLA_IFNAME, which)
    if not counters:
        payload += attr_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
    try:
        replies = netlink.transact(
            [Request(f"get link {which}", RTM_GETLINK, 0, payload)]
        )
    except NetlinkError as err:
        # The last two: no device could have such a name.
        if err.errno in (errno.ENODEV, errno.EINVAL, errno.ERANGE):
            return None
        raise
    return parse_link(replies[0]) if replies else None


def links(netlink: NetlinkSocket) -> list[Link]:
    """All devices of the namespace."""
    request = Request("list links", RTM_GETLINK, 0, _IFINFO.pack(0, 0, 0, 0, 0))
    return [parse_link(reply) for reply in netlink.dump(request)]


def fdb_entries(netlink: NetlinkSocket, bridge: int) -> list[Neighbour]:
    """The forwarding table of the bridge with index `bridge`."""
    payload = _NDMSG.pack(AF_BRIDGE, 0, 0, 0, 0) + attr_u32(NDA_MASTER, bridge)
    request = Request("list forwarding entries", RTM_GETNEIGH, 0, payload)
    return [parse_neighbour(reply) for reply in netlink.dump(request)]


def used_networks(netlink: NetlinkSocket) -> Iterator[tuple[int, Network]]:
    """(device index, network) of every address, and (0, network) of every
    route of every table, the default routes left out."""
    request = Request("list addresses", RTM_GETADDR, 0, _IFADDR.pack(0, 0, 0, 0, 0))
    for reply in netlink.dump(request):
        family, length, _, _, index = _IFADDR.unpack_from(reply.payload)
        if family not in (socket.AF_INET, socket.AF_INET6):
            continue
        for kind, value in attrs(reply.payload, _IFADDR.size):
            if kind == IFA_ADDRESS:
                yield index, ip_network((bytes(value), length), strict=False)
    for wanted in (socket.AF_INET, socket.AF_INET6):
        request = Request("list routes", RTM_GETROUTE, 0, _RTMSG.pack(wanted, *[0] * 8))
        for reply in netlink.dump(request):
            family, length, _, _, _, _, _, kind_of_route, _ = _RTMSG.unpack_from(
                reply.payload
            )
            if family != wanted or kind_of_route not in _ROUTES or not length:
                continue
            index = 0
            destination = None
            for kind, value in attrs(reply.payload, _RTMSG.size):
                if kind == RTA_DST:
                    destination = bytes(value)
                elif kind == 4:  # RTA_OIF
                    index = struct.unpack("=I", value)[0]
            if destination is not None:
                yield index, ip_network((destination, length), strict=False)


# Replies


def _text(value: memoryview) -> str:
    return bytes(value).rstrip(b"\0").decode(errors="replace")


def _number(value: memoryview) -> int:
    return int.from_bytes(value, sys.byteorder)


def _header(layout: struct.Struct, reply: Reply) -> tuple[Any, ...]:
    """The fixed part of a reply; zeros if it is too short to have one."""
    if len(reply.payload) < layout.size:
        return layout.unpack(bytes(layout.size))
    return layout.unpack_from(reply.payload)


def parse_link(reply: Reply) -> Link:
    """Read RTM_NEWLINK or RTM_DELLINK; what the kernel left out is empty or 0."""
    _, _, index, flags, _ = _header(_IFINFO, reply)
    name = address = kind = alias = qdisc = ""
    mtu = master = 0
    altnames: list[str] = []
    port: dict[int, int] = {}
    data = memoryview(b"")
    stats = (0, 0, 0, 0)
    for number, value in attrs(reply.payload, _IFINFO.size):
        if number == IFLA_IFNAME:
            name = _text(value)
        elif number == IFLA_ADDRESS:
            address = mac_text(value)
        elif number == IFLA_MTU:
            mtu = _number(value)
        elif number == IFLA_MASTER:
            master = _number(value)
        elif number == IFLA_IFALIAS:
            alias = _text(value)
        elif number == IFLA_QDISC:
            qdisc = _text(value)
        elif number == IFLA_STATS64 and len(value) >= _STATS64.size:
            stats = _STATS64.unpack_from(value)
        elif number == IFLA_PROP_LIST:
            altnames += [_text(v) for k, v in attrs(value) if k == IFLA_ALT_IFNAME]
        elif number == IFLA_LINKINFO:
            for info, inner in attrs(value):
                if info == IFLA_INFO_KIND:
                    kind = _text(inner)
                elif info == IFLA_INFO_DATA:
                    data = inner
                elif info == IFLA_INFO_SLAVE_DATA:
                    port = _settings(inner)
    tun = {k: _number(v) for k, v in attrs(data)} if kind == "tun" else {}
    return Link(
        index, name, flags, mtu, address, master, kind, alias, tuple(altnames), port,
        stats[0], stats[1], stats[2], stats[3], bool(tun.get(IFLA_TUN_PERSIST)),
        tun.get(IFLA_TUN_OWNER), tun.get(IFLA_TUN_GROUP), qdisc,
    )  # fmt: skip


def _settings(attributes: memoryview) -> dict[int, int]:
    return {k: _number(v) for k, v in attrs(attributes) if len(v) in (1, 2)}


def parse_port(reply: Reply) -> dict[int, int]:
    """The settings of a port, as `Link.port`, from RTM_NEWLINK in AF_BRIDGE."""
    for number, value in attrs(reply.payload, _IFINFO.size):
        if number == IFLA_PROTINFO:
            return _settings(value)
    return {}


def link_index(reply: Reply) -> int:
    """Only the index of RTM_NEWLINK or RTM_DELLINK: what the watch needs first."""
    return int(_header(_IFINFO, reply)[2])


def link_came_up(reply: Reply) -> bool:
    """Whether RTM_NEWLINK tells that a device was set up just now."""
    _, _, _, flags, change = _header(_IFINFO, reply)
    return bool(flags & change & IFF_UP) and change != 0xFFFFFFFF


def link_family(reply: Reply) -> int:
    """AF_BRIDGE says that a port left its bridge, not that the device is gone."""
    return int(_header(_IFINFO, reply)[0])


def parse_neighbour(reply: Reply) -> Neighbour:
    """Read RTM_NEWNEIGH or RTM_DELNEIGH."""
    family, index, state, flags, _ = _header(_NDMSG, reply)
    mac = ""
    master = ext = 0
    for number, value in attrs(reply.payload, _NDMSG.size):
        if number == NDA_LLADDR:
            mac = mac_text(value)
        elif number == NDA_MASTER:
            master = _number(value)
        elif number == NDA_FLAGS_EXT:
            ext = _number(value)
    return Neighbour(family, index, master, mac, state, flags, ext)
