# SPDX-License-Identifier: LGPL-2.1-or-later
"""The way out: a NIC that is to go, or is gone, and everything of it with it.

Whatever ends a NIC ends here: its guest that closed the descriptor, its owner, a
time that is over, the guard. The stages of `attach.py` are taken back, in the
opposite order.
"""

from __future__ import annotations

import asyncio
import errno
import logging

from ..errors import BrokerFailure, NoSuchNic
from ..kernel import rtnetlink
from ..kernel.netlink import NetlinkError, NetlinkSocket
from .audit.events import Events
from .audit.request_context import RequestContext
from .decide.closing import PAUSE, TRIES
from .decide.permissions import Permissions
from .decide.quota import target_of
from .nics.expected import is_tap_of
from .nics.ledger import Ledger
from .nics.nic import Nic
from .publish.hooks.lifecycle import Hooks
from .publish.networks import RunningNetworks
from .publish.open_forwards import OpenForwards

_log = logging.getLogger(__name__)


class Detacher:
    """Ends NICs."""

    def __init__(
        self,
        netlink: NetlinkSocket,
        ledger: Ledger,
        networks: RunningNetworks,
        forwards: OpenForwards,
        hooks: Hooks,
        permissions: Permissions,
        events: Events,
    ) -> None:
        self._netlink = netlink
        self._ledger = ledger
        self._networks = networks
        self._forwards = forwards
        self._hooks = hooks
        self._permissions = permissions
        self._events = events

    # A NIC that is to go

    async def detach(
        self, context: RequestContext, ifname: str, interactive: bool
    ) -> None:
        """Remove a NIC, for its owner, for root or for who manages it.

        :param context: who asks.
        :param ifname: the tap's name.
        :param interactive: whether polkit may ask the caller for a password.
        :raises NoSuchNic: there is none, or it is another's.
        """
        context.ifname = ifname
        nic = self._ledger.by_ifname(ifname)
        allowed = nic is not None and nic.uid == context.peer.uid
        if nic is not None and not allowed:
            allowed = await self._permissions.manage(
                context, target_of(nic), interactive
            )
            nic = self._ledger.by_ifname(ifname)  # it may have gone meanwhile
        if nic is None or not allowed:
            # On record even where there is none: the caller is told no.
            reason = "there is none" if nic is None else f"it is uid {nic.uid}'s"
            self._events.denied(context, reason)
            raise NoSuchNic("there is no such NIC", "'tapster ls' shows yours")
        self.take_away(nic, context)

    def take_away(self, nic: Nic, context: RequestContext | None = None) -> None:
        """Remove a tap, whoever holds its descriptor.

        :param context: the request to do so; None if nobody asked.
        :raises BrokerFailure: the kernel won't.
        """
        self._delete(nic)
        self.gone(nic, context)

    def expire(self, nic: Nic) -> None:
        """The time that a NIC was granted for is over."""
        try:
            self._delete(nic)
        except BrokerFailure as err:
            _log.error("%s: %s", nic.ifname, err)
            return
        self._events.about("expired", nic, "the time that it was granted for is over")
        self.gone(nic)

    def _delete(self, nic: Nic) -> None:
        """:raises BrokerFailure: the kernel won't."""
        link = rtnetlink.get_link(self._netlink, nic.ifindex)
        if not is_tap_of(nic, link):
            return
        try:
            self._netlink.transact([rtnetlink.delete_link(nic.ifindex, nic.ifname)])
        except NetlinkError as err:
            if err.errno != errno.ENODEV:  # it went by itself
                raise BrokerFailure("the tap could not be removed") from err

    # A NIC that is gone

    def gone(self, nic: Nic, context: RequestContext | None = None) -> None:
        """Clear up after a tap that does not exist any more. Any number of times.

        :param context: the request that ended it; None if nobody asked.
        """
        now = self._ledger.current(nic)
        if now is None:
            return
        self._ledger.remove(now)
        self._forwards.guest_gone(now)
        network = self._networks.network_of(now)
        if network is not None:
            network.remove_guest(now.ifname, now.mac, now.ipv4)
            self._networks.schedule_down(network)
        self._hooks.gone(now)
        if now.handed_out:  # otherwise nobody was told that it existed
            self._events.about("detached", now, context=context)

    def clear_if_gone(self, nic: Nic) -> bool:
        """See whether a NIC's tap is gone, and clear up if so."""
        if self._ledger.current(nic) is None:
            return True
        if is_tap_of(nic, rtnetlink.get_link(self._netlink, nic.ifindex)):
            return False
        self.gone(nic)
        return True

    async def wait_until_gone(self, nic: Nic) -> None:
        """Wait for a tap that was just closed, and until what hooks did for it is
        undone: its caller may ask again at once.

        :raises BrokerFailure: the kernel won't remove the tap.
        """
        for _ in range(TRIES):
            if self.clear_if_gone(nic):
                break
            await asyncio.sleep(PAUSE)
        else:
            self.take_away(nic)
        await self._hooks.ended(nic)
