# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests of a LAN are held to the addresses that its DHCP server gave them.

nftables logs the server's answers to us (`networks/leases.py`). A port whose guest
has been told its address may send from no other, until the server tells it another.
What a guest says itself teaches nothing.
"""

from __future__ import annotations

import asyncio
import errno
import logging

from ...kernel.nflog import NflogSocket, open_free_group
from ...model import State
from ...networks import leases
from ..audit.events import Events
from ..nics.ledger import Ledger
from ..nics.nic import Nic

_log = logging.getLogger(__name__)

_BURST = 64  # messages read before others get their turn


def open_log() -> NflogSocket | None:
    """Listen from now on; what comes before `DhcpSnooper.start` waits in the socket.
    None: without nfnetlink_log in the kernel nothing is learned. The caller closes
    it."""
    try:
        return open_free_group()
    except OSError as err:
        _log.warning("leases of a LAN's DHCP server are not learned: %s", err)
        return None


def rules(log: NflogSocket | None) -> str:
    """What has to be in the bridge table for anything to be logged."""
    return leases.chains(log.group) if log is not None else ""


class DhcpSnooper:
    """Learns leases from one log, on the running event loop."""

    def __init__(self, log: NflogSocket | None, ledger: Ledger, events: Events) -> None:
        """:param log: from `open_log`; it stays the caller's to close."""
        self._log = log
        self._ledger = ledger
        self._events = events

    def start(self) -> None:
        if self._log is not None:
            asyncio.get_running_loop().add_reader(self._log.fileno(), self._read)

    def stop(self) -> None:
        if self._log is not None:
            asyncio.get_running_loop().remove_reader(self._log.fileno())

    def _read(self) -> None:
        assert self._log is not None  # noqa: S101 - nothing is read without it
        for _ in range(_BURST):
            try:
                packets = self._log.read()
            except OSError as err:
                if err.errno != errno.ENOBUFS:
                    raise
                _log.warning("answers of a DHCP server were lost")
                continue
            if packets is None:
                return
            for packet in packets:
                if packet.prefix != leases.LOG_PREFIX:
                    continue  # another program's rule logs to our group
                for lease in leases.parse_logged(
                    packet.protocol, packet.ethernet, packet.payload
                ):
                    self._learn(packet.bridge, lease)

    def _learn(self, bridge: int, lease: leases.Lease) -> None:
        """:param bridge: the index of the bridge that the answer came over."""
        nic = self._ledger.by_mac(bridge, lease.mac)
        if nic is None or not nic.learns or nic.state is not State.ACTIVE:
            return
        address = str(lease.address) if lease.address is not None else None
        field = "ipv4" if lease.family == 4 else "ipv6"
        had = getattr(nic, field)
        if lease.kind == "nak":
            if address not in (None, had):
                return  # it is about an address that is not this guest's
            address = None
        if address != had:
            self._hold_to(nic, field, address)

    def _hold_to(self, nic: Nic, field: str, address: str | None) -> None:
        """Hold a port to an address of one family, or to none any more.

        :param field: "ipv4" or "ipv6".
        """
        try:
            nic = self._ledger.transition(nic, **{field: address})
        except OSError as err:
            _log.error("the address of %s: %s", nic.ifname, err)
            return
        self._events.about("address", nic)
