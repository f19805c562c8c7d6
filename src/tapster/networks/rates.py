# SPDX-License-Identifier: LGPL-2.1-or-later
"""How much a NIC may send and receive: what nftables and the kernel are told.

The two directions differ. What is for a guest (ingress) waits in a queue of its tap, a
token bucket filter. What a guest sends (egress) could wait on this side of the tap only
with one more device for each NIC. So what exceeds the rate is dropped, by a limit of
nftables that the map `egress_limits` finds by the port's name.

What counts are the bits of frames as they come through the tap: a frame of 64 KiB that
will be cut into segments counts whole. Of what a guest sends, the Ethernet header does
not count: nftables sees frames without it.
"""

from __future__ import annotations

from typing import NamedTuple

from ..kernel import qdisc
from ..kernel.netlink import Request
from .ruleset import BRIDGE_TABLE

# Bytes. A limit has room for one second of its rate in any case (nft_limit.c), and a
# frame that does not fit whole is dropped. This room on top is for the largest frame:
# with less, no GSO frame would pass a rate below 512 kbit.
EGRESS_BURST = 64 * 1024

_HEADERS = 18  # Ethernet's, with a tag
# Much enough for the timer's slack at any rate. No more, as a larger frame is cut.
_BURST_SECONDS, _MAX_BURST = 0.008, 4 << 20
# Much enough to keep TCP busy, and for two GSO frames. No more, as it is delay.
_QUEUE_SECONDS, _MIN_QUEUE, _MAX_QUEUE = 0.05, 128 * 1024, 16 << 20


class Bucket(NamedTuple):
    """What a token bucket filter is set to."""

    rate: int  # bytes a second
    burst: int  # bytes at once
    limit: int  # bytes that wait


def bucket(rate: int, mtu: int) -> Bucket:
    """The settings for a tap.

    :param rate: bits a second.
    :param mtu: of the tap, in bytes.
    """
    each_second = rate // 8
    burst = max(int(each_second * _BURST_SECONDS), 3 * (mtu + _HEADERS))
    queue = max(int(each_second * _QUEUE_SECONDS), _MIN_QUEUE)
    return Bucket(each_second, min(burst, _MAX_BURST), min(queue, _MAX_QUEUE))


def limit_ingress(index: int, ifname: str, rate: int, mtu: int) -> Request:
    """Hold what is for a guest to a rate, whether it has one already or not.

    :param index: of the tap.
    :param ifname: of the tap.
    :param rate: bits a second.
    :param mtu: of the tap, in bytes.
    """
    return qdisc.set_tbf(index, ifname, **bucket(rate, mtu)._asdict())


def lift_ingress(index: int, ifname: str) -> Request:
    """Lift the rate of what is for a guest. It ends with its tap by itself."""
    return qdisc.delete_tbf(index, ifname)


def add_limit(ifname: str, rate: int) -> str:
    """The statements that hold what a port sends to `rate` bits a second."""
    return (
        f"add limit {BRIDGE_TABLE} {ifname}"
        f" {{ rate over {rate // 8} bytes/second burst {EGRESS_BURST} bytes; }}\n"
        f'add element {BRIDGE_TABLE} egress_limits {{ {ifname} : "{ifname}" }}\n'
    )


def delete_limit(ifname: str) -> str:
    """The statements that lift the rate of what a port sends."""
    return (
        f"delete element {BRIDGE_TABLE} egress_limits {{ {ifname} }}\n"
        f"delete limit {BRIDGE_TABLE} {ifname}\n"
    )


def change_limit(ifname: str, old: int, new: int) -> str:
    """The statements that change the rate of what a port sends.

    :param ifname: of the port.
    :param old: bits a second; 0: it has no rate.
    :param new: bits a second; 0: it is to have none.
    """
    if old == new:
        return ""
    return (delete_limit(ifname) if old else "") + (
        add_limit(ifname, new) if new else ""
    )
