# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which forwards lead to a guest now: the nftables elements that open and shut them.

A forward is open while a guest of its name is attached to its network. Opening and
shutting follow the guests; the forwards of the configuration follow its reloads.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from ...kernel.nft import Nft, NftError
from ...model import Mode, Port
from ...networks import elements
from ...networks.guest_addresses import reservation_for
from ...policy.config.current import CurrentConfig
from ..nics.ledger import Ledger
from ..nics.nic import Nic
from .forward_table import ForwardTable, Row, key_of
from .host_port import forget_flows
from .networks import RunningNetworks

_log = logging.getLogger(__name__)


class OpenForwards:
    """Opens and shuts the forwards of one broker's table."""

    def __init__(
        self,
        table: ForwardTable,
        ledger: Ledger,
        networks: RunningNetworks,
        nft: Nft,
        current: CurrentConfig,
    ) -> None:
        """
        :param table: the forwards; `close` closes it, too.
        :param ledger: the NICs that forwards can lead to.
        :param networks: say whether a NIC's network forwards ports.
        :param nft: makes and deletes the elements.
        :param current: has the forwards of the configuration, and reservations.
        """
        self._table = table
        self._ledger = ledger
        self._networks = networks
        self._nft = nft
        self._current = current
        # One flow table after the other: a host may know very many flows.
        self._thread = ThreadPoolExecutor(1, "flows")  # started by its first work
        self._forgetting: Future[None] | None = None
        self.follow_configuration()

    def close(self) -> None:
        """Let the ports go; what nftables has stays."""
        self._thread.shutdown(cancel_futures=True)
        self._table.close()

    # As guests come and go

    def statements(self, nics: Iterable[Nic]) -> str:
        """Open the forwards of these NICs, in a transaction of the caller's.

        :param nics: all of them are on networks of mode `nat`.
        :returns: the statements for nftables. The rows count as open from now on.
        """
        text = ""
        for nic in nics:
            for row in self._table:
                if row.nic is None and self._may_lead_to(row, nic):
                    row.nic = nic
                    text += elements.forward("add", row.forward, nic.ipv4, nic.ipv6)
        return text

    def guest_attached(self, nic: Nic) -> None:
        """Open the forwards of a NIC that has become active."""
        if len(self._table) and self._has_way_in(nic):
            for row in self._table:
                if row.nic is None and self._may_lead_to(row, nic):
                    self._open(row, nic)

    def guest_gone(self, nic: Nic) -> None:
        """Shut the forwards of a NIC that is gone or in quarantine. A forward of the
        configuration may lead to another guest of that name from now on."""
        for row in self._table:
            if row.nic is not None and row.nic.ifname == nic.ifname:
                self._shut(row, row.nic)
                self.open_for_any_guest(row)

    # As rows come and go

    def open_for_any_guest(self, row: Row) -> None:
        """Open a forward if a guest that it is for is attached."""
        for nic in self._ledger:
            if (
                row.nic is None
                and self._may_lead_to(row, nic)
                and self._has_way_in(nic)
            ):
                self._open(row, nic)

    def delete(self, row: Row) -> None:
        """Shut a forward, and take it out of the table."""
        if row.nic is not None:
            self._shut(row, row.nic)
        self._table.delete(row)

    def follow_configuration(self) -> None:
        """Make the table have the forwards of the configuration, and no others
        without a user."""
        wanted = {
            key_of(forward.port): Row(name, None, forward)
            for name, definition in self._current.value.networks.items()
            for forward in definition.forward
        }
        for row in list(self._table):
            new = wanted.get(row.key)
            if row.uid is not None:
                if new is not None:
                    _log.error("port %s is a user's already", row.forward.port)
                    del wanted[row.key]
            elif new and (new.network, new.forward) == (row.network, row.forward):
                del wanted[row.key]
            else:
                self.delete(row)
        for row in wanted.values():
            self._table.insert_held(row)
            self.open_for_any_guest(row)

    # Whether a forward may be open

    def _may_lead_to(self, row: Row, nic: Nic) -> bool:
        """Whether a NIC is the guest of a forward, and the port is ours to forward."""
        if not row.matches(nic):
            return False
        if row.uid is None:
            return self._is_reserved_for(row, nic)
        try:
            row.hold_port()
        except OSError:
            # A program of the host bound the port while no broker ran: it came
            # first, and loses nothing to a user's guest.
            return False
        return True

    def _is_reserved_for(self, row: Row, nic: Nic) -> bool:
        """Whether a forward of the configuration may lead to that user's guest: if the
        guest's name is reserved for a user, to that user's alone."""
        definition = self._current.value.networks.get(row.network)
        if definition is None or nic.name not in definition.reservations:
            return True
        return reservation_for(definition, nic.name, nic.uid) is not None

    def _has_way_in(self, nic: Nic) -> bool:
        """Whether the network that a NIC is on forwards ports. What counts is how the
        network came up, not what the configuration says by now."""
        network = self._networks.network_of(nic)
        return network is not None and network.definition.mode is Mode.NAT

    # nftables, and the flows that the kernel knows

    def _open(self, row: Row, nic: Nic) -> None:
        text = elements.forward("add", row.forward, nic.ipv4, nic.ipv6)
        try:
            self._nft.run(f"open {row.forward}", text)
        except NftError as err:
            _log.error("%s", err)
            return
        row.nic = nic
        self._forget_flows(row.forward.port)

    def _shut(self, row: Row, nic: Nic) -> None:
        """:param nic: as the row has it."""
        row.nic = None
        text = elements.forward("delete", row.forward, nic.ipv4, nic.ipv6)
        try:
            self._nft.run(f"shut {row.forward}", text)
        except NftError as err:
            _log.error("%s", err)
        self._forget_flows(row.forward.port)

    def _forget_flows(self, port: Port) -> None:
        """Have flows to a port go where it leads now; in a thread."""
        self._forgetting = self._thread.submit(forget_flows, port)

    async def wait_for_flows(self) -> None:
        """Until known flows, too, follow all that was opened and shut so far."""
        if self._forgetting is not None:
            await asyncio.wrap_future(self._forgetting)
