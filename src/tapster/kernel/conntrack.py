# SPDX-License-Identifier: LGPL-2.1-or-later
"""Connection tracking remembers flows; here it is made to forget some.

The first packet of a flow decides where the flow goes. Rules that change afterwards
mean nothing to a flow that is remembered, and a flow of UDP is remembered for as long
as its client goes on sending. Formats: linux/netfilter/nfnetlink_conntrack.h,
linux/netfilter/nfnetlink.h.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable
from typing import NamedTuple

from .netlink import (
    NETLINK_NETFILTER,
    NetlinkError,
    NetlinkSocket,
    Request,
    attr,
    attr_u8,
    attr_u32,
    attrs,
    nested,
)

_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_*
_TUPLE_ORIG, _ID, _FILTER = 1, 12, 25  # CTA_*
_FILTER_ORIG_FLAGS = 1
_BY_PROTOCOL, _BY_PORT = 1 << 3, 1 << 5  # CTA_FILTER_F_CTA_PROTO_*, since Linux 5.8
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_DESTINATION: dict[int, int] = {socket.AF_INET: 2, socket.AF_INET6: 4}  # CTA_IP_V*_DST
_PROTO_NUM, _PROTO_DST_PORT = 1, 3
_NFGEN = struct.Struct("=BBH")  # family, version, resource


class Flow(NamedTuple):
    """One flow, by the destination of its first packet."""

    family: int  # socket.AF_INET or AF_INET6
    protocol: int  # socket.IPPROTO_*
    address: str
    port: int
    key: bytes  # by which the kernel finds it


class ConntrackSocket:
    """A socket for the network namespace that it was made in.

    `close()` closes its descriptor.
    """

    def __init__(self) -> None:
        self._netlink = NetlinkSocket(NETLINK_NETFILTER)

    def close(self) -> None:
        self._netlink.close()

    def __enter__(self) -> ConntrackSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def flows(self, family: int, protocol: int, port: int) -> list[Flow]:
        """List the flows to a port, of this host or another.

        The kernel leaves the others out: it may remember hundreds of thousands.

        :param family: AF_INET or AF_INET6.
        :param protocol: IPPROTO_TCP or IPPROTO_UDP.
        :param port: of the destination.
        :raises NetlinkError: the kernel tracks nothing, or refused.
        """
        wanted = nested(
            _TUPLE_PROTO,
            attr_u8(_PROTO_NUM, protocol),
            attr(_PROTO_DST_PORT, port.to_bytes(2, "big")),
        )
        payload = (
            _NFGEN.pack(family, 0, 0)
            + nested(_TUPLE_ORIG, wanted)
            + nested(_FILTER, attr_u32(_FILTER_ORIG_FLAGS, _BY_PROTOCOL | _BY_PORT))
        )
        replies = self._netlink.dump(Request("list flows", _GET, 0, payload))
        found = (_flow(family, reply.payload) for reply in replies)
        return [f for f in found if f and (f.protocol, f.port) == (protocol, port)]

    def forget(self, protocol: int, port: int, is_meant: Callable[[Flow], bool]) -> int:
        """Forget flows to a port; their next packets are decided anew.

        :param protocol: IPPROTO_TCP or IPPROTO_UDP.
        :param port: of the destination.
        :param is_meant: says of each flow to the port whether it is forgotten.
        :returns: how many were.
        :raises NetlinkError: the kernel refused.
        """
        count = 0
        for family in _DESTINATION:
            for flow in self.flows(family, protocol, port):
                if is_meant(flow):
                    payload = _NFGEN.pack(family, 0, 0) + flow.key
                    try:
                        self._netlink.transact(
                            [Request("forget a flow", _DELETE, 0, payload)]
                        )
                    except NetlinkError as err:
                        if err.errno != errno.ENOENT:  # it ended by itself
                            raise
                    count += 1
        return count


def _flow(family: int, payload: memoryview) -> Flow | None:
    found = dict(attrs(payload, _NFGEN.size))
    ends = dict(attrs(found.get(_TUPLE_ORIG, b"")))
    address = dict(attrs(ends.get(_TUPLE_IP, b""))).get(_DESTINATION[family])
    proto = dict(attrs(ends.get(_TUPLE_PROTO, b"")))
    if address is None or _PROTO_DST_PORT not in proto or not proto.get(_PROTO_NUM):
        return None
    if len(address) != (4 if family == socket.AF_INET else 16):
        return None
    key = nested(_TUPLE_ORIG, bytes(found[_TUPLE_ORIG]))
    if _ID in found:
        key += attr(_ID, bytes(found[_ID]))
    return Flow(
        family,
        proto[_PROTO_NUM][0],
        socket.inet_ntop(family, address),
        int.from_bytes(proto[_PROTO_DST_PORT], "big"),
        key,
    )
