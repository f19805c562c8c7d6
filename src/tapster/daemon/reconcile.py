# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a broker does first: find what an earlier one left, and finish it.

The kernel says what exists, the records what it was for. A NIC with both is
gone on with; a record without its tap is a teardown that is still due. The
nftables tables are made anew from what was found, in one transaction: running
guests notice nothing, and whatever did not belong is gone.
"""

from __future__ import annotations

import logging
import os

from ..errors import BrokerFailure
from ..kernel import rtnetlink
from ..kernel.netlink import NetlinkError
from ..kernel.nft import NftError
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
from ..networks.managed_network import ManagedNetwork
from .broker import Broker
from .nics.expected import TAP_ALIAS, is_recorded
from .nics.ledger import Nic
from .watch.guard import name_again

_log = logging.getLogger(__name__)


async def reconcile(broker: Broker, more_rules: str) -> None:
    """Bring records, kernel and processes together. Call it once, at the start.

    :param more_rules: what else is to be in the bridge table.
    :raises NetlinkError, NftError: the kernel would not even answer.
    """
    env = broker.env
    links = {link.ifindex: link for link in rtnetlink.links(env.netlink)}
    found: list[Nic] = []
    vanished: list[Nic] = []
    for nic in broker.ledger.records():
        (found if is_recorded(nic, links.get(nic.ifindex)) else vanished).append(nic)
    for nic in found:
        name_again(broker, nic, links[nic.ifindex])
    networks = _recall_networks(broker, {nic.bridge for nic in found})
    rebuilt = _rebuild_networks(broker, found, networks)
    networks += rebuilt

    there = [network for network in networks if network.bridge_index]
    env.routing = bool(there)
    text = ruleset.tables(more_rules, routing=env.routing)
    for network in there:
        text += elements.add_network(network.rules)
    text += broker.networks.host.closing_statements(there)
    for nic in list(found):
        try:
            text += elements.added(elements.of_port(nic.guest))
        except (LookupError, ValueError) as err:
            _log.warning("%s: its record is damaged: %r", nic.ifname, err)
            found.remove(nic)
            vanished.append(nic)
            continue
        text += rates.change_limit(nic.ifname, 0, nic.rate_egress)
    ways_in = {n.bridge for n in there if n.definition.mode is Mode.NAT}
    text += broker.open_forwards.statements(
        nic for nic in found if nic.bridge in ways_in
    )
    env.nft.run("make tables", text)

    for nic in found:
        broker.ledger.enter(nic)
        _finish(broker, nic, links[nic.ifindex])
    for nic in vanished:
        _log.info("%s went while no broker ran", nic.ifname)
        broker.ledger.forget(nic.ifname)
        broker.events.about("detached", nic)
    for network in networks:
        network.dnsmasq.reattach()
    dnsmasq_launch.end_strays(
        env.directory, {n.dnsmasq.pid for n in networks if n.dnsmasq.pid is not None}
    )
    for network in networks:
        ifnames = {nic.ifname for nic in broker.ledger.on_bridge(network.bridge)}
        if network.bridge_index and ifnames:
            broker.networks.adopt(network)
            try:
                await network.adopt(ifnames)
                if network in rebuilt:
                    _publish_again(broker, network)
            except (BrokerFailure, OSError) as err:
                # Its guests have their addresses; the others have their broker.
                _log.error("network %s was not taken over whole: %s", network.key, err)
        else:
            await network.down()
    broker.catch_up()
    _delete_lost_taps(broker, links)
    _delete_lost_bridges(broker)
    broker.networks.restore_host()
    for nic in list(broker.ledger):
        broker.expiry.add(nic)
    there_are = [nic.ifname for nic in broker.ledger]
    there_are += [network.bridge for network in broker.networks.all()]
    broker.hooks.recall(set(there_are))


def _finish(broker: Broker, nic: Nic, link: Link) -> None:
    """What the earlier broker was doing with one NIC."""
    if nic.state is State.QUARANTINED:
        if link.name != nic.ifname:
            broker.ledger.update(nic)
        return
    try:
        broker.provisioner.finish(nic, link)
    except NetlinkError as err:
        _log.error("%s: %s", nic.ifname, err)


def _rebuild_networks(
    broker: Broker, nics: list[Nic], networks: list[ManagedNetwork]
) -> list[ManagedNetwork]:
    """Those that have NICs and no record: by the configuration and the kernel."""
    known = {network.bridge for network in networks}
    found: list[ManagedNetwork] = []
    for nic in nics:
        definition = broker.config.networks.get(nic.network or "")
        if nic.bridge in known or definition is None or definition.mode is Mode.BRIDGE:
            continue
        known.add(nic.bridge)
        try:
            network = ManagedNetwork.rebuilt(
                broker.env, definition, nic.uid, nic.bridge
            )
        except (NetlinkError, OSError) as err:
            _log.error("network of %s: %s", nic.bridge, err)
            continue
        if network is not None and not any(_is_same(network, n) for n in networks):
            _log.warning("network %s had no record; it has one again", network.key)
            found.append(network)
    return found


def _recall_networks(broker: Broker, used: set[str]) -> list[ManagedNetwork]:
    """:param used: bridges with NICs: their files are kept, whatever their record
    is like, as their dnsmasq has them."""
    networks: list[ManagedNetwork] = []
    for bridge in sorted(os.listdir(broker.env.directory)):
        try:
            network = ManagedNetwork.recall(broker.env, bridge)
            rival = next((n for n in networks if _is_same(n, network)), None)
            if rival is not None:
                raise ValueError(f"{rival.bridge} is the same, or has its subnet")
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as err:
            path = os.path.join(broker.env.directory, bridge)
            _log.warning("%s is damaged and removed: %s", path, err)
            state_files.discard(f"{path}/network.json" if bridge in used else path)
            continue
        network.find_bridge()
        networks.append(network)
    return networks


def _publish_again(broker: Broker, network: ManagedNetwork) -> None:
    for nic in broker.ledger.on_bridge(network.bridge):
        if nic.mac is not None and nic.ipv4 is not None:
            network.add_guest(nic.ifname, nic.mac, nic.ipv4, nic.ipv6, nic.name)


def _is_same(one: ManagedNetwork, other: ManagedNetwork) -> bool:
    """Whether nftables could not have both."""
    if one.subnet6 is not None and one.subnet6 == other.subnet6:
        return True
    return one.key == other.key or one.subnet4.overlaps(other.subnet4)


def _delete_lost_taps(broker: Broker, links: dict[int, Link]) -> None:
    """Taps that bear our mark and have no record: nobody knows any more what they
    may, so that no frame passes, nobody could give them back, and they would
    count for no one. Only CAP_NET_ADMIN can set that mark."""
    for link in links.values():
        if (
            link.kind == "tun"
            and link.name.startswith(TAP_PREFIX)
            and link.alias.startswith(TAP_ALIAS)
            and broker.ledger.by_index(link.ifindex) is None
        ):
            try:
                broker.env.netlink.transact(
                    [rtnetlink.delete_link(link.ifindex, link.name)]
                )
            except NetlinkError as err:
                _log.debug("%s", err)  # it was going
                continue
            _log.warning(
                "%s had no record, and is taken away: %s", link.name, link.alias
            )


def _delete_lost_bridges(broker: Broker) -> None:
    """Bridges that bear our mark and have no record, if they have no port."""
    known = {network.bridge for network in broker.networks.all()}
    links = rtnetlink.links(broker.env.netlink)
    used = {link.master for link in links}
    for link in links:
        if (
            link.kind == "bridge"
            and link.name.startswith(BRIDGE_PREFIX)
            and link.alias.startswith(own_bridge.ALIAS)
            and link.name not in known
            and link.ifindex not in used
        ):
            try:
                broker.env.netlink.transact(
                    [rtnetlink.delete_link(link.ifindex, link.name)]
                )
            except NetlinkError as err:
                _log.debug("%s", err)


def remove_tables(broker: Broker) -> None:
    """Leave nothing in nftables; for a broker that ends with no NIC."""
    try:
        broker.env.nft.run("delete tables", ruleset.no_tables())
    except NftError as err:
        _log.warning("%s", err)
