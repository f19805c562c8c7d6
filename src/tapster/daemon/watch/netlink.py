# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hears from the kernel what becomes of our devices, and passes it on."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable

from ...kernel import rtnetlink
from ...kernel.netlink import NetlinkMonitor, Reply
from ..broker import Broker
from .first_mac import FirstMac
from .guard import Guard

_log = logging.getLogger(__name__)

# What says that the host has other addresses or routes than before.
_OF_HOST = (
    rtnetlink.RTM_NEWADDR,
    rtnetlink.RTM_DELADDR,
    rtnetlink.RTM_NEWROUTE,
    rtnetlink.RTM_DELROUTE,
)
_BURST = 64  # datagrams read before others get their turn


class Watch:
    """One netlink monitor on the running event loop."""

    def __init__(self) -> None:
        """Listens from now on; what comes before `start` waits in the socket."""
        self._monitor = NetlinkMonitor(
            # IPv6 routes are not listened to: each tap that comes up has one.
            [
                rtnetlink.RTNLGRP_LINK,
                rtnetlink.RTNLGRP_NEIGH,
                rtnetlink.RTNLGRP_IPV4_IFADDR,
                rtnetlink.RTNLGRP_IPV4_ROUTE,
                rtnetlink.RTNLGRP_IPV6_IFADDR,
            ],
            [
                *(
                    rtnetlink.RTM_DELLINK,
                    rtnetlink.RTM_NEWNEIGH,
                    rtnetlink.RTM_DELNEIGH,
                ),
                *_OF_HOST,
            ],
            live_links=True,
        )
        self._lost = False
        self._handle: Callable[[Reply], None] = lambda _: None
        self._resynchronise: Callable[[], None] = lambda: None

    def start(self, broker: Broker, first_mac: FirstMac, guard: Guard) -> None:
        def handle(reply: Reply) -> None:
            if reply.type == rtnetlink.RTM_NEWLINK:
                guard.link(reply)
            elif reply.type == rtnetlink.RTM_DELLINK:
                # A port that leaves its bridge is told in family AF_BRIDGE.
                if rtnetlink.link_family(reply) == rtnetlink.AF_BRIDGE:
                    guard.left(reply)
                    return
                nic = broker.ledger.by_index(rtnetlink.link_index(reply))
                if nic is not None:
                    broker.nic_gone(nic)
            elif reply.type == rtnetlink.RTM_NEWNEIGH:
                first_mac.neighbour(rtnetlink.parse_neighbour(reply))
            elif reply.type == rtnetlink.RTM_DELNEIGH:
                guard.entry_gone(rtnetlink.parse_neighbour(reply))
            else:
                broker.networks.host.look_soon()

        def resynchronise() -> None:
            guard.look_at_all()
            broker.networks.host.look_soon()

        self._handle, self._resynchronise = handle, resynchronise
        asyncio.get_running_loop().add_reader(self._monitor.fileno(), self._read)

    def _read(self) -> None:
        for _ in range(_BURST):
            try:
                replies = self._monitor.read()
            except OSError as err:
                if err.errno != errno.ENOBUFS:
                    raise
                self._lost = True
                continue
            if replies is None:
                if self._lost:
                    self._lost = False
                    _log.warning("netlink messages were lost; looking at all again")
                    self._resynchronise()
                return
            for reply in replies:
                self._handle(reply)

    def stop(self) -> None:
        asyncio.get_running_loop().remove_reader(self._monitor.fileno())
        self._monitor.close()
