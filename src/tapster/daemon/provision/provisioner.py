# SPDX-License-Identifier: LGPL-2.1-or-later
"""One NIC, made: a tap, wired, locked, told to everybody, and up. Or nothing.

The stages and their undo are in the order in which a frame could do harm:
all that checks a port is there before the port is up.
"""

from __future__ import annotations

import errno
import logging
import secrets

from ...errors import BrokerFailure, MacInUse, RequestError
from ...kernel import rtnetlink, tun
from ...kernel.netlink import NetlinkError
from ...kernel.nft import NftError
from ...kernel.nftelem import Element
from ...kernel.rtnetlink import Link
from ...model import Rate, State
from ...networks import addresses, elements, rates
from ...networks.host_context import HostContext
from ...networks.managed_network import ManagedNetwork
from ..nics import expected as tamper
from ..nics.ledger import Ledger, Nic
from ..resolve.bridges import Bridges
from . import stages
from .tap_fd import TapDescriptor

_log = logging.getLogger(__name__)


class Provisioner:
    """Makes NICs in one namespace, and removes what they left."""

    def __init__(self, env: HostContext, ledger: Ledger, bridges: Bridges) -> None:
        self._env = env
        self._ledger = ledger
        self._bridges = bridges
        self._locks_ports: bool | None = None  # not known before the first port

    def provision(
        self, nic: Nic, vnet_hdr: bool, network: ManagedNetwork | None
    ) -> TapDescriptor:
        """Make the tap and all that belongs to it, or leave nothing.

        :returns: the tap's descriptor, which the caller closes.
        :raises RequestError: with the answer for the caller.
        """
        held: list[TapDescriptor] = []

        def create_tap() -> None:
            held.append(TapDescriptor(tun.create(nic.ifname, vnet_hdr=vnet_hdr)))
            nic.ifindex = self._bridges.index_of(nic.ifname)

        def filter_port() -> None:
            entries = elements.of_port(nic.guest)
            self._env.sets.add(f"add port {nic.ifname}", elements.keys(entries))

        def publish_guest() -> None:
            if network is not None and nic.mac is not None and nic.ipv4 is not None:
                network.add_guest(nic.ifname, nic.mac, nic.ipv4, nic.ipv6, nic.name)

        def withdraw_guest() -> None:
            if network is not None:
                network.remove_guest(nic.ifname, nic.mac, nic.ipv4)

        steps = [
            stages.Stage("create", create_tap, lambda: held.pop().close()),
            stages.Stage("wire", lambda: self._wire(nic), stages.nothing),
            stages.Stage("filter", filter_port, lambda: self.delete_elements(nic)),
            stages.Stage("address", publish_guest, withdraw_guest),
            stages.Stage(
                "record",
                lambda: self._ledger.add(nic),
                lambda: self._ledger.remove(nic),
            ),
            stages.Stage("up", lambda: self._set_up(nic), stages.nothing),
        ]
        if nic.rate_egress or nic.rate_ingress:
            rate = Rate(nic.rate_egress, nic.rate_ingress)
            nic.rate_egress = nic.rate_ingress = 0
            steps.insert(
                2,
                stages.Stage(
                    "rate",
                    lambda: self.limit(nic, rate),
                    lambda: self.limit(nic, Rate()),
                ),
            )
        try:
            stages.run(steps)
        except BaseException as err:
            for tap in held:  # if its own stage failed halfway
                tap.close()
            if not isinstance(err, NetlinkError | NftError | OSError):
                raise
            _log.error("attach of %s to %s failed: %s", nic.ifname, nic.bridge, err)
            raise _explain(err, nic) from err
        return held[0]

    def _wire(self, nic: Nic) -> None:
        """Join the bridge, locked, before the tap can carry a frame.

        One batch; the tap is down, so nothing in it does harm alone. The
        alternative name comes last: it is for people, and may be refused.
        """
        nic.host_mac = addresses.host_side_mac(
            nic.mac or secrets.token_bytes(6).hex(":")
        )
        batch = [
            rtnetlink.set_link(
                nic.ifindex,
                nic.ifname,
                mac=nic.host_mac,
                mtu=nic.mtu,
                alias=tamper.alias(nic),
                master=nic.bridge_index,
                no_ipv6_address=True,
            ),
            rtnetlink.set_port(nic.ifindex, nic.ifname, **tamper.port_settings(nic)),
        ]
        if nic.mac is not None and not nic.trusted:
            batch.append(rtnetlink.add_fdb(nic.ifindex, nic.mac))
        batch.append(rtnetlink.add_altname(nic.ifindex, tamper.altname(nic)))
        try:
            self._env.netlink.transact(batch)
        except NetlinkError as err:
            if not err.operation.startswith("add alternative name"):
                raise
            _log.warning("%s", err)
        if not nic.trusted and (self._locks_ports is None or nic.mac is None):
            self._check_port(nic)

    def _check_port(self, nic: Nic) -> None:
        """A kernel ignores port settings that it does not know: look.

        Without "locked" nothing is handed out. Without "mab" a waiting port
        must not learn: its first MAC is then found through nftables alone.
        """
        link = rtnetlink.get_link(self._env.netlink, nic.ifindex)
        port = link.port if link is not None else {}
        if port.get(rtnetlink.IFLA_BRPORT_LOCKED) != 1:
            self._locks_ports = None
            raise OSError(
                errno.EOPNOTSUPP, "this kernel cannot lock bridge ports (it needs 5.18)"
            )
        self._locks_ports = True
        if nic.mac is None and port.get(rtnetlink.IFLA_BRPORT_MAB) != 1:
            self._env.netlink.transact(
                [rtnetlink.set_port(nic.ifindex, nic.ifname, learning=0)]
            )

    def _set_up(self, nic: Nic) -> None:
        self._env.netlink.transact(
            [rtnetlink.set_link(nic.ifindex, nic.ifname, up=True)]
        )

    # What is changed and taken away later

    def isolate(self, nic: Nic, isolated: bool) -> None:
        """Whether a port's guest reaches those of other ports; :raises NetlinkError."""
        self._env.netlink.transact(
            [rtnetlink.set_port(nic.ifindex, nic.ifname, isolated=int(isolated))]
        )

    def limit(self, nic: Nic, rate: Rate) -> None:
        """Hold a NIC to other rates than it has; the caller keeps the record.

        :raises NetlinkError, NftError: the kernel refused.
        """
        if rate.ingress != nic.rate_ingress:
            request = rates.lift_ingress(nic.ifindex, nic.ifname)
            if rate.ingress:
                request = rates.limit_ingress(
                    nic.ifindex, nic.ifname, rate.ingress, nic.mtu
                )
            self._env.netlink.transact([request])
            nic.rate_ingress = rate.ingress
        text = rates.change_limit(nic.ifname, nic.rate_egress, rate.egress)
        if not text:
            return
        before = nic.guest
        if rate.egress:  # before frames are sent there to be counted
            self._env.nft.run(f"limit {nic.ifname}", text)
        nic.rate_egress = rate.egress
        if self._ledger.by_ifname(nic.ifname) is nic:
            self.replace_elements(before, nic)
        if not rate.egress:
            self._env.nft.run(f"limit {nic.ifname}", text)

    def finish(self, nic: Nic, link: Link) -> None:
        """Do what an earlier broker wrote down and was killed before it did: a
        guest's first MAC and what it ended, another rate or isolation.

        :param link: the NIC's device, as it is.
        :raises NetlinkError: the kernel refused.
        """
        requests = []
        unlike = {change.what for change in tamper.changed_settings(nic, link.port)}
        if unlike and unlike <= {"learning", "mab", "isolated"}:
            settings = tamper.port_settings(nic)
            requests.append(rtnetlink.set_port(nic.ifindex, nic.ifname, **settings))
            if nic.state is State.ACTIVE and nic.mac is not None and not nic.trusted:
                entry = rtnetlink.add_fdb(nic.ifindex, nic.mac, replace=True)
                requests.append(entry)
        index, name = nic.ifindex, nic.ifname
        if nic.rate_ingress:
            limit = rates.limit_ingress(index, name, nic.rate_ingress, nic.mtu)
            requests.append(limit)
        elif link.qdisc == "tbf":
            requests.append(rates.lift_ingress(index, name))
        if requests:
            self._env.netlink.transact(requests)

    def replace_elements(self, before: elements.Guest, nic: Nic) -> None:
        """Have nftables know a port as it is now, and not as it was.

        :raises NetlinkError: the kernel refused, and nothing has changed.
        """
        old, new = elements.of_port(before), elements.of_port(nic.guest)
        add = [entry for entry in new if entry not in old]
        delete = [entry for entry in old if entry not in new]
        self._env.sets.change(
            f"change port {nic.ifname}", elements.keys(delete), elements.keys(add)
        )

    def delete_elements(self, nic: Nic) -> None:
        """Remove a port's elements from nftables, but for what another bridge's
        guest of the same MAC claims as well. Strike it off the ledger before."""
        self._delete_elements(nic, nic.guest)

    def shut(self, nic: Nic, guest: elements.Guest) -> None:
        """Have nftables let nothing of a port through that is in quarantine.

        :param guest: what it was before.
        """
        self._delete_elements(nic, guest)

    def _delete_elements(self, nic: Nic, guest: elements.Guest) -> None:
        of_port = elements.of_port(guest)
        if nic.mac is not None and self._ledger.knows_mac(nic.mac):
            for other in self._ledger:
                claims = elements.of_port(other.guest) if other.mac == nic.mac else []
                of_port = [e for e in of_port if e not in claims]
        entries = elements.keys(of_port)
        try:
            self._env.sets.delete(f"delete port {nic.ifname}", entries)
        except NetlinkError as err:
            _log.error("%s", err)
            for entry in entries:  # not all are there: each that is has to go
                self._delete_quietly(entry)
        if nic.rate_egress:
            try:
                self._env.nft.run(
                    f"forget the rate of {nic.ifname}", rates.delete_limit(nic.ifname)
                )
                nic.rate_egress = 0  # an undo of its stage comes after this one
            except NftError as err:
                _log.error("%s", err)
        if guest.waiting:
            self.forget_first_mac(nic)

    def forget_first_mac(self, nic: Nic) -> None:
        """Remove the MAC that a waiting port's guest showed, if it showed one."""
        self._delete_quietly(elements.Entry("first", (nic.ifname,)).element())

    def _delete_quietly(self, element: Element) -> None:
        try:
            self._env.sets.delete("forget", [element])
        except NetlinkError as err:
            _log.debug("%s", err)  # there was none


def _explain(err: Exception, nic: Nic) -> RequestError:
    """The caller's answer for a failure of the kernel."""
    if (
        isinstance(err, NetlinkError)
        and err.errno == errno.EEXIST
        and err.operation.startswith("add forwarding entry")
    ):
        return MacInUse(
            f"the bridge knows another station with the MAC address {nic.mac}",
            "leave the MAC out to be given one",
        )
    if isinstance(err, NetlinkError) and err.errno in (
        errno.ENOSPC,
        errno.EXFULL,
        errno.E2BIG,
    ):
        return BrokerFailure("the bridge has no port left", "a bridge takes 1023 ports")
    return BrokerFailure("the tap could not be made", "the broker's log has the reason")
