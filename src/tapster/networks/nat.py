# SPDX-License-Identifier: LGPL-2.1-or-later
"""A NATed network of one user: a bridge, a subnet, dnsmasq, masquerade.

It comes up with its first NIC and goes after its last. What it is made of is
written down in the runtime directory before any of it exists, so that the
next broker can find it or take it apart.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_interface

from ..errors import AddressesExhausted, BrokerFailure
from ..kernel import process, rtnetlink, sysctl
from ..kernel.netlink import NetlinkError, NetlinkSocket
from ..kernel.nft import Nft
from ..kernel.process import Process
from . import addresses, dnsmasq, ruleset
from .forwarding import Forwarding
from .store import NetworkState, StateStore

_log = logging.getLogger(__name__)

BRIDGE_PREFIX = "tapbr"
ALIAS = "tapster network"
MTU = 1500  # bytes
_RESTART_DELAY = 1.0  # seconds between two starts of a dnsmasq that keeps dying
_RELOAD_DELAY = 0.05  # seconds in which departures are gathered into one SIGHUP


@dataclass(slots=True)
class Environment:
    """What every network of one broker shares."""

    netlink: NetlinkSocket
    nft: Nft
    store: StateStore
    forwarding: Forwarding
    directory: str  # <runtime>/networks
    upstream: tuple[str, ...]  # DNS servers; none: the host's
    avoid: tuple[IPv4Network | IPv6Network, ...]  # routes of a host we can't see


class NatNetwork:
    """One user's instance of a NATed network."""

    def __init__(self, env: Environment, network: str, uid: int) -> None:
        self.network = network
        self.uid = uid
        self.key = f"{network}-{uid}"
        self.bridge = BRIDGE_PREFIX + addresses.base36(
            int.from_bytes(
                addresses.digest(env.store.seed, "bridge", self.key)[:8], "big"
            ),
            8,
        )
        self.bridge_index = 0
        self.subnet4: IPv4Network = addresses.POOLS[0]
        self.subnet6: IPv6Network | None = None
        self.mtu = MTU
        self.is_up = False
        self.on_failure: Callable[[str], None] = _log.error
        self._env = env
        self._state = NetworkState()
        self._dnsmasq: Process | None = None
        self._reload: asyncio.TimerHandle | None = None

    # Coming up and going down

    async def up(self) -> None:
        """Bring it all up, or leave nothing of it.

        :raises AddressesExhausted: no subnet is free.
        :raises BrokerFailure: the kernel or dnsmasq would not.
        """
        self._check_capabilities()
        self._state = self._env.store.load(self.key)
        self._choose_subnets()
        try:
            self._write_record()
            self._make_bridge()
            self._env.nft.run(
                f"add network {self.key}",
                ruleset.add_network(self.bridge, self.subnet4, self.subnet6),
            )
            self._env.forwarding.enable()
            dnsmasq.prepare_directory(self._settings())
            self._watch(await asyncio.to_thread(dnsmasq.spawn, self._settings()))
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
        if self._reload is not None:
            self._reload.cancel()
        await self._stop_dnsmasq()
        try:
            self._env.nft.run(
                f"delete network {self.key}",
                ruleset.delete_network(self.bridge, self.subnet4, self.subnet6),
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
        have = process.effective_capabilities()
        missing = [name for number, name in wanted.items() if not have >> number & 1]
        if missing:
            raise BrokerFailure(
                f"network {self.network} needs dnsmasq,"
                f" and dnsmasq {' and '.join(missing)}",
                "give tapsterd these as ambient capabilities, or use a Linux bridge",
            )

    def _choose_subnets(self) -> None:
        seed = self._env.store.seed
        used = [
            net
            for index, net in rtnetlink.used_networks(self._env.netlink)
            if index != self.bridge_index or not index
        ]
        used += self._env.avoid
        kept = self._state.subnet4
        if kept is not None and not any(
            isinstance(net, IPv4Network) and net.overlaps(kept) for net in used
        ):
            self.subnet4 = kept
        else:
            free = addresses.free_ipv4_subnet(seed, used, self.key)
            if free is None:
                raise AddressesExhausted("no subnet is free on this host")
            if kept is not None:
                _log.warning(
                    "subnet %s of %s is in use now; taking %s", kept, self.key, free
                )
            self._state = NetworkState(free)
            self.subnet4 = free
            self._env.store.save(self.key, self._state)
        self.subnet6 = None
        if sysctl.read("ipv6/conf/default/disable_ipv6") == "0":
            self.subnet6 = addresses.unique_local_subnet(seed, self.key)

    def _make_bridge(self) -> None:
        netlink = self._env.netlink
        mac = next(addresses.guest_macs(self._env.store.seed, "bridge", self.key))
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
        link = rtnetlink.get_link(self._env.netlink, self.bridge)
        if link is not None and link.alias == self._alias():
            try:
                self._env.netlink.transact(
                    [rtnetlink.delete_link(link.ifindex, self.bridge)]
                )
            except NetlinkError as err:
                _log.error("%s", err)
        self.bridge_index = 0

    def _alias(self) -> str:
        return f"{ALIAS} {self.key}"

    # The record

    @property
    def directory(self) -> str:
        return os.path.join(self._env.directory, self.bridge)

    def _write_record(self) -> None:
        os.makedirs(self.directory, mode=0o750, exist_ok=True)
        record = {
            "network": self.network,
            "uid": self.uid,
            "bridge": self.bridge,
            "subnet4": str(self.subnet4),
            "subnet6": str(self.subnet6) if self.subnet6 else None,
        }
        dnsmasq.write_file(f"{self.directory}/network.json", json.dumps(record))

    @classmethod
    def recall(cls, env: Environment, bridge: str) -> NatNetwork:
        """The instance that an earlier broker wrote down for this bridge.

        :raises ValueError, KeyError, TypeError, OSError: the record is of no use.
        """
        with open(
            os.path.join(env.directory, bridge, "network.json"), encoding="utf-8"
        ) as file:
            data = json.load(file)
        network = cls(env, str(data["network"]), int(data["uid"]))
        if network.bridge != bridge or data["bridge"] != bridge:
            raise ValueError("it is about another bridge")
        network.subnet4 = IPv4Network(data["subnet4"])
        network.subnet6 = IPv6Network(data["subnet6"]) if data["subnet6"] else None
        return network

    def find_bridge(self) -> bool:
        """Whether the bridge of a recalled instance is there, and is ours."""
        link = rtnetlink.get_link(self._env.netlink, self.bridge)
        if link is None or link.kind != "bridge" or link.alias != self._alias():
            return False
        self.bridge_index = link.ifindex
        return True

    @property
    def dnsmasq_pid(self) -> int | None:
        return self._dnsmasq.pid if self._dnsmasq is not None else None

    def find_dnsmasq(self) -> None:
        """Take over the dnsmasq of an earlier broker, if it lives."""
        try:
            with open(f"{self.directory}/dnsmasq.pid", encoding="ascii") as file:
                pid = int(file.read())
            if dnsmasq.is_ours(pid, self.directory):
                found = Process(pid)
                # Between the look and the descriptor the pid may have changed hands.
                if dnsmasq.is_ours(pid, self.directory):
                    self._watch(found)
                else:
                    found.close()
        except (OSError, ValueError):
            pass

    async def adopt(self, ifnames: set[str]) -> None:
        """Go on with a recalled instance whose bridge is there, for these NICs.

        Call `find_dnsmasq` before.

        :raises OSError: its files can't be written.
        """
        self.is_up = True
        self._state = self._env.store.load(self.key)
        self._env.forwarding.enable()
        dnsmasq.prepare_directory(self._settings())
        for kind in ("dhcp", "hosts"):
            for ifname in set(os.listdir(f"{self.directory}/{kind}")) - ifnames:
                dnsmasq.remove_file(f"{self.directory}/{kind}/{ifname}")
        if self._dnsmasq is None:
            await self._respawn()
        else:
            self._dnsmasq.send_signal(signal.SIGHUP)

    # dnsmasq

    @property
    def domain(self) -> str:
        return f"{self.network}.internal"

    def _settings(self) -> dnsmasq.Settings:
        return dnsmasq.Settings(
            self.bridge,
            self.subnet4,
            self.subnet6,
            self.domain,
            self.mtu,
            self.directory,
            self._env.upstream,
            dnsmasq.service_user(),
        )

    def _watch(self, running: Process) -> None:
        self._dnsmasq = running
        asyncio.get_running_loop().add_reader(running.pidfd, self._died)

    def _died(self) -> None:
        running = self._dnsmasq
        if running is None:
            return
        self._forget_dnsmasq()
        self.on_failure(f"dnsmasq of {self.key} died; starting it again")
        asyncio.get_running_loop().call_later(_RESTART_DELAY, self._restart)

    def _restart(self) -> None:
        if self.is_up and self._dnsmasq is None:
            task = asyncio.get_running_loop().create_task(self._respawn())
            task.add_done_callback(lambda t: t.exception())

    async def _respawn(self) -> None:
        try:
            running = await asyncio.to_thread(dnsmasq.spawn, self._settings())
        except BrokerFailure as err:
            self.on_failure(str(err))
            asyncio.get_running_loop().call_later(_RESTART_DELAY, self._restart)
            return
        if self.is_up:
            self._watch(running)
        else:
            running.send_signal(signal.SIGTERM)
            running.reap()
            running.close()

    def _forget_dnsmasq(self) -> None:
        if self._dnsmasq is not None:
            asyncio.get_running_loop().remove_reader(self._dnsmasq.pidfd)
            self._dnsmasq.reap()
            self._dnsmasq.close()
            self._dnsmasq = None

    async def _stop_dnsmasq(self) -> None:
        running = self._dnsmasq
        if running is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(running.pidfd)
        gone = loop.create_future()
        loop.add_reader(running.pidfd, _finish, gone)
        running.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(gone, 2)
        except TimeoutError:
            running.send_signal(signal.SIGKILL)
        self._forget_dnsmasq()

    # Guests

    def guest_ipv4(self, name: str, in_use: Iterable[str]) -> str:
        """The address for a guest: the one it had, if that is free.

        :raises AddressesExhausted: every address of the subnet is in use.
        """
        taken = set(in_use)
        known = self._state.guests
        address = known.get(name)
        if (
            address is not None
            and address not in taken
            and addresses.is_guest_address(self.subnet4, address)
        ):
            if next(reversed(known)) != name:
                known[name] = known.pop(name)  # used now; kept with the next save
            return address
        remembered = set(known.values())
        seed = self._env.store.seed
        address = addresses.guest_address(seed, self.subnet4, taken | remembered, name)
        if address is None:  # all are remembered: take the longest unused one's
            oldest = next(
                (
                    n
                    for n, a in known.items()
                    if a not in taken and addresses.is_guest_address(self.subnet4, a)
                ),
                None,
            )
            if oldest is None:
                raise AddressesExhausted(f"network {self.network} has no free address")
            address = known.pop(oldest)
        known[name] = address
        self._env.store.save(self.key, self._state)
        return address

    def guest_ipv6(self, mac: str) -> str | None:
        return str(addresses.eui64(self.subnet6, mac)) if self.subnet6 else None

    def add_guest(
        self, ifname: str, mac: str, ipv4: str, ipv6: str | None, name: str
    ) -> None:
        """Let DHCP and DNS know a guest; dnsmasq notices by itself."""
        dnsmasq.write_file(
            f"{self.directory}/dhcp/{ifname}",
            dnsmasq.reservation(mac, ipv4, ipv6, name),
        )
        dnsmasq.write_file(
            f"{self.directory}/hosts/{ifname}",
            dnsmasq.names(ipv4, ipv6, name, self.domain),
        )

    def remove_guest(self, ifname: str, mac: str | None, ipv4: str | None) -> None:
        """Take a guest out of DHCP and DNS."""
        for kind in ("dhcp", "hosts"):
            dnsmasq.remove_file(f"{self.directory}/{kind}/{ifname}")
        if mac is not None and ipv4 is not None and self._dnsmasq is not None:
            try:
                dnsmasq.release(self.bridge, str(self.subnet4[1]), ipv4, mac)
            except OSError as err:
                _log.warning("the lease of %s was not given back: %s", ipv4, err)
        # A removed reservation is forgotten only on SIGHUP.
        if self._dnsmasq is not None and self._reload is None:
            loop = asyncio.get_running_loop()
            self._reload = loop.call_later(_RELOAD_DELAY, self._send_reload)

    def _send_reload(self) -> None:
        self._reload = None
        dnsmasq.trim_log(self.directory)
        if self._dnsmasq is not None:
            self._dnsmasq.send_signal(signal.SIGHUP)


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
