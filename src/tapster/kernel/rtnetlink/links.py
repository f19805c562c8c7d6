# SPDX-License-Identifier: LGPL-2.1-or-later
"""Network devices: requests about them, and what the kernel tells of them.

Numbers: linux/if_link.h, linux/if_arp.h.
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import NamedTuple

from ..netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NetlinkError,
    NetlinkSocket,
    Reply,
    Request,
    attr,
    attr_str,
    attr_u8,
    attr_u32,
    attrs,
    mac_bytes,
    mac_text,
    nested,
    number,
    text,
)
from .layout import IFINFO, RTM_SETLINK, header
from .ports import port_settings

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWLINKPROP = 108
RTNLGRP_LINK = 1

IFF_UP = 0x1
IFF_NOARP, IFF_PROMISC, IFF_ALLMULTI = 0x80, 0x100, 0x200
IFF_LOWER_UP = 0x10000

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_QDISC = 1, 3, 4, 6
IFLA_MASTER, IFLA_LINKINFO, IFLA_IFALIAS = 10, 18, 20
IFLA_STATS64, IFLA_AF_SPEC, IFLA_EXT_MASK = 23, 26, 29
RTEXT_FILTER_SKIP_STATS = 1 << 3
IFLA_PROP_LIST, IFLA_ALT_IFNAME = 52, 53
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 4, 5
IFLA_TUN_OWNER, IFLA_TUN_GROUP, IFLA_TUN_PERSIST = 1, 2, 6
IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE = 8, 1
IFLA_BR_STP_STATE, IFLA_BR_MCAST_SNOOPING = 5, 23

_STATS64 = struct.Struct("=4Q")  # rx packets, tx packets, rx bytes, tx bytes
_NOTHING = memoryview(b"")


class Link(NamedTuple):
    """A network device, as the kernel describes it."""

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
    qdisc: str = ""  # the kind of its queueing discipline


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
    """Change a device. What is None stays as it is.

    :param index: of the device.
    :param what: the device's name, for the error.
    :param mac: its new MAC.
    :param mtu: in bytes.
    :param name: its new name.
    :param alias: its new alias.
    :param master: the index of the bridge that it joins; 0: it leaves its bridge.
    :param no_ipv6_address: keep the kernel from giving it a link-local address
        when it comes up (addr_gen_mode none).
    :param clear: IFF_* flags to be taken from it.
    :param up: whether it is to be up.
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
        IFINFO.pack(0, 0, index, IFF_UP if up else 0, change) + body,
    )


def add_bridge(name: str, mac: str, mtu: int) -> Request:
    """Make a bridge without STP, and without multicast snooping, which would need a
    querier.

    :param name: of the bridge.
    :param mac: its MAC. A bridge that was given none would adopt a port's.
    :param mtu: in bytes.
    """
    data = attr_u32(IFLA_BR_STP_STATE, 0) + attr_u8(IFLA_BR_MCAST_SNOOPING, 0)
    return Request(
        f"create bridge {name}",
        RTM_NEWLINK,
        NLM_F_CREATE | NLM_F_EXCL,
        IFINFO.pack(0, 0, 0, 0, 0)
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
    """Change a device before its index is known, in the batch that makes it.

    :param name: of the device.
    :param alias: its new alias.
    :param no_ipv6_address: keep the kernel from giving it a link-local address.
    """
    body = attr_str(IFLA_IFNAME, name) + attr(IFLA_IFALIAS, alias.encode()[:255])
    if no_ipv6_address:
        body += _NO_IPV6_ADDRESS
    return Request(f"set {name}", RTM_SETLINK, 0, IFINFO.pack(0, 0, 0, 0, 0) + body)


def add_altname(index: int, altname: str) -> Request:
    """Give a device one more name: at most 127 bytes, unique in the namespace."""
    return Request(
        f"add alternative name {altname}",
        RTM_NEWLINKPROP,
        NLM_F_CREATE | NLM_F_EXCL,
        IFINFO.pack(0, 0, index, 0, 0)
        + nested(IFLA_PROP_LIST, attr_str(IFLA_ALT_IFNAME, altname)),
    )


def delete_link(index: int, what: str) -> Request:
    """Delete a device; `what` is its name, for the error."""
    return Request(f"delete {what}", RTM_DELLINK, 0, IFINFO.pack(0, 0, index, 0, 0))


# Queries


def get_link(
    netlink: NetlinkSocket, which: int | str, *, counters: bool = False
) -> Link | None:
    """Look a device up.

    :param netlink: the socket to ask by.
    :param which: the device's index or name.
    :param counters: whether its packets and bytes are wanted, too.
    :returns: None: there is none.
    """
    if isinstance(which, int):
        payload = IFINFO.pack(0, 0, which, 0, 0)
    else:
        payload = IFINFO.pack(0, 0, 0, 0, 0) + attr_str(IFLA_IFNAME, which)
    if not counters:
        payload += attr_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
    try:
        replies = netlink.transact(
            [Request(f"get link {which}", RTM_GETLINK, 0, payload)]
        )
    except NetlinkError as err:
        # EINVAL and ERANGE: no device could have such a name.
        if err.errno in (errno.ENODEV, errno.EINVAL, errno.ERANGE):
            return None
        raise
    return parse_link(replies[0]) if replies else None


def links(netlink: NetlinkSocket) -> list[Link]:
    """All devices of the namespace."""
    request = Request("list links", RTM_GETLINK, 0, IFINFO.pack(0, 0, 0, 0, 0))
    return [parse_link(reply) for reply in netlink.dump(request)]


# Replies


def parse_link(reply: Reply) -> Link:
    """Read RTM_NEWLINK or RTM_DELLINK; what the kernel left out is empty or 0."""
    _, _, index, flags, _ = header(IFINFO, reply)
    found = dict(attrs(reply.payload, IFINFO.size))
    info = dict(attrs(found.get(IFLA_LINKINFO, _NOTHING)))
    names = attrs(found.get(IFLA_PROP_LIST, _NOTHING))
    kind = text(info.get(IFLA_INFO_KIND))
    tun = _numbers(info.get(IFLA_INFO_DATA)) if kind == "tun" else {}
    return Link(
        index,
        text(found.get(IFLA_IFNAME)),
        flags,
        number(found.get(IFLA_MTU)),
        mac_text(found.get(IFLA_ADDRESS, _NOTHING)),
        number(found.get(IFLA_MASTER)),
        kind,
        text(found.get(IFLA_IFALIAS)),
        tuple([text(value) for each, value in names if each == IFLA_ALT_IFNAME]),
        port_settings(info.get(IFLA_INFO_SLAVE_DATA)),
        *_counters(found.get(IFLA_STATS64)),
        persist=bool(tun.get(IFLA_TUN_PERSIST)),
        owner=tun.get(IFLA_TUN_OWNER),
        group=tun.get(IFLA_TUN_GROUP),
        qdisc=text(found.get(IFLA_QDISC)),
    )


def _numbers(attributes: memoryview | None) -> dict[int, int]:
    return {kind: number(value) for kind, value in attrs(attributes or _NOTHING)}


def _counters(value: memoryview | None) -> tuple[int, int, int, int]:
    if value is None or len(value) < _STATS64.size:
        return 0, 0, 0, 0
    packets_in, packets_out, bytes_in, bytes_out = _STATS64.unpack_from(value)
    return packets_in, packets_out, bytes_in, bytes_out


def link_index(reply: Reply) -> int:
    """Read the index from RTM_NEWLINK or RTM_DELLINK, and nothing else."""
    return int(header(IFINFO, reply)[2])


def link_came_up(reply: Reply) -> bool:
    """Whether RTM_NEWLINK says that a device has just been set up."""
    _, _, _, flags, change = header(IFINFO, reply)
    return bool(flags & change & IFF_UP) and change != 0xFFFFFFFF


def link_family(reply: Reply) -> int:
    """Read the family of RTM_DELLINK. AF_BRIDGE: a port left its bridge, and the device
    is not gone."""
    return int(header(IFINFO, reply)[0])
