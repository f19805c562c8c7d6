# SPDX-License-Identifier: LGPL-2.1-or-later
"""Forwarding entries that a stolen MAC displaces, and their way back.

A bridge makes the MAC of a port's own end an entry of its own, whoever had one
before: a guest that is held to its MAC would get nothing any more.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections import deque
from collections.abc import Callable

from ...kernel import rtnetlink
from ...kernel.netlink import NetlinkError, NetlinkSocket, Request
from ...kernel.rtnetlink import Link, Neighbour
from ..nics.ledger import Ledger
from ..nics.nic import Nic
from .repair import has_entry

_log = logging.getLogger(__name__)

_DISPLACED = 64  # thefts that are remembered
_THEFT = 1.0  # seconds between a stolen MAC and what it displaced, at most


class FdbGuard:
    """The forwarding entries of all NICs of one broker, and those they displace."""

    def __init__(
        self, netlink: NetlinkSocket, ledger: Ledger, tell: Callable[[Nic, str], None]
    ) -> None:
        """:param tell: is told of a NIC whose entry somebody had removed."""
        self._netlink = netlink
        self._ledger = ledger
        self._tell = tell
        # When, on which bridge (its index), and which MAC.
        self._stolen: deque[tuple[float, int, str]] = deque(maxlen=_DISPLACED)

    def restore_displaced(self, nic: Nic, link: Link, *, itself: bool) -> list[Request]:
        """The messages that put back the entry which a tap's MAC displaced.

        :param nic: whose holder set the MAC of the host's end.
        :param link: the tap as it is.
        :param itself: also if the entry is the NIC's own.
        """
        if link.address == nic.host_mac:
            return []
        now = asyncio.get_running_loop().time()
        self._stolen.append((now, nic.bridge_index, link.address))
        victim = self._ledger.by_mac(nic.bridge_index, link.address)
        if victim is None or not has_entry(victim):
            return []
        if victim.ifname == nic.ifname and not itself:
            return []
        return [rtnetlink.add_fdb(victim.ifindex, link.address, replace=True)]

    def look_at_all(self, bridges: set[int]) -> None:
        """See that every guest's frames come to it.

        :param bridges: indices of the bridges that exist.
        """
        nics: dict[int, list[Nic]] = {}
        for nic in self._ledger:
            if has_entry(nic) and nic.bridge_index in bridges:
                nics.setdefault(nic.bridge_index, []).append(nic)
        for index, on_bridge in nics.items():
            entries = rtnetlink.fdb_entries(self._netlink, index)
            there = {(e.ifindex, e.mac) for e in entries if _is_static(e)}
            for nic in on_bridge:
                if (nic.ifindex, nic.mac) not in there:
                    self.ensure_entry(nic)

    def ensure_entry(self, nic: Nic) -> None:
        """See that frames to one guest come to its port."""
        if nic.mac is None or not has_entry(nic):
            return
        try:
            known = rtnetlink.get_fdb(self._netlink, nic.bridge_index, nic.mac)
            if known and known.ifindex == nic.ifindex and _is_static(known):
                return
            self._netlink.transact(
                [rtnetlink.add_fdb(nic.ifindex, nic.mac, replace=True)]
            )
        except NetlinkError as err:
            going = err.errno == errno.ENODEV
            _log.log(
                logging.DEBUG if going else logging.INFO, "%s: %s", nic.ifname, err
            )
            return
        # Where another NIC of ours has the entry, its theft is told by itself.
        if known is None or self._ledger.by_index(known.ifindex) is None:
            self._tell(nic, f"forwarding entry of {nic.mac} was removed; put back")

    def foreign_entry_deleted(self, entry: Neighbour) -> None:
        """Put back an administrator's entry of another port, if a NIC displaced it."""
        now = asyncio.get_running_loop().time()
        for theft in self._stolen:
            when, index, mac = theft
            if (index, mac) == (entry.master, entry.mac) and now - when < _THEFT:
                self._stolen.remove(theft)  # one that is deleted later was meant to be
                break
        else:
            return
        try:
            self._netlink.transact([rtnetlink.put_fdb_back(entry)])
        except NetlinkError as err:
            _log.warning("%s", err)


def _is_static(entry: Neighbour) -> bool:
    return bool(entry.state & rtnetlink.NUD_NOARP)
