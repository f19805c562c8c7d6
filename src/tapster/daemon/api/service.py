# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the Varlink interface does: the broker, in the words of the wire."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

from asyncvarlink import FileDescriptor

from ...errors import ConfigError, ConfigInvalid, NotAuthorized
from ...kernel import rtnetlink
from ...kernel.netlink import NetlinkSocket
from ...kernel.nft import Nft
from ...kernel.rtnetlink import Link
from ...model import BRIDGE_PREFIX, AttachRequest, Mode, NetworkDefinition, Peer
from ...networks.managed_network import ManagedNetwork, instance_key
from ...policy.config.load import Config
from ...policy.core.rulebook import Target
from ...version import __version__
from ...wire import objects as wire
from ..audit.request_context import RequestContext
from ..broker import Broker
from ..decide.quota import target_of
from ..identify.accounts import user_name
from ..nics.expiry import as_date
from ..nics.naming import TAP_ALIAS
from ..nics.nic import Nic
from ..publish.forward_table import Row
from ..publish.forwards import ForwardRequests
from .doctor import findings as doctor
from .doctor.finding import Finding
from .doctor.host_facts import gather
from .explain import explain

_log = logging.getLogger(__name__)


class BrokerService:
    """Implements `wire.interface.Service` for every connection."""

    def __init__(
        self,
        broker: Broker,
        forwards: ForwardRequests,
        tier: str,
        read: Callable[[], Config],
    ) -> None:
        """
        :param tier: "system" or "rootless".
        :param read: reads the configuration; raises ConfigError.
        """
        self._broker = broker
        self._forwards = forwards
        self._tier = tier
        self._read = read
        self._diagnosing = asyncio.Lock()

    # NICs

    async def attach(
        self, peer: Peer, request: AttachRequest
    ) -> tuple[FileDescriptor, wire.Nic]:
        tap, nic = await self._broker.attach(RequestContext(peer, "attach"), request)
        return FileDescriptor(tap, should_close=True), _told(nic, None)

    async def detach(self, peer: Peer, ifname: str, interactive: bool) -> None:
        context = RequestContext(peer, "detach")
        await self._broker.detach(context, ifname, interactive)

    async def list_nics(self, peer: Peer) -> list[wire.Nic]:
        sees = await self._broker.visibility.of_others(peer)
        ledger = self._broker.ledger
        mine = [n for n in ledger if n.uid == peer.uid or sees(target_of(n))]
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
        return {
            "version": __version__,
            "tier": self._tier,
            "networks": [
                wire.Network(
                    definition.name,
                    definition.mode.value,
                    decision.max_nics or 0,
                    self._broker.ledger.count(peer.uid, definition.name),
                )
                for definition, decision in self._broker.judge.usable_networks(peer)
            ],
            "bridges": self._broker.judge.usable_bridges(
                peer,
                [
                    link.name
                    for link in rtnetlink.links(self._broker.env.netlink)
                    if link.kind == "bridge" and not link.name.startswith(BRIDGE_PREFIX)
                ],
            ),
        }

    # Networks

    async def list_networks(self, peer: Peer) -> list[wire.NetworkInfo]:
        """The caller's instance of each network that it may use, up or not; and
        every other that is up, where it manages."""
        sees = await self._broker.visibility.of_others(peer)
        told: list[wire.NetworkInfo] = []
        shown: set[str] = set()
        for definition, decision in self._broker.judge.usable_networks(peer):
            key = instance_key(definition, peer.uid)
            network = self._broker.networks.get(key)
            told.append(
                self._network(peer, sees, definition, network, decision.max_nics)
            )
            shown.add(key)
        told += [
            self._network(peer, sees, network.definition, network, None)
            for network in self._broker.networks.all()
            if network.key not in shown and sees(Target(network=network.name))
        ]
        return told

    def _network(
        self,
        peer: Peer,
        sees: Callable[[Target], bool],
        wanted: NetworkDefinition,
        network: ManagedNetwork | None,
        max_nics: int | None,
    ) -> wire.NetworkInfo:
        state, notes = "down", []
        definition = wanted
        if network is not None:
            definition, state = network.definition, "up"
            if network.collision is not None:
                notes.append(
                    f"subnet {network.subnet4} is now also {network.collision}"
                    " of this host; it is found anew when the last guest has gone"
                )
            configured = self._broker.config.networks.get(network.name)
            waiting = network.differs(configured) if configured else []
            if configured is None:
                state = "removed"
                notes.append("its definition is gone; so is it, with its last guest")
            elif waiting:
                state = "pending"
                notes.append(
                    f"changed: {', '.join(waiting)};"
                    " takes effect when the last guest has gone"
                )
        if definition.mode is Mode.BRIDGE:
            link = self._broker.bridges.find(definition.bridge or "")
            state = "up" if link is not None and link.kind == "bridge" else "down"
            if state == "down":
                notes.append(f"there is no bridge {definition.bridge}")
        ledger = self._broker.ledger
        ours = definition.mode is not Mode.BRIDGE
        v4 = network.subnet4 if network else definition.subnet
        v6 = network.subnet6 if network else definition.subnet6
        uid = network.uid if network else None
        mine = [
            nic
            for nic in ledger
            if nic.network == definition.name
            and (peer.is_root or nic.uid == peer.uid)
            and (uid is None or nic.uid == uid)
        ]
        return wire.NetworkInfo(
            name=definition.name,
            mode=definition.mode.value,
            scope=definition.scope.value,
            uid=uid,
            user=user_name(uid) if uid is not None else None,
            state=state,
            bridge=network.bridge if network else definition.bridge,
            subnet4=str(v4) if v4 else None,
            subnet6=str(v6) if v6 else None,
            gateway4=str(v4[1]) if v4 else None,
            gateway6=str(v6[1]) if v6 else None,
            domain=definition.full_domain if ours else None,
            mtu=definition.mtu or (network.mtu if network else None),
            isolation=definition.is_isolating,
            egress=definition.egress.value if definition.mode is Mode.NAT else None,
            host_access=[str(port) for port in definition.host_access],
            egress_rate=definition.rate.egress,
            ingress_rate=definition.rate.ingress,
            dns=[str(server) for server in definition.dns],
            dhcp=definition.dhcp and ours,
            address_check=None if ours else definition.address_check.value,
            forwards=[
                str(row.forward)
                for row in self._forwards.visible_to(peer, sees)
                if row.network == definition.name and row.uid in (None, uid, peer.uid)
            ],
            max_nics=max_nics,
            nics=len(mine),
            notes=notes,
        )

    async def reload(self, peer: Peer, interactive: bool) -> list[str]:
        context = RequestContext(peer, "reload")
        # A rootless broker's caller is its owner, who has its own files.
        if self._tier != "rootless":
            decision = await self._broker.permissions.reload(context, interactive)
            if not decision.allowed:
                self._broker.events.denied(context, decision.reason)
                raise NotAuthorized(
                    "only root may have the configuration read anew", "use sudo"
                )
        try:
            return self._reload(context)
        except ConfigError as err:
            raise ConfigInvalid(
                str(err), "nothing has changed; correct it and reload again"
            ) from err

    def _reload(self, context: RequestContext | None) -> list[str]:
        try:
            config = self._read()
        except ConfigError as err:
            _log.error("%s; the configuration stays as it was", err)
            self._broker.events.changed("reload-refused", context, str(err))
            raise
        told = self._broker.reload(config)
        _log.info("the configuration was read anew")
        self._broker.events.changed("reloaded", context)
        return told

    def reload_by_signal(self) -> None:
        """SIGHUP: as `reload`, with nobody to answer."""
        try:
            self._reload(None)
        except ConfigError:
            pass  # the log has it

    # Forwards

    async def add_forward(
        self,
        peer: Peer,
        network: str | None,
        port: str,
        guest: str,
        guest_port: int,
        interactive: bool,
    ) -> wire.ForwardInfo:
        context = RequestContext(peer, "add-forward")
        row = await self._forwards.add(
            context, network, port, guest, guest_port, interactive
        )
        self._broker.events.changed("forward-added", context, owner=row.uid)
        await self._broker.open_forwards.wait_for_flows()
        return _forward(row)

    async def remove_forward(
        self, peer: Peer, network: str | None, port: str, interactive: bool
    ) -> None:
        context = RequestContext(peer, "remove-forward")
        row = await self._forwards.remove(context, network, port, interactive)
        self._broker.events.changed("forward-removed", context, owner=row.uid)
        await self._broker.open_forwards.wait_for_flows()

    async def list_forwards(self, peer: Peer) -> list[wire.ForwardInfo]:
        sees = await self._broker.visibility.of_others(peer)
        return [_forward(row) for row in self._forwards.visible_to(peer, sees)]

    async def explain(
        self, peer: Peer, request: AttachRequest, user: str | None, forward: str | None
    ) -> wire.Explanation:
        return await explain(self._broker, peer, request, user, forward)

    async def until(self, moment: float) -> None:
        await self._broker.events.deadlines.until(moment)

    # Diagnosis

    async def diagnose(self, peer: Peer) -> list[wire.Finding]:
        """What on this host keeps networks from working; of collisions a user is
        told of its own networks only."""
        bridges = [
            network.bridge
            for network in self._broker.networks.all()
            if peer.is_root or network.uid in (None, peer.uid)
        ]
        # One at a time: the threads are those that start networks, too.
        async with self._diagnosing:
            found = await asyncio.to_thread(_examine, bridges)
        if self._tier == "rootless":  # those programs are not in its namespace
            found = [f for f in found if f.code not in doctor.OF_MANAGERS]
        refused = self._broker.hooks.refused()
        if refused and not peer.is_root:
            found.insert(0, doctor.of_hook(None))
        elif refused:
            found[:0] = map(doctor.of_hook, refused)
        problem = self._broker.config.problem
        if problem is not None:
            found.insert(0, doctor.of_configuration(problem if peer.is_root else None))
        return [wire.Finding(f.code, f.severity, f.message, f.remedy) for f in found]


def _examine(bridges: list[str]) -> list[Finding]:
    """In a thread, so with sockets of its own: a host's rules may be many."""
    with NetlinkSocket() as netlink:
        host = gather(netlink, bridges)
    rules = Nft().listing("list all rules", "list ruleset")
    return doctor.diagnose(rules, bridges, host)


def _forward(row: Row) -> wire.ForwardInfo:
    uid = row.uid
    if uid is None and row.nic is not None:
        uid = row.nic.uid
    return wire.ForwardInfo(
        network=row.network,
        uid=uid,
        user=user_name(uid) if uid is not None else None,
        port=str(row.forward.port),
        guest=row.forward.guest,
        guest_port=row.forward.guest_port,
        state="active" if row.nic is not None else "waiting",
        ipv4=row.nic.ipv4 if row.nic is not None else None,
        ipv6=row.nic.ipv6 if row.nic is not None else None,
        static=row.uid is None,
    )


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
        expires=as_date(nic.expires),
        rx_bytes=counts[0],
        rx_packets=counts[1],
        tx_bytes=counts[2],
        tx_packets=counts[3],
    )
