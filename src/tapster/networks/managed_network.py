# SPDX-License-Identifier: LGPL-2.1-or-later
"""A network of ours: a bridge, a subnet, dnsmasq, and, with NAT, a way out.

It comes up with its first NIC and goes after its last. What it is made of is
written down in the runtime directory before any of it exists, so that the
next broker can find it or take it apart.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_interface

from ..errors import AddressesExhausted, BrokerFailure
from ..kernel import process, rtnetlink, sysctl
from ..kernel.netlink import NetlinkError
from ..model import BRIDGE_PREFIX, Egress, Mode, NetworkDefinition, Scope
from . import (
    addresses,
    definition_json,
    dnsmasq,
    elements,
    ruleset,
    state_files,
)
from .dnsmasq_process import DnsmasqProcess
from .guest_addresses import GuestAddresses
from .host_context import HostContext
from .state_store import NetworkState

_log = logging.getLogger(__name__)

ALIAS = "tapster network"
MTU = 1500  # bytes

# What of a definition takes effect while guests run; the rest when the last of
# them has gone, as it would take their addresses or their bridge away.
LIVE = frozenset(
    (
        *("isolation", "egress", "host_access", "rate", "forward", "dns"),
        *("reservations", "max_nics"),
    )
)


def instance_key(definition: NetworkDefinition, uid: int) -> str:
    """What an instance is found by: a user's own, or the one of all."""
    if definition.scope is Scope.SHARED:
        return f"{definition.name}.shared"
    return f"{definition.name}-{uid}"


class ManagedNetwork:
    """One instance; `uid` is its user's, None if it is shared."""

    def __init__(self, host: HostContext, definition: NetworkDefinition, uid: int):
        self.definition = definition
        self.uid = uid if definition.scope is Scope.USER else None
        self.key = instance_key(definition, uid)
        self.bridge = BRIDGE_PREFIX + addresses.base36(
            int.from_bytes(
                addresses.digest(host.store.seed, "bridge", self.key)[:8], "big"
            ),
            8,
        )
        self.bridge_index = 0
        self.subnet4: IPv4Network = addresses.POOLS[0]
        self.subnet6: IPv6Network | None = None
        self.is_up = False
        self.collision: str | None = None  # who else has the subnet by now
        self.dnsmasq = DnsmasqProcess(self._settings, host.launcher)
        self._host = host
        self._state = NetworkState()

    @property
    def name(self) -> str:
        return self.definition.name

    @property
    def mtu(self) -> int:
        return self.definition.mtu or MTU

    @property
    def is_routed(self) -> bool:
        """Whether guests get outside by themselves."""
        return (
            self.definition.mode is Mode.NAT
            and self.definition.egress is not Egress.NONE
        )

    # Coming up and going down

    async def up(self) -> None:
        """Bring it all up, or leave nothing of it.

        :raises AddressesExhausted: no subnet is free.
        :raises BrokerFailure: the kernel or dnsmasq would not.
        """
        self._check_capabilities()
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
        self._delete_bridge()
        shutil.rmtree(self.directory, ignore_errors=True)
        _log.info("network %s is down", self.key)

    def _check_capabilities(self) -> None:
        wanted = {
            process.CAP_NET_BIND_SERVICE: "CAP_NET_BIND_SERVICE",
            process.CAP_NET_RAW: "CAP_NET_RAW",
        }
        have = self._host.launcher.capabilities
        missing = [name for number, name in wanted.items() if not have >> number & 1]
        if missing:
            raise BrokerFailure(
                f"network {self.name} needs dnsmasq,"
                f" and dnsmasq {' and '.join(missing)}",
                "give tapsterd these as ambient capabilities, or use a Linux bridge",
            )

    # What it is made of

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

    def _choose_subnets(self) -> None:
        seed = self._host.store.seed
        used = [
            net
            for index, net in rtnetlink.used_networks(self._host.netlink)
            if index != self.bridge_index or not index
        ]
        used += self._host.avoid
        fixed, kept = self.definition.subnet, self._state.subnet4
        if fixed is not None:
            rival = next((n for n in used if _overlap(n, fixed)), None)
            if rival is not None:
                raise BrokerFailure(
                    f"network {self.name} did not come up: its subnet is in use",
                    f"{fixed} overlaps {rival} of this host; see tapster network show",
                )
            chosen = fixed
        elif kept is not None and not any(_overlap(net, kept) for net in used):
            chosen = kept
        else:
            free = addresses.free_ipv4_subnet(seed, used, self.key)
            if free is None:
                raise AddressesExhausted("no subnet is free on this host")
            if kept is not None:
                _log.warning(
                    "subnet %s of %s is in use now; taking %s", kept, self.key, free
                )
            chosen = free
        if chosen != kept:
            self._state = NetworkState(chosen)
            self._host.store.save(self.key, self._state)
        self.subnet4 = chosen
        self.subnet6 = None
        if (
            self.definition.ipv6
            and sysctl.read("ipv6/conf/default/disable_ipv6") == "0"
        ):
            own = addresses.unique_local_subnet(seed, self.key)
            self.subnet6 = self.definition.subnet6 or own

    def look_for_collision(self, used: list[tuple[int, IPv4Network]]) -> bool:
        """See whether an address or route of another device is in the subnet by
        now, as with a VPN that came up later.

        :returns: whether that has changed since the last look.
        """
        rival = next(
            (
                net
                for index, net in used
                if index != self.bridge_index and net.overlaps(self.subnet4)
            ),
            None,
        )
        before, self.collision = self.collision, str(rival) if rival else None
        return before != self.collision

    def _make_bridge(self) -> None:
        netlink = self._host.netlink
        mac = next(addresses.guest_macs(self._host.store.seed, "bridge", self.key))
        try:
            netlink.transact(
                [
                    rtnetlink.add_bridge(self.bridge, mac, self.mtu),
                    rtnetlink.set_link_by_name(
                        self.bridge, alias=self._alias(), no_ipv6_address=True
                    ),
                ]
            )
        except NetlinkError as err:
            raise BrokerFailure(f"cannot make bridge {self.bridge}: {err}") from err
        link = rtnetlink.get_link(netlink, self.bridge)
        if link is None:
            raise BrokerFailure(f"bridge {self.bridge} vanished")
        self.bridge_index = link.ifindex
        if self.subnet6 is not None:
            sysctl.write(f"ipv6/conf/{self.bridge}/accept_ra", "0")
        # A forwarded port is there for the host's own programs at 127.0.0.1,
        # too. Guests gain nothing by it: to the host they may say only what
        # `from_guest` in ruleset.py lists, and that by address.
        sysctl.write(f"ipv4/conf/{self.bridge}/route_localnet", "1")
        own = [
            ip_interface(f"{addresses.gateway(self.subnet4)}/{self.subnet4.prefixlen}")
        ]
        if self.subnet6 is not None:
            own.append(ip_interface(f"{addresses.gateway(self.subnet6)}/64"))
            own.append(ip_interface("fe80::1/64"))
        netlink.transact(
            [rtnetlink.add_address(self.bridge_index, address) for address in own]
            + [rtnetlink.set_link(self.bridge_index, self.bridge, up=True)]
        )

    def _delete_bridge(self) -> None:
        link = rtnetlink.get_link(self._host.netlink, self.bridge)
        if link is not None and link.alias == self._alias():
            try:
                self._host.netlink.transact(
                    [rtnetlink.delete_link(link.ifindex, self.bridge)]
                )
            except NetlinkError as err:
                _log.error("%s", err)
        self.bridge_index = 0

    def _alias(self) -> str:
        return f"{ALIAS} {self.key}"

    # The record, and what an earlier broker left

    @property
    def directory(self) -> str:
        return os.path.join(self._host.directory, self.bridge)

    def _write_record(self) -> None:
        os.makedirs(self.directory, mode=0o750, exist_ok=True)
        record = {
            "uid": self.uid if self.uid is not None else -1,
            "bridge": self.bridge,
            "subnet4": str(self.subnet4),
            "subnet6": str(self.subnet6) if self.subnet6 else None,
            "definition": definition_json.to_json(self.definition),
        }
        state_files.replace(f"{self.directory}/network.json", json.dumps(record))

    @classmethod
    def recall(cls, host: HostContext, bridge: str) -> ManagedNetwork:
        """The instance that an earlier broker wrote down for this bridge.

        :raises ValueError, KeyError, TypeError, OSError: the record is of no use.
        """
        data = state_files.read_json(
            os.path.join(host.directory, bridge, "network.json")
        )
        if "definition" in data:
            definition = definition_json.from_json(data["definition"])
        else:  # of a broker that knew one kind of network
            definition = NetworkDefinition(str(data["network"]))
        uid = data["uid"]
        if type(uid) is not int or not -1 <= uid < 2**32:
            raise ValueError(f"uid is {uid!r}")
        network = cls(host, definition, uid)
        if (uid == -1) is not (network.uid is None):
            raise ValueError("it is not of its scope")
        if data["bridge"] != bridge or not bridge.startswith(BRIDGE_PREFIX):
            raise ValueError("it is about another bridge")
        # Not as it would be called today: the seed may be another by now.
        network.bridge = bridge
        network.subnet4 = definition_json.subnet4_of(data["subnet4"])
        subnet6 = data["subnet6"]
        if subnet6 is not None:
            network.subnet6 = definition_json.subnet6_of(subnet6)
        return network

    @classmethod
    def rebuilt(
        cls, host: HostContext, definition: NetworkDefinition, uid: int, bridge: str
    ) -> ManagedNetwork | None:
        """The instance of a bridge of ours whose record is lost, by what the kernel
        has of it; None if that is not enough. It has a record again from now on.

        :raises NetlinkError, OSError: the kernel does not say, or it can't be kept.
        """
        network = cls(host, definition, uid)
        network.bridge = bridge
        if not network.find_bridge():
            return None
        subnets = [
            net
            for index, net in rtnetlink.used_networks(host.netlink)
            if index == network.bridge_index and not net.is_link_local
        ]
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
        link = rtnetlink.get_link(self._host.netlink, self.bridge)
        if link is None or link.kind != "bridge" or link.alias != self._alias():
            return False
        self.bridge_index = link.ifindex
        return True

    async def adopt(self, ifnames: set[str]) -> None:
        """Go on with a recalled instance whose bridge is there, for these NICs.

        Call `dnsmasq.reattach` before.

        :raises OSError: its files can't be written.
        """
        self.is_up = True
        self._state = self._host.store.load(self.key)
        if self.definition.mode is Mode.NAT:
            self._host.ip_forwarding.enable()
        dnsmasq.prepare_directory(self._settings())
        gone: list[tuple[str, str]] = []
        for kind in ("dhcp", "hosts"):
            for ifname in set(os.listdir(f"{self.directory}/{kind}")) - ifnames:
                path = f"{self.directory}/{kind}/{ifname}"
                if kind == "dhcp":
                    gone += _reserved(path)
                state_files.discard(path)
        await self.dnsmasq.resume()
        for mac, ipv4 in gone:
            self._release(mac, ipv4)

    def differs(self, wanted: NetworkDefinition) -> list[str]:
        """The properties in which `wanted` is not what this instance has and
        can't have while it is up."""
        return sorted(definition_json.differences(self.definition, wanted) - LIVE)

    def change(self, wanted: NetworkDefinition) -> list[str]:
        """Take over what of `wanted` takes effect at once. If "dns" or "egress"
        is among it, the caller has `dnsmasq` restarted.

        :returns: the properties that changed.
        :raises NftError: nftables refused, and nothing has changed.
        """
        changed = definition_json.differences(self.definition, wanted) & LIVE
        if not changed:
            return []
        before, was = self.rules, self.definition
        self.definition = definition_json.with_properties(
            self.definition, wanted, changed
        )
        try:
            text = elements.change_network(before, self.rules)
            if text:
                self._host.nft.run(f"change network {self.key}", text)
        except BaseException:
            self.definition = was
            raise
        self._write_record()
        return sorted(changed)

    # dnsmasq and its guests

    def _settings(self) -> dnsmasq.Settings:
        upstream: tuple[str, ...] | None = self._host.upstream
        if self.definition.dns:
            upstream = tuple(str(server) for server in self.definition.dns)
        if not self.is_routed:
            upstream = None  # a name that is asked of the outside leads there, too
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

    def addresses_for(self, name: str, uid: int, mac: str | None) -> GuestAddresses:
        """The addresses for a guest: reserved ones, or those it had before.

        :raises AddressesExhausted: every address of the subnet is in use.
        """
        return GuestAddresses(
            self.definition, self.subnet4, self.subnet6, name, uid, mac
        )

    def guest_ipv4(self, wanted: GuestAddresses, in_use: set[str]) -> str:
        """The IPv4 address for a guest, remembered for the next time.

        :raises AddressesExhausted: every address of the subnet is in use.
        """
        address, is_new = wanted.ipv4(self._host.store.seed, self._state, in_use)
        if is_new:
            try:
                self._host.store.save(self.key, self._state)
            except OSError as err:
                # For the next time: this one has it, and the next that is new saves
                # all that is known.
                _log.error("%s: address %s is not kept: %s", self.key, address, err)
        return address

    def add_guest(
        self, ifname: str, mac: str, ipv4: str, ipv6: str | None, name: str
    ) -> None:
        """Let DHCP and DNS know a guest; dnsmasq notices by itself."""
        state_files.write(
            f"{self.directory}/dhcp/{ifname}",
            dnsmasq.reservation(mac, ipv4, ipv6, name),
        )
        state_files.write(
            f"{self.directory}/hosts/{ifname}",
            dnsmasq.names(ipv4, ipv6, name, self.definition.full_domain),
        )

    def remove_guest(self, ifname: str, mac: str | None, ipv4: str | None) -> None:
        """Take a guest out of DHCP and DNS."""
        if mac is not None and ipv4 is not None:
            self._release(mac, ipv4)
        # Only now: whoever finds them gives the lease back.
        for kind in ("dhcp", "hosts"):
            state_files.remove(f"{self.directory}/{kind}/{ifname}")
        self.dnsmasq.forget_departed()

    def _release(self, mac: str, ipv4: str) -> None:
        """Give a guest's lease back: another MAC could not have its address."""
        if self.dnsmasq.is_running:
            try:
                dnsmasq.release(self.bridge, str(self.subnet4[1]), ipv4, mac)
            except OSError as err:
                _log.warning("the lease of %s was not given back: %s", ipv4, err)


def _reserved(path: str) -> list[tuple[str, str]]:
    """MAC and IPv4 address of a guest's reservation; none if it is damaged."""
    try:
        mac, ipv4, *_ = state_files.read(path, 1024).split(",")
        return [(bytes.fromhex(mac.replace(":", "")).hex(":"), str(IPv4Address(ipv4)))]
    except (OSError, ValueError):
        return []


def _overlap(one: IPv4Network | IPv6Network, other: IPv4Network) -> bool:
    return isinstance(one, IPv4Network) and one.overlaps(other)
