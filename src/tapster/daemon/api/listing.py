# SPDX-License-Identifier: LGPL-2.1-or-later
"""Lists what there is, as far as the caller may know of it."""

from __future__ import annotations

from collections.abc import Callable

from ...kernel import rtnetlink
from ...kernel.netlink import NetlinkSocket
from ...model import BRIDGE_PREFIX, Mode, NetworkDefinition, Peer
from ...networks.managed_network import ManagedNetwork, instance_key
from ...policy.config.current import CurrentConfig
from ...policy.core.rulebook import Target
from ...version import __version__
from ...wire import objects as wire
from ..decide.judge import Judge
from ..decide.quota import target_of
from ..decide.visibility import Visibility
from ..identify.accounts import user_name
from ..nics.ledger import Ledger
from ..publish.forwards import ForwardRequests
from ..publish.networks import RunningNetworks
from ..resolve.bridges import Bridges
from . import views

# From so many NICs on, the kernel is asked once for all links instead of for each.
_MANY = 17

Sees = Callable[[Target], bool]


class Listing:
    """Answers the methods that only look."""

    def __init__(
        self,
        tier: str,
        current: CurrentConfig,
        netlink: NetlinkSocket,
        ledger: Ledger,
        networks: RunningNetworks,
        bridges: Bridges,
        forwards: ForwardRequests,
        judge: Judge,
        visibility: Visibility,
    ) -> None:
        """
        :param tier: "system" or "rootless".
        :param current: the configuration that holds now.
        :param netlink: to look links up.
        :param ledger: the NICs there are.
        :param networks: those of ours that are up.
        :param bridges: the host's.
        :param forwards: those that there are, and who sees which.
        :param judge: says what a caller may use.
        :param visibility: says what of others' a caller sees.
        """
        self._tier = tier
        self._current = current
        self._netlink = netlink
        self._ledger = ledger
        self._networks = networks
        self._bridges = bridges
        self._forwards = forwards
        self._judge = judge
        self._visibility = visibility

    def info(self, peer: Peer) -> wire.Info:
        """What this broker is, and what a caller may use."""
        bridges = [
            link.name
            for link in rtnetlink.links(self._netlink)
            if link.kind == "bridge" and not link.name.startswith(BRIDGE_PREFIX)
        ]
        return {
            "version": __version__,
            "tier": self._tier,
            "networks": [
                wire.Network(
                    definition.name,
                    definition.mode.value,
                    decision.max_nics or 0,
                    self._ledger.count(peer.uid, definition.name),
                )
                for definition, decision in self._judge.usable_networks(peer)
            ],
            "bridges": self._judge.usable_bridges(peer, bridges),
        }

    async def nics(self, peer: Peer) -> list[wire.Nic]:
        """The caller's NICs, and those that it manages."""
        sees = await self._visibility.of_others(peer)
        shown = [n for n in self._ledger if n.uid == peer.uid or sees(target_of(n))]
        if len(shown) >= _MANY:
            links = {link.ifindex: link for link in rtnetlink.links(self._netlink)}
            return [views.nic(nic, links.get(nic.ifindex)) for nic in shown]
        return [
            views.nic(
                nic, rtnetlink.get_link(self._netlink, nic.ifindex, counters=True)
            )
            for nic in shown
        ]

    async def networks(self, peer: Peer) -> list[wire.NetworkInfo]:
        """The caller's instance of each network that it may use, up or not; and every
        other network that is up and that it manages."""
        sees = await self._visibility.of_others(peer)
        told: list[wire.NetworkInfo] = []
        shown: set[str] = set()
        for definition, decision in self._judge.usable_networks(peer):
            key = instance_key(definition, peer.uid)
            running, most = self._networks.get(key), decision.max_nics
            if running is not None:
                told.append(self._running(peer, sees, running, most))
            else:
                told.append(self._not_running(peer, sees, definition, most))
            shown.add(key)
        told += [
            self._running(peer, sees, running, None)
            for running in self._networks.all()
            if running.key not in shown and sees(Target(network=running.name))
        ]
        return told

    async def forwards(self, peer: Peer) -> list[wire.ForwardInfo]:
        """The caller's forwards, and those that it manages."""
        sees = await self._visibility.of_others(peer)
        return [
            views.forward(row, _name(views.forward_owner(row)))
            for row in self._forwards.visible_to(peer, sees)
        ]

    def _running(
        self, peer: Peer, sees: Sees, running: ManagedNetwork, max_nics: int | None
    ) -> wire.NetworkInfo:
        configured = self._current.value.networks.get(running.name)
        return views.network(
            running.definition,
            running,
            views.running_state(running, configured),
            user=_name(running.uid),
            forwards=self._forwards_to(peer, sees, running.name, running.uid),
            max_nics=max_nics,
            nics=self._count(peer, running.name, running.uid),
        )

    def _not_running(
        self,
        peer: Peer,
        sees: Sees,
        definition: NetworkDefinition,
        max_nics: int | None,
    ) -> wire.NetworkInfo:
        state = views.ShownState("down", [])
        if definition.mode is Mode.BRIDGE:
            link = self._bridges.find(definition.bridge or "")
            state = views.bridge_state(definition, link)
        return views.network(
            definition,
            None,
            state,
            user=None,
            forwards=self._forwards_to(peer, sees, definition.name, None),
            max_nics=max_nics,
            nics=self._count(peer, definition.name, None),
        )

    def _forwards_to(
        self, peer: Peer, sees: Sees, network: str, uid: int | None
    ) -> list[str]:
        """:param uid: whose instance it is; None: it is nobody's own."""
        return [
            str(row.forward)
            for row in self._forwards.visible_to(peer, sees)
            if row.network == network and row.uid in (None, uid, peer.uid)
        ]

    def _count(self, peer: Peer, network: str, uid: int | None) -> int:
        """Count the caller's NICs on a network; for root, everybody's.

        :param uid: whose instance it is; None: it is nobody's own.
        """
        return sum(
            nic.network == network
            and (peer.is_root or nic.uid == peer.uid)
            and (uid is None or nic.uid == uid)
            for nic in self._ledger
        )


def _name(uid: int | None) -> str | None:
    return user_name(uid) if uid is not None else None
