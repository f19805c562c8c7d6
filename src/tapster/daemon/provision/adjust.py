# SPDX-License-Identifier: LGPL-2.1-or-later
"""Changes of a NIC whose guest runs: its isolation, its rates; and what an earlier
broker had begun to change."""

from __future__ import annotations

from typing import Any

from ...kernel import rtnetlink
from ...kernel.netlink import NetlinkSocket, Request
from ...kernel.rtnetlink import Link
from ...model import Rate, State
from ...networks import rates
from ..nics import expected
from ..nics.ledger import Ledger
from ..nics.nic import Nic
from . import stages
from .stages import Stage, nothing_to_undo


class Adjuster:
    """Changes NICs in one network namespace."""

    def __init__(self, netlink: NetlinkSocket, ledger: Ledger) -> None:
        self._netlink = netlink
        self._ledger = ledger

    def isolate(self, nic: Nic, isolated: bool) -> Nic:
        """Set whether a port's guest is kept from those of other ports.

        :returns: the NIC as it is from now on.
        :raises OSError: the kernel refused, or the record can't be written; nothing
            has changed.
        """

        def set_port(value: bool) -> None:
            index, name = nic.ifindex, nic.ifname
            request = rtnetlink.set_port(index, name, isolated=int(value))
            self._netlink.transact([request])

        port = Stage("port", lambda: set_port(isolated), lambda: set_port(nic.isolated))
        return self._change(nic, [port], isolated=isolated)

    def limit(self, nic: Nic, rate: Rate) -> Nic:
        """Hold a NIC to other rates than it has.

        :returns: the NIC as it is from now on.
        :raises OSError, NftError: the kernel refused, or the record can't be written;
            nothing has changed.
        """
        had, ports, name = nic.rate, self._ledger.ports, nic.ifname
        steps = []
        if rate.ingress != had.ingress:
            steps.append(
                Stage(
                    "ingress",
                    lambda: self._netlink.transact([_ingress(nic, rate.ingress)]),
                    lambda: self._netlink.transact([_ingress(nic, had.ingress)]),
                )
            )
        # The port's elements send frames to the limit: it is there before them, and
        # goes after them.
        if rate.egress:
            steps.append(
                Stage(
                    "egress",
                    lambda: ports.limit(name, had.egress, rate.egress),
                    lambda: ports.limit(name, rate.egress, had.egress),
                )
            )
        nic = self._change(
            nic, steps, rate_egress=rate.egress, rate_ingress=rate.ingress
        )
        if not rate.egress:
            ports.limit(name, had.egress, 0)
        return nic

    def _change(self, nic: Nic, steps: list[Stage], **changes: Any) -> Nic:
        """Change the kernel and then the ledger, or nothing: the guard would take a
        difference between them for another program's doing."""
        changed: list[Nic] = []

        def transition() -> None:
            changed.append(self._ledger.transition(nic, **changes))

        stages.run([*steps, Stage("ledger", transition, nothing_to_undo)])
        return changed[0]

    def finish(self, nic: Nic, link: Link) -> None:
        """Do what an earlier broker wrote down and was killed before it did: what
        follows a guest's first MAC, another rate or isolation.

        :param link: the NIC's device, as it is.
        :raises NetlinkError: the kernel refused.
        """
        requests = []
        unlike = {drift.what for drift in expected.port_drift(nic, link.port)}
        if unlike and unlike <= {"learning", "mab", "isolated"}:
            settings = expected.port_settings(nic)
            requests.append(rtnetlink.set_port(nic.ifindex, nic.ifname, **settings))
            if nic.state is State.ACTIVE and nic.mac is not None and not nic.trusted:
                entry = rtnetlink.add_fdb(nic.ifindex, nic.mac, replace=True)
                requests.append(entry)
        if nic.rate_ingress or link.qdisc == "tbf":
            requests.append(_ingress(nic, nic.rate_ingress))
        if requests:
            self._netlink.transact(requests)


def _ingress(nic: Nic, rate: int) -> Request:
    """Hold what is for a guest to so many bit/s; 0 is no limit."""
    if not rate:
        return rates.lift_ingress(nic.ifindex, nic.ifname)
    return rates.limit_ingress(nic.ifindex, nic.ifname, rate, nic.mtu)
