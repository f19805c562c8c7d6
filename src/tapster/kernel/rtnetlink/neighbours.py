# SPDX-License-Identifier: LGPL-2.1-or-later
"""Forwarding entries of bridges, which rtnetlink calls neighbours.

Numbers: linux/neighbour.h.
"""

from __future__ import annotations

import errno
import struct
from typing import NamedTuple

from ..netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NetlinkError,
    NetlinkSocket,
    Reply,
    Request,
    attr,
    attr_u32,
    attrs,
    mac_bytes,
    mac_text,
    number,
)
from .layout import AF_BRIDGE, header

RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTNLGRP_NEIGH = 3

NDA_DST, NDA_LLADDR, NDA_MASTER, NDA_FLAGS_EXT = 1, 2, 9, 15
NTF_SELF, NTF_MASTER, NTF_STICKY = 0x02, 0x04, 0x40
NTF_EXT_LOCKED = 1 << 1
NUD_NOARP, NUD_PERMANENT = 0x40, 0x80

_NDMSG = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type


class Neighbour(NamedTuple):
    """A forwarding entry of a bridge, or a neighbour of another kind."""

    family: int
    ifindex: int
    master: int
    mac: str
    state: int
    flags: int
    ext_flags: int


def add_fdb(index: int, mac: str, *, replace: bool = False) -> Request:
    """Add a static and sticky forwarding entry: frames to a MAC go to a port, and no
    other port can take the MAC over.

    :param index: of the port's device.
    :param mac: the MAC.
    :param replace: whether an entry that the bridge has for the MAC is replaced.
        Otherwise the kernel refuses with EEXIST if there is one.
    """
    return Request(
        f"add forwarding entry {mac}",
        RTM_NEWNEIGH,
        NLM_F_CREATE | (NLM_F_REPLACE if replace else NLM_F_EXCL),
        _NDMSG.pack(AF_BRIDGE, index, NUD_NOARP, NTF_MASTER | NTF_STICKY, 0)
        + attr(NDA_LLADDR, mac_bytes(mac)),
    )


def put_fdb_back(entry: Neighbour) -> Request:
    """Add a forwarding entry as it was before it was deleted."""
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
    """Delete a port's forwarding entry for a MAC."""
    return Request(
        f"delete forwarding entry {mac}",
        RTM_DELNEIGH,
        0,
        _NDMSG.pack(AF_BRIDGE, index, 0, NTF_MASTER, 0)
        + attr(NDA_LLADDR, mac_bytes(mac)),
    )


def get_fdb(netlink: NetlinkSocket, bridge: int, mac: str) -> Neighbour | None:
    """Look up a bridge's forwarding entry for a MAC.

    :param netlink: the socket to ask by.
    :param bridge: the bridge's index.
    :param mac: the MAC.
    :returns: None: there is none.
    """
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


def fdb_entries(netlink: NetlinkSocket, bridge: int) -> list[Neighbour]:
    """The forwarding table of the bridge with index `bridge`."""
    payload = _NDMSG.pack(AF_BRIDGE, 0, 0, 0, 0) + attr_u32(NDA_MASTER, bridge)
    request = Request("list forwarding entries", RTM_GETNEIGH, 0, payload)
    return [parse_neighbour(reply) for reply in netlink.dump(request)]


def parse_neighbour(reply: Reply) -> Neighbour:
    """Read RTM_NEWNEIGH or RTM_DELNEIGH."""
    family, index, state, flags, _ = header(_NDMSG, reply)
    found = dict(attrs(reply.payload, _NDMSG.size))
    return Neighbour(
        family,
        index,
        number(found.get(NDA_MASTER)),
        mac_text(found.get(NDA_LLADDR, b"")),
        state,
        flags,
        number(found.get(NDA_FLAGS_EXT)),
    )
