# SPDX-License-Identifier: LGPL-2.1-or-later
"""One NIC, made: a tap, wired, locked, told to everybody, and up. Or nothing.

The stages are in the order in which a frame could do harm: everything that checks
a port is in place before the port is up.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from dataclasses import replace

from ...errors import BrokerFailure, MacInUse, RequestError
from ...kernel import rtnetlink, tun
from ...kernel.netlink import NetlinkError, NetlinkSocket
from ...kernel.nft import NftError
from ...networks import rates
from ...networks.managed_network import ManagedNetwork
from ..nics import expected
from ..nics.ledger import Ledger
from ..nics.nic import Nic
from ..resolve.bridges import Bridges
from . import stages
from .stages import Stage, nothing_to_undo
from .tap_fd import TapDescriptor

_log = logging.getLogger(__name__)

_NO_ROOM = (errno.ENOSPC, errno.EXFULL, errno.E2BIG)  # what a full bridge says


class Provisioner:
    """Makes NICs in one network namespace."""

    def __init__(
        self, netlink: NetlinkSocket, ledger: Ledger, bridges: Bridges
    ) -> None:
        self.netlink = netlink
        self.ledger = ledger
        self.bridges = bridges
        # Whether this kernel locks bridge ports; None before the first port.
        self.locks_ports: bool | None = None

    def provision(
        self, nic: Nic, vnet_hdr: bool, network: ManagedNetwork | None
    ) -> tuple[TapDescriptor, Nic]:
        """Make the tap and all that belongs to it, or leave nothing.

        :param nic: as `allocate/` planned it.
        :param vnet_hdr: whether frames carry a virtio-net header.
        :param network: that tells DHCP and DNS of it; None on a Linux bridge.
        :returns: the tap's descriptor, which the caller closes, and the NIC as it
            is in the ledger.
        :raises RequestError: with the answer for the caller; nothing is left.
        """
        making = _Making(self, nic, vnet_hdr, network)
        try:
            stages.run(list(making.stages()))
        except BaseException as err:
            making.close_tap()  # if its own stage failed halfway
            if not isinstance(err, NetlinkError | NftError | OSError):
                raise
            _log.error("attach of %s to %s failed: %s", nic.ifname, nic.bridge, err)
            raise _explain(err, nic) from err
        return making.tap, making.nic


class _Making:
    """One NIC on its way: the stages, and what they have made so far."""

    tap: TapDescriptor

    def __init__(
        self,
        shop: Provisioner,
        nic: Nic,
        vnet_hdr: bool,
        network: ManagedNetwork | None,
    ) -> None:
        self.nic = nic
        self._shop = shop
        self._netlink = shop.netlink
        self._ledger = shop.ledger
        self._vnet_hdr = vnet_hdr
        self._network = network

    def stages(self) -> Iterator[Stage]:
        """In this order, and undone in the opposite one."""
        yield Stage("create", self._create_tap, self.close_tap)
        yield Stage("wire", self._wire, nothing_to_undo)
        if self.nic.rate_egress or self.nic.rate_ingress:
            yield Stage("rate", self._limit, self._lift_limit)
        yield Stage("filter", self._filter, self._stop_filtering)
        yield Stage("address", self._publish, self._withdraw)
        yield Stage("record", self._record, self._strike_off)
        yield Stage("up", self._set_up, nothing_to_undo)

    # create

    def _create_tap(self) -> None:
        fd = tun.create(self.nic.ifname, vnet_hdr=self._vnet_hdr)
        self.tap = TapDescriptor(fd)
        index = self._shop.bridges.index_of(self.nic.ifname)
        self.nic = replace(self.nic, ifindex=index)

    def close_tap(self) -> None:
        """Close the tap if it is there, and with it remove the device."""
        if hasattr(self, "tap"):
            self.tap.close()

    # wire

    def _wire(self) -> None:
        """Join the bridge, locked, before the tap can carry a frame.

        One batch; the tap is down, so nothing in it does harm alone. The
        alternative name comes last: it is for people, and may be refused.
        """
        nic = self.nic
        batch = [
            rtnetlink.set_link(
                nic.ifindex,
                nic.ifname,
                mac=nic.host_mac,
                mtu=nic.mtu,
                alias=nic.alias,
                master=nic.bridge_index,
                no_ipv6_address=True,
            ),
            rtnetlink.set_port(nic.ifindex, nic.ifname, **expected.port_settings(nic)),
        ]
        if nic.mac is not None and not nic.trusted:
            batch.append(rtnetlink.add_fdb(nic.ifindex, nic.mac))
        batch.append(rtnetlink.add_altname(nic.ifindex, nic.altname))
        try:
            self._netlink.transact(batch)
        except NetlinkError as err:
            if not err.operation.startswith("add alternative name"):
                raise
            _log.warning("%s", err)
        if not nic.trusted and (self._shop.locks_ports is None or nic.mac is None):
            self._check_port()

    def _check_port(self) -> None:
        """See that the kernel took the settings: it ignores those it does not know.

        Without "locked" nothing is handed out. Without "mab" a waiting port must not
        learn: its guest's first MAC is then found through nftables alone.
        """
        nic, shop = self.nic, self._shop
        link = rtnetlink.get_link(self._netlink, nic.ifindex)
        port = link.port if link is not None else {}
        if port.get(rtnetlink.IFLA_BRPORT_LOCKED) != 1:
            shop.locks_ports = None
            raise OSError(
                errno.EOPNOTSUPP, "this kernel cannot lock bridge ports (it needs 5.18)"
            )
        shop.locks_ports = True
        if nic.mac is None and port.get(rtnetlink.IFLA_BRPORT_MAB) != 1:
            self._netlink.transact(
                [rtnetlink.set_port(nic.ifindex, nic.ifname, learning=0)]
            )

    # rate

    def _limit(self) -> None:
        nic = self.nic
        if nic.rate_ingress:
            request = rates.limit_ingress(
                nic.ifindex, nic.ifname, nic.rate_ingress, nic.mtu
            )
            self._netlink.transact([request])
        self._ledger.ports.limit(nic.ifname, 0, nic.rate_egress)

    def _lift_limit(self) -> None:
        # What is for the guest waits at its tap, and goes with it.
        self._ledger.ports.limit(self.nic.ifname, self.nic.rate_egress, 0)

    # filter

    def _filter(self) -> None:
        self._ledger.ports.add(self.nic)

    def _stop_filtering(self) -> None:
        self._ledger.ports.remove(self.nic, self._ledger.same_mac(self.nic))

    # address

    def _publish(self) -> None:
        nic = self.nic
        if self._network is not None and nic.mac is not None and nic.ipv4 is not None:
            self._network.add_guest(nic.ifname, nic.mac, nic.ipv4, nic.ipv6, nic.name)

    def _withdraw(self) -> None:
        if self._network is not None:
            nic = self.nic
            self._network.remove_guest(nic.ifname, nic.mac, nic.ipv4)

    # record

    def _record(self) -> None:
        self._ledger.add(self.nic)

    def _strike_off(self) -> None:
        self._ledger.withdraw(self.nic)

    # up

    def _set_up(self) -> None:
        nic = self.nic
        self._netlink.transact([rtnetlink.set_link(nic.ifindex, nic.ifname, up=True)])


def _explain(err: Exception, nic: Nic) -> RequestError:
    """The caller's answer for a failure of the kernel."""
    if isinstance(err, NetlinkError):
        if err.errno == errno.EEXIST and err.operation.startswith(
            "add forwarding entry"
        ):
            return MacInUse(
                f"the bridge knows another station with the MAC address {nic.mac}",
                "leave the MAC out to be given one",
            )
        if err.errno in _NO_ROOM:
            return BrokerFailure(
                "the bridge has no port left", "a bridge takes 1023 ports"
            )
    return BrokerFailure("the tap could not be made", "the broker's log has the reason")
