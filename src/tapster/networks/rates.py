# SPDX-License-Identifier: LGPL-2.1-or-later
"""How much a NIC may send and get: what nftables and the kernel are told.

The two ways are unlike. What is for a guest waits in a queue of its tap (a
token bucket filter). What a guest sends cannot wait on this side of the tap
without a device more for each NIC, so what is too much is dropped (a limit of
nftables, which the map `egress_limits` finds by the port's name).

Bits are those of frames as they come through the tap, one of 64 KiB that is to
be cut into segments counted whole. Of a guest's own the Ethernet header does not
count, as nftables sees frames without it.
"""

from __future__ import annotations

from typing import NamedTuple

from ..kernel import qdisc
from ..kernel.netlink import Request
from .ruleset import BRIDGE_TABLE

# A limit in bytes has room for a second of its rate in any case (nft_limit.c),
# and a frame that does not fit as a whole is dropped: on top of that there is
# room for the largest. With less, rates below 512 kbit would pass no GSO frame.
EGRESS_BURST = 64 * 1024

_HEADERS = 18  # Ethernet's, with a tag
# Enough for the timer's slack at any rate; little, for a frame above it is cut.
_BURST_SECONDS, _MAX_BURST = 0.008, 4 << 20
# Enough for TCP to keep busy, and for two GSO frames; little, for it is delay.
_QUEUE_SECONDS, _MIN_QUEUE, _MAX_QUEUE = 0.05, 128 * 1024, 16 << 20


class Bucket(NamedTuple):
    """A token bucket filter's: bytes a second, at once, and waiting."""

    rate: int
    burst: int
    limit: int


def bucket(rate: int, mtu: int) -> Bucket:
    """For a tap of that MTU, at so many bits a second."""
    each_second = rate // 8
    burst = max(int(each_second * _BURST_SECONDS), 3 * (mtu + _HEADERS))
    queue = max(int(each_second * _QUEUE_SECONDS), _MIN_QUEUE)
    return Bucket(each_second, min(burst, _MAX_BURST), min(queue, _MAX_QUEUE))


def limit_ingress(index: int, ifname: str, rate: int, mtu: int) -> Request:
    """Hold what is for a guest to so many bits a second, also if it has a rate."""
    return qdisc.set_tbf(index, ifname, **bucket(rate, mtu)._asdict())


def lift_ingress(index: int, ifname: str) -> Request:
    """Take that away again. A tap that goes takes it along."""
    return qdisc.delete_tbf(index, ifname)


def add_limit(ifname: str, rate: int) -> str:
    """The statements that hold what a port sends to so many bits a second."""
    return (
        f"add limit {BRIDGE_TABLE} {ifname}"
        f" {{ rate over {rate // 8} bytes/second burst {EGRESS_BURST} bytes; }}\n"
        f'add element {BRIDGE_TABLE} egress_limits {{ {ifname} : "{ifname}" }}\n'
    )


def delete_limit(ifname: str) -> str:
    """The statements that take that away again."""
    return (
        f"delete element {BRIDGE_TABLE} egress_limits {{ {ifname} }}\n"
        f"delete limit {BRIDGE_TABLE} {ifname}\n"
    )


def change_limit(ifname: str, old: int, new: int) -> str:
    """From one rate to the other in one transaction; 0 is none."""
    if old == new:
        return ""
    return (delete_limit(ifname) if old else "") + (
        add_limit(ifname, new) if new else ""
    )
