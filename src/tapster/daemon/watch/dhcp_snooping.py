# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests of a LAN held to the addresses that its DHCP server gave them.

nftables logs the server's answers to us (networks/leases.py). A port whose
guest has been told its address may send from no other, until it is told
another. What a guest says itself teaches nothing.
"""

from __future__ import annotations

import asyncio
import errno
import logging

from ...kernel.netlink import NetlinkError
from ...kernel.nflog import NflogSocket, open_free_group
from ...model import State
from ...networks import leases
from ..broker import Broker
from ..nics.ledger import Nic

_log = logging.getLogger(__name__)

_BURST = 64  # messages read before others get their turn


class LeaseWatch:
    """Owns the log's socket. `stop()` closes it."""

    def __init__(self) -> None:
        """Listens from now on; without nfnetlink_log nothing is learned."""
        self._broker: Broker | None = None
        self._socket: NflogSocket | None = None
        try:
            self._socket = open_free_group()
        except OSError as err:
            _log.warning("leases of a LAN's DHCP server are not learned: %s", err)

    @property
    def rules(self) -> str:
        """What has to be in the bridge table for anything to be logged."""
        return leases.chains(self._socket.group) if self._socket is not None else ""

    def start(self, broker: Broker) -> None:
        self._broker = broker
        if self._socket is not None:
            asyncio.get_running_loop().add_reader(self._socket.fileno(), self._read)

    def stop(self) -> None:
        if self._socket is not None:
            if self._broker is not None:
                asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _read(self) -> None:
        for _ in range(_BURST):
            if self._socket is None:
                return
            try:
                packets = self._socket.read()
            except OSError as err:
                if err.errno != errno.ENOBUFS:
                    raise
                _log.warning("answers of a DHCP server were lost")
                continue
            if packets is None:
                return
            for packet in packets:
                if packet.prefix != leases.LOG_PREFIX:
                    continue  # somebody else's rule, to a group that is ours
                for lease in leases.told(
                    packet.protocol, packet.ethernet, packet.payload
                ):
                    self._learn(packet.bridge, lease)

    def _learn(self, bridge: int, lease: leases.Lease) -> None:
        assert self._broker is not None  # noqa: S101 - nothing is read before start
        nic = self._broker.ledger.by_mac(bridge, lease.mac)
        if nic is None or not nic.learns or nic.state is not State.ACTIVE:
            return
        address = str(lease.address) if lease.address is not None else None
        before = (nic.ipv4, nic.ipv6)
        if lease.kind == "nak":
            # What it says of an address that is not this guest's changes nothing.
            if address in (None, nic.ipv4 if lease.family == 4 else nic.ipv6):
                self._set(nic, lease.family, None)
        else:
            self._set(nic, lease.family, address)
        if before != (nic.ipv4, nic.ipv6):
            self._broker.events.about("address", nic)

    def _set(self, nic: Nic, family: int, address: str | None) -> None:
        """Hold a port to an address of that family, or to none any more."""
        assert self._broker is not None  # noqa: S101
        guest, ipv4, ipv6 = nic.guest, nic.ipv4, nic.ipv6
        if family == 4:
            nic.ipv4 = address
        else:
            nic.ipv6 = address
        if (nic.ipv4, nic.ipv6) == (ipv4, ipv6):
            return
        try:
            self._broker.provisioner.replace_elements(guest, nic)
            self._broker.ledger.update(nic)
        except (NetlinkError, OSError) as err:
            nic.ipv4, nic.ipv6 = ipv4, ipv6
            _log.error("the address of %s: %s", nic.ifname, err)
