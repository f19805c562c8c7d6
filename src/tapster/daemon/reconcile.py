# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a broker does first: find what an earlier one left, and finish it.

The kernel says what exists, the records what it was for. A NIC with both is gone on
with; a record without its tap is a teardown that is still due; a tap of ours without
a record is nobody's, and goes. The nftables tables are made anew from what was found,
in one transaction: running guests notice nothing, and whatever did not belong there
is gone.
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace

from ..errors import BrokerFailure
from ..kernel import rtnetlink
from ..kernel.netlink import NetlinkError
from ..kernel.rtnetlink import Link
from ..model import BRIDGE_PREFIX, TAP_PREFIX, Mode, State
from ..networks import (
    dnsmasq_launch,
    elements,
    own_bridge,
    rates,
    ruleset,
    state_files,
)
from ..networks.host_context import HostContext
from ..networks.managed_network import ManagedNetwork
from ..policy.config.current import CurrentConfig
from .audit.events import Events
from .nics.expected import is_recorded
from .nics.expiry import Expiry
from .nics.ledger import Ledger
from .nics.naming import TAP_ALIAS
from .nics.nic import Nic
from .provision.adjust import Adjuster
from .publish.hooks.lifecycle import Hooks
from .publish.networks import RunningNetworks
from .publish.open_forwards import OpenForwards
from .reconfigure import Reconfigurer

_log = logging.getLogger(__name__)


class Reconciler:
    """Brings records, kernel and processes together, once, at the start."""

    def __init__(
        self,
        host: HostContext,
        current: CurrentConfig,
        ledger: Ledger,
        adjuster: Adjuster,
        networks: RunningNetworks,
        forwards: OpenForwards,
        reconfigurer: Reconfigurer,
        expiry: Expiry,
        hooks: Hooks,
        events: Events,
    ) -> None:
        self._host = host
        self._netlink = host.netlink
        self._current = current
        self._ledger = ledger
        self._adjuster = adjuster
        self._networks = networks
        self._forwards = forwards
        self._reconfigurer = reconfigurer
        self._expiry = expiry
        self._hooks = hooks
        self._events = events
        # By index; names are as they were before any of this.
        self._links: dict[int, Link] = {}
        self._found: list[Nic] = []  # NICs whose tap exists
        self._vanished: list[Nic] = []  # records without a tap

    async def run(self, more_rules: str) -> None:
        """Do it all.

        :param more_rules: what else is to be in the bridge table.
        :raises NetlinkError, NftError: the kernel would not even answer.
        """
        self._match_records()
        recalled = self._recall_networks()
        rebuilt = self._rebuild_networks(recalled)
        networks = recalled + rebuilt
        self._make_tables(networks, more_rules)
        self._enter_nics()
        await self._resume_networks(networks, rebuilt)
        self._reconfigurer.catch_up()
        self._delete_lost_taps()
        self._delete_lost_bridges()
        self._networks.restore_host()
        for nic in list(self._ledger):
            self._expiry.add(nic)
        devices = [nic.ifname for nic in self._ledger]
        devices += [network.bridge for network in self._networks.all()]
        self._hooks.recall(set(devices))

    # NICs

    def _match_records(self) -> None:
        links = rtnetlink.links(self._netlink)
        self._links = {link.ifindex: link for link in links}
        for nic in self._ledger.records.read_all():
            link = self._links.get(nic.ifindex)
            if link is not None and is_recorded(nic, link):
                self._found.append(self._restore_name(nic, link))
            else:
                self._vanished.append(nic)

    def _restore_name(self, nic: Nic, link: Link) -> Nic:
        """Have a tap bear its own name, before rules are made that go by names. One
        that can't be renamed is put into quarantine."""
        if link.name == nic.ifname:
            return nic
        words = f"changed by who has CAP_NET_ADMIN: name {nic.ifname} -> {link.name}"
        try:
            self._netlink.transact(
                [rtnetlink.set_link(nic.ifindex, link.name, name=nic.ifname)]
            )
        except NetlinkError as err:
            reason = f"{words}; could not be put back"
            nic = replace(nic, state=State.QUARANTINED, reason=reason)
            self._ledger.records.replace(nic)
            self._events.about("tampered", nic, f"{reason} ({err})")
            self._events.about("quarantined", nic, reason)
            return nic
        self._events.about("tampered", nic, f"{words}; put back")
        return nic

    def _enter_nics(self) -> None:
        for nic in self._found:
            self._ledger.adopt(nic)
            if nic.state is not State.QUARANTINED:
                try:
                    self._adjuster.finish(nic, self._links[nic.ifindex])
                except NetlinkError as err:
                    _log.error("%s: %s", nic.ifname, err)
        for nic in self._vanished:
            _log.info("%s went while no broker ran", nic.ifname)
            self._ledger.records.remove(nic.ifname)
            self._events.about("detached", nic)

    def _delete_lost_taps(self) -> None:
        """Remove taps that bear our mark and have no record. Nobody knows any more
        what they may do, so no frame of theirs passes; nobody could give them back,
        and they would count for no one. Only CAP_NET_ADMIN can set that mark."""
        for link in self._links.values():
            if (
                link.kind == "tun"
                and link.name.startswith(TAP_PREFIX)
                and link.alias.startswith(TAP_ALIAS)
                and self._ledger.by_index(link.ifindex) is None
                and self._delete(link)
            ):
                _log.warning(
                    "%s had no record, and is taken away: %s", link.name, link.alias
                )

    def _delete(self, link: Link) -> bool:
        """Delete a device; False if that was not possible, as it was going."""
        try:
            self._netlink.transact([rtnetlink.delete_link(link.ifindex, link.name)])
        except NetlinkError as err:
            _log.debug("%s", err)
            return False
        return True

    # Networks

    def _recall_networks(self) -> list[ManagedNetwork]:
        """The networks that have a record. A damaged record is removed; the files of
        a bridge with NICs stay in any case, as its dnsmasq has them."""
        used = {nic.bridge for nic in self._found}
        networks: list[ManagedNetwork] = []
        for bridge in sorted(os.listdir(self._host.directory)):
            try:
                network = ManagedNetwork.recall(self._host, bridge)
                rival = next((n for n in networks if _excludes(n, network)), None)
                if rival is not None:
                    raise ValueError(f"{rival.bridge} is the same, or has its subnet")
            except (OSError, ValueError, LookupError, TypeError, AttributeError) as err:
                path = os.path.join(self._host.directory, bridge)
                _log.warning("%s is damaged and removed: %s", path, err)
                state_files.discard(f"{path}/network.json" if bridge in used else path)
                continue
            network.find_bridge()
            networks.append(network)
        return networks

    def _rebuild_networks(self, recalled: list[ManagedNetwork]) -> list[ManagedNetwork]:
        """Networks that have NICs and no record, from the configuration and from what
        the kernel says."""
        known = {network.bridge for network in recalled}
        rebuilt: list[ManagedNetwork] = []
        for nic in self._found:
            definition = self._current.value.networks.get(nic.network or "")
            if (
                nic.bridge in known
                or definition is None
                or definition.mode is Mode.BRIDGE
            ):
                continue
            known.add(nic.bridge)
            try:
                network = ManagedNetwork.rebuilt(
                    self._host, definition, nic.uid, nic.bridge
                )
            except (NetlinkError, OSError) as err:
                _log.error("network of %s: %s", nic.bridge, err)
                continue
            if network is not None and not any(_excludes(network, n) for n in recalled):
                _log.warning("network %s had no record; it has one again", network.key)
                rebuilt.append(network)
        return rebuilt

    async def _resume_networks(
        self, networks: list[ManagedNetwork], rebuilt: list[ManagedNetwork]
    ) -> None:
        """Go on with networks that have NICs, and take down the others."""
        for network in networks:
            network.dnsmasq.reattach()
        pids = {n.dnsmasq.pid for n in networks if n.dnsmasq.pid is not None}
        dnsmasq_launch.end_strays(self._host.directory, pids)
        for network in networks:
            nics = self._ledger.on_bridge(network.bridge)
            if not network.bridge_index or not nics:
                await network.down()
                continue
            self._networks.adopt(network)
            try:
                await network.adopt({nic.ifname for nic in nics})
                if network in rebuilt:
                    _publish(network, nics)
            except (BrokerFailure, OSError) as err:
                # Its guests have their addresses; the others have their broker.
                _log.error("network %s was not taken over whole: %s", network.key, err)

    def _delete_lost_bridges(self) -> None:
        """Remove bridges that bear our mark and have neither a record nor a port."""
        known = {network.bridge for network in self._networks.all()}
        links = rtnetlink.links(self._netlink)
        used = {link.master for link in links}
        for link in links:
            if (
                link.kind == "bridge"
                and link.name.startswith(BRIDGE_PREFIX)
                and link.alias.startswith(own_bridge.ALIAS)
                and link.name not in known
                and link.ifindex not in used
            ):
                self._delete(link)

    # nftables

    def _make_tables(self, networks: list[ManagedNetwork], more_rules: str) -> None:
        """Make both tables from what was found, in one transaction."""
        up = [network for network in networks if network.bridge_index]
        self._host.routing = bool(up)
        text = ruleset.tables(more_rules, routing=self._host.routing)
        for network in up:
            text += elements.add_network(network.rules)
        text += self._networks.upkeep.closing_statements(up)
        for nic in list(self._found):
            try:
                text += elements.added(elements.of_port(nic.guest))
            except (LookupError, ValueError) as err:
                _log.warning("%s: its record is damaged: %r", nic.ifname, err)
                self._found.remove(nic)
                self._vanished.append(nic)
                continue
            if nic.state is not State.QUARANTINED:
                text += rates.change_limit(nic.ifname, 0, nic.rate_egress)
        ways_in = {n.bridge for n in up if n.definition.mode is Mode.NAT}
        text += self._forwards.statements(
            nic for nic in self._found if nic.bridge in ways_in
        )
        self._host.nft.run("make tables", text)


def _publish(network: ManagedNetwork, nics: list[Nic]) -> None:
    """Let DHCP and DNS know the guests of a network whose files were lost."""
    for nic in nics:
        if nic.mac is not None and nic.ipv4 is not None:
            network.add_guest(nic.ifname, nic.mac, nic.ipv4, nic.ipv6, nic.name)


def _excludes(one: ManagedNetwork, other: ManagedNetwork) -> bool:
    """Whether nftables could not have both."""
    if one.subnet6 is not None and one.subnet6 == other.subnet6:
        return True
    return one.key == other.key or one.subnet4.overlaps(other.subnet4)
