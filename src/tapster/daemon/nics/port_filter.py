# SPDX-License-Identifier: LGPL-2.1-or-later
"""What nftables knows of each port: the elements of its sets, and its rate limit.

Only the ledger calls this, and what makes, adjusts or admits a port. A port's
elements follow from its NIC alone (`networks/elements.py`), so a change of a NIC is
the difference between the elements before and after it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from ...kernel.netlink import NetlinkError
from ...kernel.nft import Nft, NftError
from ...kernel.nftelem import Element, ElementSocket
from ...networks import elements, rates
from .nic import Nic

_log = logging.getLogger(__name__)


class PortFilter:
    """All ports' elements, in one network namespace."""

    def __init__(self, sets: ElementSocket, nft: Nft) -> None:
        """:param sets, nft: stay the caller's to close."""
        self._sets = sets
        self._nft = nft

    def add(self, nic: Nic) -> None:
        """Have a new port's frames checked.

        :raises NetlinkError: the kernel refused, and nothing has changed.
        """
        entries = elements.of_port(nic.guest)
        self._sets.add(f"add port {nic.ifname}", elements.keys(entries))

    def replace(self, before: Nic, after: Nic) -> None:
        """Have a port checked by what is true after a change of its NIC.

        :raises NetlinkError: the kernel refused, and nothing has changed.
        """
        if before.guest == after.guest:
            return
        old, new = elements.of_port(before.guest), elements.of_port(after.guest)
        add = [entry for entry in new if entry not in old]
        delete = [entry for entry in old if entry not in new]
        self._sets.change(
            f"change port {after.ifname}", elements.keys(delete), elements.keys(add)
        )

    def remove(self, nic: Nic, others: Iterable[Nic]) -> None:
        """Let nothing of a port pass any more. What can't be removed is logged.

        :param others: NICs of other bridges with the same MAC: what of the sets
            belongs to a MAC, and is theirs too, stays.
        """
        of_port = elements.of_port(nic.guest)
        for other in others:
            theirs = elements.of_port(other.guest)
            of_port = [entry for entry in of_port if entry not in theirs]
        entries = elements.keys(of_port)
        try:
            self._sets.delete(f"delete port {nic.ifname}", entries)
        except NetlinkError as err:
            _log.error("%s", err)
            for entry in entries:  # one is missing: each of the others has to go
                self._delete_quietly(entry)
        if nic.guest.waiting:
            self.forget_first_mac(nic)

    def forget_first_mac(self, nic: Nic) -> None:
        """Remove the MAC that a waiting port's guest showed, if it showed one."""
        self._delete_quietly(elements.Entry("first", (nic.ifname,)).element())

    def _delete_quietly(self, element: Element) -> None:
        try:
            self._sets.delete("forget", [element])
        except NetlinkError as err:
            _log.debug("%s", err)  # it was not there

    def limit(self, ifname: str, before: int, after: int) -> None:
        """Hold what a port's guest sends to another rate. Frames are sent to the
        limit by the port's elements: add it before them, remove it after them.

        :param before, after: bit/s; 0 is no limit.
        :raises NftError: nftables refused, and nothing has changed.
        """
        text = rates.change_limit(ifname, before, after)
        if text:
            self._nft.run(f"limit {ifname}", text)

    def forget_limit(self, nic: Nic) -> None:
        """Remove the limit of a port that is gone, if it has one."""
        if nic.rate_egress:
            try:
                self._nft.run(
                    f"forget the rate of {nic.ifname}", rates.delete_limit(nic.ifname)
                )
            except NftError as err:
                _log.error("%s", err)
