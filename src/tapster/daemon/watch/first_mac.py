# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ports whose guest's MAC nobody told us: open for the first one that it shows.

QEMU's helper contract has no word for a MAC. Such a port starts locked and without
any MAC, so nothing that its guest sends is forwarded. The first source MAC comes to
us in two ways. A kernel with MAC authentication bypass (6.2) makes a locked
forwarding entry of it and tells us within a tenth of a millisecond. And nftables
keeps it in a map that we look into while a port waits. On older kernels that map is
the only way: the MAC is learned there, and not in the bridge's own table, where it
could displace another station's. On newer kernels it is how a MAC shows that the
bridge knows already, of which MAB says nothing.
"""

from __future__ import annotations

import asyncio
import logging

from ...kernel import rtnetlink
from ...kernel.netlink import NetlinkError, NetlinkSocket
from ...kernel.nft import Nft, NftError
from ...kernel.rtnetlink import Neighbour
from ...model import State
from ...networks import ruleset
from ...policy.core.matching import matches_any
from ...syntax import is_mac
from ..allocate.allocator import Allocator
from ..audit.events import Events
from ..nics.ledger import Ledger
from ..nics.nic import Nic
from ..publish.networks import RunningNetworks
from ..publish.open_forwards import OpenForwards

_log = logging.getLogger(__name__)

_FIRST_INTERVAL = 0.05  # seconds
_LAST_INTERVAL = 1.0


class FirstMac:
    """Waits for the first MAC of each waiting port of one broker."""

    def __init__(
        self,
        netlink: NetlinkSocket,
        nft: Nft,
        ledger: Ledger,
        allocator: Allocator,
        networks: RunningNetworks,
        forwards: OpenForwards,
        events: Events,
    ) -> None:
        self._netlink = netlink
        self._nft = nft
        self._ledger = ledger
        self._allocator = allocator
        self._networks = networks
        self._forwards = forwards
        self._events = events
        self._timer: asyncio.TimerHandle | None = None
        self._interval = _FIRST_INTERVAL

    def start(self) -> None:
        """A port began to wait: look often, then less and less."""
        self._interval = _FIRST_INTERVAL
        self.stop()
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._look)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def entry_added(self, entry: Neighbour) -> None:
        """RTM_NEWNEIGH: a bridge told of a forwarding entry."""
        if entry.ext_flags & rtnetlink.NTF_EXT_LOCKED:
            nic = self._ledger.by_index(entry.ifindex)
            if nic is not None:
                self._shown(nic, entry.mac)

    def _look(self) -> None:
        self._timer = None
        if not self._ledger.waiting():
            return
        for ifname, mac in self._first_macs():
            nic = self._ledger.by_ifname(ifname)
            if nic is not None:
                self._shown(nic, mac)
        if self._ledger.waiting():
            self._interval = min(self._interval * 1.5, _LAST_INTERVAL)
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._interval, self._look)

    def _first_macs(self) -> list[tuple[str, str]]:
        """Names of taps, and the MAC that each of their guests showed first."""
        try:
            listing = self._nft.listing(
                "look for first MACs", f"list map {ruleset.BRIDGE_TABLE} first"
            )
        except NftError as err:
            _log.error("%s", err)
            return []
        pairs = listing[0]["map"].get("elem", []) if listing else []
        return [(str(name), str(mac)) for name, mac in pairs if is_mac(str(mac))]

    def _shown(self, nic: Nic, mac: str) -> None:
        """A guest showed its first MAC: open its port for it, or keep it shut."""
        if nic.state is not State.WAITING:
            return
        try:
            reason = self._objection(nic, mac)
            if reason is None:
                self._admit(nic, mac)
            else:
                self._refuse(nic, reason)
        except (NetlinkError, NftError, OSError) as err:
            if self._ledger.current(nic) is not None:
                _log.error("first MAC %s of %s: %s", mac, nic.ifname, err)

    def _objection(self, nic: Nic, mac: str) -> str | None:
        """Why a guest may not have a MAC; None if it may."""
        if nic.macs and not matches_any(mac, nic.macs):
            return f"its MAC {mac} is not one that you may use"
        if self._allocator.is_reserved(mac, nic.network, nic.bridge, nic.name, nic.uid):
            return f"its MAC {mac} is reserved for another guest"
        if self._ledger.by_mac(nic.bridge_index, mac) is not None:
            return f"its MAC {mac} is that of another guest on this bridge"
        known = rtnetlink.get_fdb(self._netlink, nic.bridge_index, mac)
        if known is not None and not (
            known.ifindex == nic.ifindex and known.state != rtnetlink.NUD_PERMANENT
        ):
            return f"its MAC {mac} is that of another station on this bridge"
        return None

    def _admit(self, nic: Nic, mac: str) -> None:
        network = self._networks.network_of(nic)
        ipv6 = None
        if network is not None:
            ipv6 = network.addresses_for(nic.name, nic.uid, mac).ipv6()
            if nic.ipv4 is not None:
                # Before the record says that its MAC is known: a broker that is
                # killed in between does all of this again.
                network.add_guest(nic.ifname, mac, nic.ipv4, ipv6, nic.name)
        try:
            nic = self._ledger.transition(nic, State.ACTIVE, mac=mac, ipv6=ipv6)
        except BaseException:
            if network is not None:
                network.remove_guest(nic.ifname, None, None)
            raise
        self._ledger.ports.forget_first_mac(nic)
        self._netlink.transact(
            [
                rtnetlink.set_port(nic.ifindex, nic.ifname, mab=0, learning=0),
                rtnetlink.add_fdb(nic.ifindex, mac, replace=True),
            ]
        )
        self._forwards.guest_attached(nic)
        self._events.about("active", nic)

    def _refuse(self, nic: Nic, reason: str) -> None:
        nic = self._ledger.transition(nic, State.REFUSED, reason=reason)
        self._ledger.ports.forget_first_mac(nic)
        self._netlink.transact(
            [rtnetlink.set_port(nic.ifindex, nic.ifname, mab=0, learning=0)]
        )
        self._events.about("refused", nic, reason)
