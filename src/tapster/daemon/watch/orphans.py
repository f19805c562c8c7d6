# SPDX-License-Identifier: LGPL-2.1-or-later
"""Finds taps that nobody holds any more, though they still exist.

A tap ends with its last descriptor, unless its holder made it persistent. Of such
a tap the kernel tells the end by a lost carrier. But a holder can fake that as well,
or have done so before, and the kernel tells nothing of a tap that is down. So taps
without carrier, persistent ones and those in quarantine are on a short list, of
which some are looked at every second. Other taps cost nothing; a tap whose guest
has not started yet is none of these.
"""

from __future__ import annotations

import asyncio
import logging

from ...kernel import rtnetlink, tun
from ...kernel.netlink import NetlinkSocket
from ...kernel.rtnetlink import Link
from ...model import State
from ..detach import Detacher
from ..nics.ledger import Ledger
from ..nics.nic import Nic
from ..provision.tap_fd import TapDescriptor
from ..resolve.bridges import Bridges

_log = logging.getLogger(__name__)

INTERVAL = 1.0  # seconds
AT_ONCE = 50  # NICs that are looked at each time


class OrphanReaper:
    """The short list of one broker."""

    def __init__(
        self,
        netlink: NetlinkSocket,
        ledger: Ledger,
        bridges: Bridges,
        detacher: Detacher,
    ) -> None:
        self._netlink = netlink
        self._ledger = ledger
        self._bridges = bridges
        self._detacher = detacher
        self._list: dict[str, None] = {}  # ifnames; the first is looked at next
        self._timer: asyncio.TimerHandle | None = None

    def track(self, nic: Nic, link: Link) -> None:
        """Put a NIC on the list, or take it off, by what its device is like now."""
        if (
            link.flags & rtnetlink.IFF_LOWER_UP
            and not link.persist
            and nic.state is not State.QUARANTINED
        ):
            self._list.pop(nic.ifname, None)
        elif self._ledger.current(nic) is not None:
            self.add(nic)

    def add(self, nic: Nic) -> None:
        """Put a NIC on the list."""
        self._list[nic.ifname] = None
        self._look_soon()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_soon(self) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(INTERVAL, self._look)

    def _look(self) -> None:
        self._timer = None
        left = AT_ONCE
        for ifname in list(self._list):
            if not left:
                break
            del self._list[ifname]
            nic = self._ledger.by_ifname(ifname)
            if nic is None:
                continue  # it went by itself, and takes nobody's turn
            left -= 1
            link = rtnetlink.get_link(self._netlink, nic.ifindex)
            if link is None:
                self._detacher.gone(nic)
                continue
            self.track(nic, link)  # at the end of the list, if it is to stay
            if link.persist:
                self._end(nic, link)
        if self._list:
            self._look_soon()

    def _end(self, nic: Nic, link: Link) -> None:
        """Have a persistent tap end that nobody holds. The kernel tells of its end,
        as of every other's."""
        try:
            fd = tun.take_over(link.name)
            if fd is None:
                return
        except tun.TapError as err:
            _log.error("%s: %s", nic.ifname, err)
            return
        tap = TapDescriptor(fd)
        try:
            if self._bridges.index_of(link.name) == nic.ifindex:
                tun.forget(fd)
                _log.warning("%s was persistent, and nobody held it", nic.ifname)
        except OSError as err:
            _log.error("%s: %s", nic.ifname, err)
        finally:
            tap.close()
