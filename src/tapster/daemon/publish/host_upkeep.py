# SPDX-License-Identifier: LGPL-2.1-or-later
"""What networks that are up need of the host, kept as the host changes around them.

The host's own addresses may collide with a network's subnet; guests that get to the
Internet alone must not reach the host's other networks, which come and go; and another
program may switch off IP forwarding.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from ipaddress import IPv4Network, IPv6Network

from ...kernel import rtnetlink
from ...kernel.netlink import NetlinkError
from ...kernel.nft import NftError
from ...model import Egress, Mode
from ...networks import ruleset
from ...networks.host_context import HostContext
from ...networks.managed_network import ManagedNetwork

_log = logging.getLogger(__name__)

_GATHER = 0.2  # seconds in which changes of the host's addresses are gathered
_SUSTAIN = 5.0  # seconds between two checks that the host forwards


class HostUpkeep:
    """Looks after the host for the networks that are up."""

    def __init__(
        self,
        host: HostContext,
        up: Collection[ManagedNetwork],
        noted: Callable[[ManagedNetwork, str], None],
    ) -> None:
        """
        :param host: the kernel's interfaces.
        :param up: the networks that are up, now: a view, not a copy.
        :param noted: is called with a network and with what has become of it, in
            words for its users.
        """
        self._host = host
        self._up = up
        self._noted = noted
        self._closed: set[IPv4Network | IPv6Network] = set()  # as nftables has them
        self._looking: asyncio.TimerHandle | None = None
        self._sustaining: asyncio.TimerHandle | None = None

    def look_soon(self) -> None:
        """The host's addresses or routes have changed: look at them in a moment."""
        if self._looking is None and self._up:
            loop = asyncio.get_running_loop()
            self._looking = loop.call_later(_GATHER, self._look)

    def _look(self) -> None:
        self._looking = None
        try:
            used = list(rtnetlink.used_networks(self._host.netlink))
        except NetlinkError as err:
            _log.warning("the host's addresses: %s", err)
            return
        v4 = [(i, net) for i, net in used if isinstance(net, IPv4Network)]
        for network in self._up:
            if network.look_for_collision(v4):
                self._noted(network, _about_collision(network))
        self.close_host_networks()

    # Guests that get to the Internet alone

    def close_host_networks(self) -> None:
        """Have nftables know the host's networks as they are now."""
        before = self._closed
        try:
            text = self.closing_statements(self._up)
            if text:
                self._host.nft.run("tell the host's networks", text)
        except (NetlinkError, NftError) as err:
            self._closed = before  # so that the next time tries again
            _log.error("%s", err)

    def closing_statements(self, networks: Collection[ManagedNetwork]) -> str:
        """Close the host's own networks to guests that get to the Internet alone, in a
        transaction of the caller's.

        :param networks: all whose guests count.
        :returns: the statements for nftables; "" if nothing has to change.
        :raises NetlinkError: the kernel does not say what the host's networks are.
        """
        closed: set[IPv4Network | IPv6Network] = set()
        if any(n.definition.egress is Egress.INTERNET for n in networks):
            of_ours = {network.bridge_index for network in networks}
            closed = {
                net
                for index, net in rtnetlink.used_networks(self._host.netlink)
                if index and index not in of_ours and not net.is_link_local
            }
        if closed == self._closed:
            return ""
        self._closed = closed
        return ruleset.host_networks(closed)

    # IP forwarding

    def sustain_soon(self) -> None:
        """Begin to check, from time to time, that the host still forwards."""
        if self._sustaining is None and self._up:
            loop = asyncio.get_running_loop()
            self._sustaining = loop.call_later(_SUSTAIN, self._sustain)

    def _sustain(self) -> None:
        """Switch forwarding on again if a program that sets all sysctls anew has
        switched it off under a network that needs it."""
        self._sustaining = None
        if self._needs_forwarding():
            try:
                self._host.ip_forwarding.enable()
            except OSError as err:
                _log.error("forwarding is off and stays off: %s", err)
        self.sustain_soon()

    def _needs_forwarding(self) -> bool:
        return any(n.definition.mode is Mode.NAT for n in self._up)

    def restore(self) -> None:
        """Give the host back what no network that is up needs: forwarding as it was
        before, and routing without rules of ours. No network may be starting."""
        if not self._needs_forwarding():
            self._host.ip_forwarding.restore()
        if self._up or not self._host.routing:
            return
        try:
            self._host.nft.run("delete the inet table", ruleset.no_routing())
            self._host.routing = False
            self._closed = set()
        except NftError as err:
            _log.error("%s", err)

    def cancel(self) -> None:
        """Look after nothing any more."""
        for handle in (self._looking, self._sustaining):
            if handle is not None:
                handle.cancel()
        self._looking = self._sustaining = None


def _about_collision(network: ManagedNetwork) -> str:
    if network.collision is None:
        return f"its subnet {network.subnet4} is its own again"
    return f"its subnet {network.subnet4} is now also {network.collision} of this host"
