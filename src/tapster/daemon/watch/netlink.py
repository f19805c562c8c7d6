# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hears from the kernel what becomes of our devices, and passes it on."""

from __future__ import annotations

import asyncio
import errno
import logging

from ...kernel import rtnetlink
from ...kernel.netlink import Reply
from ...kernel.netlink_monitor import NetlinkMonitor
from ..detach import Detacher
from ..nics.ledger import Ledger
from ..publish.networks import RunningNetworks
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


def open_monitor() -> NetlinkMonitor:
    """Listen from now on; what comes before `Watch.start` waits in the socket. The
    caller closes it.

    :raises NetlinkError: the kernel refused.
    """
    # IPv6 routes are not listened to: each tap that comes up has one.
    groups = [
        rtnetlink.RTNLGRP_LINK,
        rtnetlink.RTNLGRP_NEIGH,
        rtnetlink.RTNLGRP_IPV4_IFADDR,
        rtnetlink.RTNLGRP_IPV4_ROUTE,
        rtnetlink.RTNLGRP_IPV6_IFADDR,
    ]
    kinds = [
        rtnetlink.RTM_DELLINK,
        rtnetlink.RTM_NEWNEIGH,
        rtnetlink.RTM_DELNEIGH,
        *_OF_HOST,
    ]
    return NetlinkMonitor(groups, kinds, live_links=True)


class Watch:
    """Passes on what one monitor hears, on the running event loop."""

    def __init__(
        self,
        monitor: NetlinkMonitor,
        ledger: Ledger,
        networks: RunningNetworks,
        detacher: Detacher,
        first_mac: FirstMac,
        guard: Guard,
    ) -> None:
        """:param monitor: from `open_monitor`; it stays the caller's to close."""
        self._monitor = monitor
        self._ledger = ledger
        self._networks = networks
        self._detacher = detacher
        self._first_mac = first_mac
        self._guard = guard
        self._lost = False  # messages that the socket had no room for

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(self._monitor.fileno(), self._read)

    def stop(self) -> None:
        asyncio.get_running_loop().remove_reader(self._monitor.fileno())

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
                    self._guard.look_at_all()
                    self._networks.upkeep.look_soon()
                return
            for reply in replies:
                self._handle(reply)

    def _handle(self, reply: Reply) -> None:
        match reply.type:
            case rtnetlink.RTM_NEWLINK:
                self._guard.link_changed(reply)
            case rtnetlink.RTM_DELLINK:
                self._link_deleted(reply)
            case rtnetlink.RTM_NEWNEIGH:
                self._first_mac.entry_added(rtnetlink.parse_neighbour(reply))
            case rtnetlink.RTM_DELNEIGH:
                self._guard.entry_deleted(rtnetlink.parse_neighbour(reply))
            case _:
                self._networks.upkeep.look_soon()

    def _link_deleted(self, reply: Reply) -> None:
        # A port that leaves its bridge is told in family AF_BRIDGE.
        if rtnetlink.link_family(reply) == rtnetlink.AF_BRIDGE:
            self._guard.port_left(reply)
            return
        nic = self._ledger.by_index(rtnetlink.link_index(reply))
        if nic is not None:
            self._detacher.gone(nic)
