# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the Varlink interface does: the broker, in the words of the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator

from asyncvarlink import FileDescriptor

from ..kernel import rtnetlink
from ..kernel.rtnetlink import Link
from ..model import AttachRequest, Peer
from ..networks.nat import BRIDGE_PREFIX
from ..policy import bridge_conf
from ..policy.decide import DEFAULT_NETWORK, MAX_NICS
from ..version import __version__
from ..wire import interface as wire
from .broker import TAP_ALIAS, Broker
from .ledger import Nic


class BrokerService:
    """Implements `wire.interface.Service` for every connection."""

    def __init__(self, broker: Broker, tier: str) -> None:
        """:param tier: "system" or "rootless"."""
        self._broker = broker
        self._tier = tier

    async def attach(
        self, peer: Peer, request: AttachRequest
    ) -> tuple[FileDescriptor, wire.Nic]:
        tap, nic = await self._broker.attach(peer, request)
        return FileDescriptor(tap, should_close=True), _told(nic, None)

    async def detach(self, peer: Peer, ifname: str) -> None:
        await self._broker.detach(peer, ifname)

    def list_nics(self, peer: Peer) -> list[wire.Nic]:
        mine = [n for n in self._broker.ledger if peer.is_root or n.uid == peer.uid]
        netlink = self._broker.env.netlink
        if len(mine) > 16:
            links = {link.ifindex: link for link in rtnetlink.links(netlink)}
            return [_told(nic, links.get(nic.ifindex)) for nic in mine]
        return [
            _told(nic, rtnetlink.get_link(netlink, nic.ifindex, counters=True))
            for nic in mine
        ]

    def watch(self, peer: Peer) -> AsyncIterator[wire.Event]:
        return self._broker.events.watch(peer)

    def info(self, peer: Peer) -> wire.Info:
        default = wire.Network(
            DEFAULT_NETWORK,
            "nat",
            MAX_NICS,
            self._broker.ledger.count(peer.uid, DEFAULT_NETWORK),
        )
        return {
            "version": __version__,
            "tier": self._tier,
            "networks": [default],
            "bridges": self._bridges(peer),
        }

    def _bridges(self, peer: Peer) -> list[str]:
        """The Linux bridges that bridge.conf lets the caller use."""
        path = self._broker.config.authorization.bridge_conf
        reader = bridge_conf.Reader(peer.uid, peer.gid, peer.groups)
        return [
            link.name
            for link in rtnetlink.links(self._broker.env.netlink)
            if link.kind == "bridge"
            and not link.name.startswith(BRIDGE_PREFIX)
            and bridge_conf.decide(path, link.name, reader).allowed
        ]


def _told(nic: Nic, link: Link | None) -> wire.Nic:
    """A NIC on the wire. What the host's end sent, the guest received."""
    counts = (0, 0, 0, 0)
    if (
        link is not None
        and link.name == nic.ifname
        and link.alias.startswith(TAP_ALIAS)
    ):
        counts = (link.tx_bytes, link.tx_packets, link.rx_bytes, link.rx_packets)
    return wire.Nic(
        ifname=nic.ifname,
        mac=nic.mac,
        ipv4=nic.ipv4,
        ipv6=nic.ipv6,
        mtu=nic.mtu,
        bridge=nic.bridge,
        network=nic.network,
        uid=nic.uid,
        user=nic.user,
        pid=nic.pid,
        name=nic.name,
        state=nic.state.value,
        reason=nic.reason,
        rx_bytes=counts[0],
        rx_packets=counts[1],
        tx_bytes=counts[2],
        tx_packets=counts[3],
    )
