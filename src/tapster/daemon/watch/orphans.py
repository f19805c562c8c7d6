# SPDX-License-Identifier: LGPL-2.1-or-later
"""Finds taps that nobody holds any more, though they are still there.

A tap ends with its last descriptor, unless its holder made it persistent. What
then tells of the end is that the carrier is lost; but a holder can also say that
it is, or have said so before, and a tap that is down tells nothing at all. So
those without carrier, the persistent ones and those in quarantine are on a short
list, and some of it is looked at every second. Other taps cost nothing, and a
guest that has not started yet is none of these.
"""

from __future__ import annotations

import asyncio
import logging

from ...kernel import rtnetlink, tun
from ...kernel.rtnetlink import Link
from ...model import State
from ..broker import Broker
from ..nics.ledger import Nic
from ..provision.tap_fd import TapDescriptor

_log = logging.getLogger(__name__)

INTERVAL = 1.0  # seconds
AT_ONCE = 50  # NICs that are looked at each time


class Sweep:
    """The short list of one broker."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._list: dict[str, Nic] = {}  # the first is looked at next
        self._timer: asyncio.TimerHandle | None = None

    def consider(self, nic: Nic, link: Link) -> None:
        """Have a NIC on the list, or not, by what its device is like now."""
        if (
            link.flags & rtnetlink.IFF_LOWER_UP
            and not link.persist
            and nic.state is not State.QUARANTINED
        ):
            self._list.pop(nic.ifname, None)
        elif self._broker.ledger.by_ifname(nic.ifname) is nic:
            self.add(nic)

    def add(self, nic: Nic) -> None:
        self._list[nic.ifname] = nic
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(INTERVAL, self._look)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        left = AT_ONCE
        for ifname in list(self._list):
            if not left:
                break
            nic = self._list.pop(ifname)
            if self._broker.ledger.by_ifname(ifname) is not nic:
                continue  # gone; however many are, they keep no place
            left -= 1
            link = rtnetlink.get_link(self._broker.env.netlink, nic.ifindex)
            if link is None:
                self._broker.nic_gone(nic)
                continue
            self.consider(nic, link)  # at the list's end, if it is to stay
            if link.persist:
                self._end(nic, link)
        if self._list and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(INTERVAL, self._look)

    def _end(self, nic: Nic, link: Link) -> None:
        """Have a persistent tap end that nobody holds. The kernel tells of it, as
        of every other's end."""
        try:
            fd = tun.take_over(link.name)
            if fd is None:
                return
        except tun.TapError as err:
            _log.error("%s: %s", nic.ifname, err)
            return
        tap = TapDescriptor(fd)
        try:
            if self._broker.bridges.index_of(link.name) == nic.ifindex:
                tun.forget(fd)
                _log.warning("%s was persistent, and nobody held it", nic.ifname)
        except OSError as err:
            _log.error("%s: %s", nic.ifname, err)
        finally:
            tap.close()
