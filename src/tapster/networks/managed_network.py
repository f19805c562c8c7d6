# SPDX-License-Identifier: LGPL-2.1-or-later
"""A network of ours: a bridge, a subnet, dnsmasq, and, with NAT, a way out.

An instance comes up with its first NIC and goes down after its last. Each part has
its own module: the record (network_record), the subnets (subnets), the bridge
(own_bridge), dnsmasq (dnsmasq, dnsmasq_process) and what it is told of guests
(guest_files), what nftables is told (elements). Here is in which order they come
and go.
"""

from __future__ import annotations

import logging
import os
import shutil
from ipaddress import IPv4Network, IPv6Network

from ..errors import BrokerFailure
from ..kernel import rtnetlink, sysctl
from ..model import Egress, Mode, NetworkDefinition, Scope
from . import addresses, dnsmasq, elements, own_bridge, ruleset
from .definition_changes import LIVE, differences, with_properties
from .dnsmasq_launch import check_capabilities
from .dnsmasq_process import DnsmasqProcess
from .guest_addresses import GuestAddresses
from .guest_files import GuestFiles, HeldLease, give_back
from .host_context import HostContext
from .network_record import NetworkRecord, read_record, write_record
from .own_bridge import OwnBridge
from .state_store import NetworkState
from .subnets import choose_ipv4, rival_of

_log = logging.getLogger(__name__)

MTU = 1500  # bytes


def instance_key(definition: NetworkDefinition, uid: int) -> str:
    """The key by which an instance is found: a user's own, or the one that all share.

    :param definition: of the network.
    :param uid: of the user who asks.
    """
    if definition.scope is Scope.SHARED:
        return f"{definition.name}.shared"
    return f"{definition.name}-{uid}"


class ManagedNetwork:
    """One instance. Its fields are the daemon's to read, and nobody else's to set."""

    def __init__(
        self,
        host: HostContext,
        definition: NetworkDefinition,
        uid: int,
        bridge: str | None = None,
    ) -> None:
        """
        :param host: what it shares with the broker's other instances.
        :param definition: of the network.
        :param uid: of the user who asks for it.
        :param bridge: the name of its bridge; None: the one that follows from the
            seed, which may not be that of an instance that an earlier broker made.
        """
        self.definition = definition
        self.uid = uid if definition.scope is Scope.USER else None  # None: shared
        self.key = instance_key(definition, uid)
        self.bridge = bridge or own_bridge.name_of(host.store.seed, self.key)
        self.subnet4: IPv4Network = addresses.POOLS[0]
        self.subnet6: IPv6Network | None = None
        self.is_up = False
        self.collision: str | None = None  # who else has the subnet by now
        self.dnsmasq = DnsmasqProcess(self._settings, host.launcher)
        self._host = host
        self._device = OwnBridge(host.netlink, self.bridge, self.key)
        self._guests = GuestFiles(self.directory, definition.full_domain)
        self._state = NetworkState()

    @property
    def name(self) -> str:
        """The name of the network, which instances of several users share."""
        return self.definition.name

    @property
    def bridge_index(self) -> int:
        """The index of its bridge; 0 while there is none."""
        return self._device.index

    @property
    def directory(self) -> str:
        """Where its record and dnsmasq's files are."""
        return os.path.join(self._host.directory, self.bridge)

    @property
    def mtu(self) -> int:
        """Of the bridge and its ports, in bytes."""
        return self.definition.mtu or MTU

    @property
    def is_routed(self) -> bool:
        """Whether guests get outside by themselves."""
        return (
            self.definition.mode is Mode.NAT
            and self.definition.egress is not Egress.NONE
        )

    @property
    def rules(self) -> elements.Network:
        """What nftables is told of it."""
        return elements.Network(
            self.bridge,
            self.subnet4,
            self.subnet6,
            routed=self.is_routed,
            internet_only=self.definition.egress is Egress.INTERNET,
            isolating=self.definition.is_isolating,
            host_access=self.definition.host_access,
        )

    # Coming up and going down

    async def up(self) -> None:
        """Bring it all up, or leave nothing of it.

        :raises AddressesExhausted: no subnet is free.
        :raises BrokerFailure: the kernel or dnsmasq would not.
        """
        check_capabilities(self._host.launcher, self.name)
        self._state = self._host.store.load(self.key)
        self._choose_subnets()
        try:
            self._write_record()
            self._make_bridge()
            text = elements.add_network(self.rules)
            if not self._host.routing:
                text = ruleset.routing() + text
            self._host.nft.run(f"add network {self.key}", text)
            self._host.routing = True
            if self.definition.mode is Mode.NAT:
                self._host.ip_forwarding.enable()
            await self.dnsmasq.start()
        except BaseException as err:
            await self.down()
            if isinstance(err, OSError):
                raise BrokerFailure(
                    f"network {self.key} did not come up: {err}"
                ) from err
            raise
        self.is_up = True
        _log.info(
            "network %s is up: bridge %s, %s", self.key, self.bridge, self.subnet4
        )

    async def down(self) -> None:
        """Take it apart, whatever of it exists."""
        self.is_up = False
        await self.dnsmasq.stop()
        try:
            self._host.nft.run(
                f"delete network {self.key}", elements.delete_network(self.rules)
            )
        except Exception as err:  # noqa: BLE001 - it may never have been added
            _log.debug("%s", err)
        self._device.delete()
        shutil.rmtree(self.directory, ignore_errors=True)
        _log.info("network %s is down", self.key)

    def _choose_subnets(self) -> None:
        seed, last = self._host.store.seed, self._state.subnet4
        used = [net for _, net in rtnetlink.used_networks(self._host.netlink)]
        used += self._host.avoid
        self.subnet4 = choose_ipv4(self.definition, self.key, seed, used, last)
        if self.subnet4 != last:
            if last is not None and self.definition.subnet is None:
                _log.warning(
                    "subnet %s of %s is in use now; taking %s",
                    *(last, self.key, self.subnet4),
                )
            self._state = NetworkState(self.subnet4)
            self._host.store.save(self.key, self._state)
        self.subnet6 = None
        if self.definition.ipv6 and _makes_ipv6_devices():
            own = addresses.unique_local_subnet(seed, self.key)
            self.subnet6 = self.definition.subnet6 or own

    def _make_bridge(self) -> None:
        mac = next(addresses.guest_macs(self._host.store.seed, "bridge", self.key))
        own = own_bridge.host_addresses(self.subnet4, self.subnet6)
        self._device.make(mac, self.mtu, own)

    def _write_record(self) -> None:
        write_record(
            self.directory,
            NetworkRecord(
                self.definition, self.uid, self.bridge, self.subnet4, self.subnet6
            ),
        )

    # What an earlier broker left

    @classmethod
    def recall(cls, host: HostContext, bridge: str) -> ManagedNetwork:
        """Make the instance that an earlier broker wrote down for a bridge.

        :raises ValueError: the record is of no use.
        :raises OSError: there is none.
        """
        record = read_record(os.path.join(host.directory, bridge))
        network = cls(host, record.definition, record.uid or 0, bridge)
        network.subnet4, network.subnet6 = record.subnet4, record.subnet6
        return network

    @classmethod
    def rebuilt(
        cls, host: HostContext, definition: NetworkDefinition, uid: int, bridge: str
    ) -> ManagedNetwork | None:
        """Make the instance of a bridge of ours whose record is lost from what the
        kernel has of it, and write its record again.

        :param host: what it shares with the broker's other instances.
        :param definition: of the network.
        :param uid: of the user whose NIC is on the bridge.
        :param bridge: the bridge's name.
        :returns: the instance; None: the kernel has too little of it.
        :raises OSError: the kernel does not say, or the record can't be written.
        """
        network = cls(host, definition, uid, bridge)
        if not network.find_bridge():
            return None
        subnets = network._device.subnets()
        v4 = [net for net in subnets if isinstance(net, IPv4Network)]
        v6 = [n for n in subnets if isinstance(n, IPv6Network) and n.prefixlen == 64]
        if not v4:
            return None
        network.subnet4 = v4[0]
        network.subnet6 = v6[0] if v6 else None
        network._write_record()
        return network

    def find_bridge(self) -> bool:
        """Whether the bridge of a recalled instance is there, and is ours."""
        return self._device.find()

    async def adopt(self, ifnames: set[str]) -> None:
        """Go on with a recalled instance whose bridge is there.

        Call `dnsmasq.reattach` before.

        :param ifnames: the taps of the guests that it has.
        :raises OSError: its files can't be written.
        """
        self.is_up = True
        self._state = self._host.store.load(self.key)
        if self.definition.mode is Mode.NAT:
            self._host.ip_forwarding.enable()
        dnsmasq.prepare_directory(self._settings())
        gone = self._guests.keep_only(ifnames)
        await self.dnsmasq.resume()
        for lease in gone:
            self._give_back(lease)

    # While it is up

    def look_for_collision(self, used: list[tuple[int, IPv4Network]]) -> bool:
        """See whether an address or route of another device is in the subnet by now,
        as with a VPN that came up later. `collision` says which.

        :param used: device index and network of each address and route of the host.
        :returns: whether that has changed since the last look.
        """
        rival = rival_of(self.subnet4, used, self.bridge_index)
        before, self.collision = self.collision, str(rival) if rival else None
        return before != self.collision

    def differs(self, wanted: NetworkDefinition) -> list[str]:
        """The properties in which this instance differs from `wanted`, and must
        while it is up."""
        return sorted(differences(self.definition, wanted) - LIVE)

    def change(self, wanted: NetworkDefinition) -> list[str]:
        """Take over what of `wanted` takes effect at once. If "dns" or "egress" is
        among it, the caller has to restart `dnsmasq`.

        :returns: the properties that changed.
        :raises NftError: nftables refused, and nothing has changed.
        """
        changed = differences(self.definition, wanted) & LIVE
        if not changed:
            return []
        before, was = self.rules, self.definition
        self.definition = with_properties(self.definition, wanted, changed)
        try:
            text = elements.change_network(before, self.rules)
            if text:
                self._host.nft.run(f"change network {self.key}", text)
        except BaseException:
            self.definition = was
            raise
        self._write_record()
        return sorted(changed)

    def _settings(self) -> dnsmasq.Settings:
        upstream: tuple[str, ...] | None = self._host.upstream
        if self.definition.dns:
            upstream = tuple(str(server) for server in self.definition.dns)
        if not self.is_routed:
            upstream = None  # a query for a name of the outside leads there, too
        return dnsmasq.Settings(
            self.bridge,
            self.subnet4,
            self.subnet6,
            self.definition.full_domain,
            self.mtu,
            self.directory,
            upstream,
            self._host.launcher.user,
            dhcp=self.definition.dhcp,
            slaac=self.definition.slaac,
            routed=self.definition.mode is Mode.NAT,
        )

    # Its guests

    def addresses_for(self, name: str, uid: int, mac: str | None) -> GuestAddresses:
        """The addresses for a guest: reserved ones, or those it had before.

        :param name: the guest's.
        :param uid: its user's.
        :param mac: its MAC; None: not known yet.
        """
        return GuestAddresses(
            self.definition, self.subnet4, self.subnet6, name, uid, mac
        )

    def guest_ipv4(self, wanted: GuestAddresses, in_use: set[str]) -> str:
        """The IPv4 address for a guest, remembered for the next time.

        :param wanted: what `addresses_for` returned.
        :param in_use: addresses that guests of the instance have now.
        :raises AddressesExhausted: every address of the subnet is in use.
        """
        address, is_new = wanted.ipv4(self._host.store.seed, self._state, in_use)
        if is_new:
            try:
                self._host.store.save(self.key, self._state)
            except OSError as err:
                # Only the memory is lost: the guest has its address, and the next
                # guest that is new has all of it saved.
                _log.error("%s: address %s is not kept: %s", self.key, address, err)
        return address

    def add_guest(
        self, ifname: str, mac: str, ipv4: str, ipv6: str | None, name: str
    ) -> None:
        """Tell dnsmasq, and thereby DHCP and DNS, of a guest.

        :param ifname: its tap's name.
        :param mac: its MAC.
        :param ipv4: its address.
        :param ipv6: its other address; None: it has none.
        :param name: its name, without a domain.
        :raises OSError: its files can't be written.
        """
        self._guests.write(ifname, mac, ipv4, ipv6, name)

    def remove_guest(self, ifname: str, mac: str | None, ipv4: str | None) -> None:
        """Take a guest out of DHCP and DNS.

        :param ifname: its tap's name.
        :param mac: its MAC; None: it was never known.
        :param ipv4: its address; None: it had none.
        """
        if mac is not None and ipv4 is not None:
            self._give_back(HeldLease(mac, ipv4))
        # Only now: a broker that dies in between gives the lease back by the file.
        self._guests.remove(ifname)
        self.dnsmasq.forget_departed()

    def _give_back(self, lease: HeldLease) -> None:
        if self.dnsmasq.is_running:
            try:
                give_back(self.bridge, str(self.subnet4[1]), lease)
            except OSError as err:
                _log.warning("the lease of %s was not given back: %s", lease.ipv4, err)


def _makes_ipv6_devices() -> bool:
    """Whether a device that is made now has IPv6."""
    return sysctl.read("ipv6/conf/default/disable_ipv6") == "0"
