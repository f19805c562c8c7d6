# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ports whose guest's MAC nobody told us: open for the first one it shows.

QEMU's helper contract has no word for a MAC. Such a port starts locked with
no MAC at all, so nothing its guest sends is forwarded. The first source MAC
comes to us in two ways. A kernel with MAC authentication bypass (6.2) makes a
locked forwarding entry of it and tells us within a tenth of a millisecond.
And nftables keeps it in a map that we look into while a port waits: this is
the only way on older kernels (the MAC is learned there, not in the bridge's
own table, where it could displace somebody's), and on newer ones it is how a
MAC shows that the bridge knows already, of which MAB says nothing.
"""

from __future__ import annotations

import asyncio
import logging

from ...kernel import rtnetlink
from ...kernel.netlink import NetlinkError
from ...kernel.nft import NftError
from ...kernel.rtnetlink import Neighbour
from ...model import State
from ...networks import ruleset
from ...policy.core.matching import matches_any
from ...syntax import is_mac
from ..broker import Broker
from ..nics.ledger import Nic

_log = logging.getLogger(__name__)

_FIRST_INTERVAL = 0.05  # seconds
_LAST_INTERVAL = 1.0


class FirstMac:
    """Waits for the first MAC of each waiting port of one broker."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._timer: asyncio.TimerHandle | None = None
        self._interval = _FIRST_INTERVAL
        broker.on_waiting = self.start

    def start(self) -> None:
        """A port began to wait: look often, then less and less."""
        self._interval = _FIRST_INTERVAL
        self.stop()
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._look)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def neighbour(self, entry: Neighbour) -> None:
        """A bridge told of a forwarding entry (RTM_NEWNEIGH)."""
        if entry.ext_flags & rtnetlink.NTF_EXT_LOCKED:
            nic = self._broker.ledger.by_index(entry.ifindex)
            if nic is not None:
                self.seen(nic, entry.mac)

    def _look(self) -> None:
        self._timer = None
        ledger = self._broker.ledger
        if not ledger.waiting():
            return
        for ifname, mac in self._first_macs():
            nic = ledger.by_ifname(ifname)
            if nic is not None:
                self.seen(nic, mac)
        if ledger.waiting():
            self._interval = min(self._interval * 1.5, _LAST_INTERVAL)
            self._timer = asyncio.get_running_loop().call_later(
                self._interval, self._look
            )

    def _first_macs(self) -> list[tuple[str, str]]:
        try:
            listing = self._broker.env.nft.listing(
                "look for first MACs", f"list map {ruleset.BRIDGE_TABLE} first"
            )
        except NftError as err:
            _log.error("%s", err)
            return []
        pairs = listing[0]["map"].get("elem", []) if listing else []
        return [(str(name), str(mac)) for name, mac in pairs if is_mac(str(mac))]

    def seen(self, nic: Nic, mac: str) -> None:
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
            if self._broker.ledger.by_ifname(nic.ifname) is nic:
                _log.error("first MAC %s of %s: %s", mac, nic.ifname, err)

    def _objection(self, nic: Nic, mac: str) -> str | None:
        if nic.macs and not matches_any(mac, nic.macs):
            return f"its MAC {mac} is not one that you may use"
        if self._broker.allocator.is_kept(
            mac, nic.network, nic.bridge, nic.name, nic.uid
        ):
            return f"its MAC {mac} is reserved for another guest"
        holder = self._broker.ledger.by_mac(nic.bridge_index, mac)
        if holder is not None:
            return f"its MAC {mac} is that of another guest on this bridge"
        known = rtnetlink.get_fdb(self._broker.env.netlink, nic.bridge_index, mac)
        if known is not None and not (
            known.ifindex == nic.ifindex and known.state != rtnetlink.NUD_PERMANENT
        ):
            return f"its MAC {mac} is that of another station on this bridge"
        return None

    def _admit(self, nic: Nic, mac: str) -> None:
        network = self._broker.networks.network_of(nic)
        before = nic.guest
        nic.mac, nic.state = mac, State.ACTIVE
        if network is not None:
            nic.ipv6 = network.addresses_for(nic.name, nic.uid, mac).ipv6()
        try:
            self._broker.provisioner.replace_elements(before, nic)
        except BaseException:
            nic.mac, nic.ipv6, nic.state = None, None, State.WAITING
            raise
        self._broker.provisioner.forget_first_mac(nic)
        if network is not None and nic.ipv4 is not None:
            network.add_guest(nic.ifname, mac, nic.ipv4, nic.ipv6, nic.name)
        self._broker.ledger.update(nic)
        self._broker.env.netlink.transact(
            [
                rtnetlink.set_port(nic.ifindex, nic.ifname, mab=0, learning=0),
                rtnetlink.add_fdb(nic.ifindex, mac, replace=True),
            ]
        )
        self._broker.open_forwards.guest_attached(nic)
        self._broker.events.about("active", nic)

    def _refuse(self, nic: Nic, reason: str) -> None:
        before = nic.guest
        nic.state, nic.reason = State.REFUSED, reason
        self._broker.provisioner.replace_elements(before, nic)
        self._broker.provisioner.forget_first_mac(nic)
        self._broker.ledger.update(nic)
        self._broker.env.netlink.transact(
            [rtnetlink.set_port(nic.ifindex, nic.ifname, mab=0, learning=0)]
        )
        self._broker.events.about("refused", nic, reason)
