# SPDX-License-Identifier: LGPL-2.1-or-later
"""The netlink messages that make a tap again what it was made as. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from ...kernel import rtnetlink
from ...kernel.netlink import Request
from ...model import State
from ..nics import expected
from ..nics.expected import ALIAS, BRIDGE, MAC, MTU, NAME, UP, Drift
from ..nics.nic import Nic


def has_entry(nic: Nic) -> bool:
    """Whether a NIC is to have a forwarding entry of its own."""
    return nic.state is State.ACTIVE and not nic.trusted and nic.mac is not None


def restore(nic: Nic, drift: Sequence[Drift]) -> list[Request]:
    """Put back what can be put back. A tap that was off its bridge goes down first,
    and comes up when its port is locked again."""
    what = {d.what for d in drift}
    index, name = nic.ifindex, nic.ifname
    joins = BRIDGE in what
    requests = [rtnetlink.set_link(index, name, up=False)] if joins else []
    requests += _restore_link(nic, what)
    settings = expected.port_settings(nic)
    if joins or what & settings.keys():
        requests.append(rtnetlink.set_port(index, name, **settings))
    if joins and has_entry(nic):
        requests.append(rtnetlink.add_fdb(index, str(nic.mac), replace=True))
    if joins or UP in what:
        requests.append(rtnetlink.set_link(index, name, up=True))
    return requests


def _restore_link(nic: Nic, what: set[str]) -> list[Request]:
    """One message for everything that is a property of the device itself."""
    clear = sum(bit for flag, bit in expected.FLAGS.items() if flag in what)
    if not (clear or what & {MAC, MTU, NAME, ALIAS, BRIDGE}):
        return []
    return [
        rtnetlink.set_link(
            nic.ifindex,
            nic.ifname,
            mac=nic.host_mac if MAC in what else None,
            mtu=nic.mtu if MTU in what else None,
            name=nic.ifname if NAME in what else None,
            alias=nic.alias if ALIAS in what else None,
            master=nic.bridge_index if BRIDGE in what else None,
            clear=clear,
        )
    ]


def cut(nic: Nic) -> Request:
    """Take a port off its bridge, and down."""
    return rtnetlink.set_link(nic.ifindex, nic.ifname, master=0, up=False)
