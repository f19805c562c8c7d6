# SPDX-License-Identifier: LGPL-2.1-or-later
"""The way of a request, from who asks to what is handed over.

    identify → resolve → decide → allocate → provision → publish → reply → watch

`daemon/peer.py` identifies and `daemon/watch.py` watches; all between is here.
One event loop runs it all: what is between two awaits can't be interleaved,
and from the last decision to the publishing there is no await.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import pwd
import queue
import secrets
import socket
import threading
import time
from collections.abc import Callable

from ..errors import (
    BrokerFailure,
    MacInUse,
    NameInUse,
    NoSuchNic,
    NotAuthorized,
    QuotaExceeded,
    RequestError,
)
from ..kernel import process, rtnetlink, tun
from ..kernel.netlink import NetlinkError
from ..kernel.nft import NftError
from ..kernel.rtnetlink import Link
from ..model import AttachRequest, Peer, State
from ..networks import addresses, ruleset
from ..networks.nat import Environment, NatNetwork
from ..policy import bridge_conf
from ..policy.config import Config
from ..policy.decide import DEFAULT_NETWORK, MAX_NICS, Decision, Target, decide
from . import stages
from .events import Events
from .ledger import Ledger, Nic
from .resolve import check, resolve

_log = logging.getLogger(__name__)

TAP_ALIAS = "tapster nic"
_GOING_TRIES, _GOING_WAIT = 40, 0.005  # seconds, each
CLOSERS = 8  # threads that close taps
_TAP_DIGITS = 7  # after "tapster" and the kind: all that 15 bytes hold


class TapDescriptor:
    """A tap's only descriptor. It closes itself in a thread that can wait.

    Closing the last descriptor of a tap takes the kernel some 20 ms. It is the
    last one if the caller died before the reply, or closed its own at once;
    neither may cost the others that time.
    """

    _queue: queue.SimpleQueue[int] = queue.SimpleQueue()
    _threads: list[threading.Thread] = []  # noqa: RUF012 - shared by all on purpose
    pending = 0  # handed to the threads and not closed yet; changed under _lock
    _lock = threading.Lock()

    def __init__(self, fd: int) -> None:
        """Takes the ownership of `fd`."""
        self._fd = fd

    def fileno(self) -> int:
        if self._fd < 0:
            raise ValueError("closed")
        return self._fd

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        cls = TapDescriptor
        while len(cls._threads) < CLOSERS:
            thread = threading.Thread(target=cls._work, name="close", daemon=True)
            cls._threads.append(thread)
            thread.start()
        with cls._lock:
            cls.pending += 1
        cls._queue.put(fd)

    def __del__(self) -> None:
        self.close()

    @classmethod
    def _work(cls) -> None:
        while True:
            os.close(cls._queue.get())
            with cls._lock:
                cls.pending -= 1


class Broker:
    """Everything that the daemon knows and may do, in one namespace."""

    def __init__(
        self, config: Config, env: Environment, ledger: Ledger, events: Events
    ) -> None:
        self.config = config
        self.env = env
        self.ledger = ledger
        self.events = events
        self.networks: dict[str, NatNetwork] = {}
        self._rising: set[str] = set()  # keys of networks that are coming up
        self.on_waiting: Callable[[], None] = stages.nothing
        self._locks: dict[str, asyncio.Lock] = {}
        self._going: dict[str, asyncio.TimerHandle] = {}
        self._pinned: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ioctl = socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
        )
        self._locked_ports: bool | None = None  # not known before the first port

    def close(self) -> None:
        """Close what was opened here; NICs and networks stay."""
        for handle in self._going.values():
            handle.cancel()
        self._ioctl.close()

    # attach

    async def attach(
        self, peer: Peer, request: AttachRequest
    ) -> tuple[TapDescriptor, Nic]:
        """Serve one request to attach.

        :returns: the tap's descriptor, which the caller closes, and its entry.
        :raises RequestError: with the answer for the caller; nothing has changed.
        """
        request = check(request)
        target, link = resolve(
            request, self.env.netlink, self.config.broker.default_bridge_names
        )
        if target.bridge is None and target.network is None:
            self._refuse(peer, request, Decision(False, "no such network or bridge"))
        if link is not None:
            self._decide(peer, request, target)
            return self._attach_to_bridge(peer, request, link)
        if target.network is not None:
            await self._let_taps_go(peer.uid, target.network)
        self._decide(peer, request, target)
        name = target.network or DEFAULT_NETWORK
        network = self._network_that_is_up(name, peer.uid)
        if network is None:
            network = await self._bring_up(name, peer.uid)
            # That took its time: what was true may not be now.
            self._decide(peer, request, target)
        try:
            return self._attach_to_network(peer, request, network)
        finally:
            self._schedule_down(network)

    def _decide(self, peer: Peer, request: AttachRequest, target: Target) -> None:
        """:raises NotAuthorized, QuotaExceeded: the answer is no."""
        verdict = None
        nics = 0
        if target.bridge is not None:
            reader = bridge_conf.Reader(peer.uid, peer.gid, peer.groups)
            verdict = bridge_conf.decide(
                self.config.authorization.bridge_conf, target.bridge, reader
            )
            for note in verdict.notes:
                _log.warning("bridge.conf: %s", note)
        elif target.network is not None:
            nics = self.ledger.count(peer.uid, target.network)
        decision = decide(peer, target, nics, verdict)
        if not decision.allowed:
            self._refuse(peer, request, decision)

    def _refuse(self, peer: Peer, request: AttachRequest, decision: Decision) -> None:
        what = request.bridge or request.network or DEFAULT_NETWORK
        self.events.denied(peer, user_name(peer.uid), what, decision.reason)
        if decision.over_quota:
            raise QuotaExceeded(
                f"you have all the NICs you may have on this network ({MAX_NICS})",
                "end a guest, or detach a NIC that 'tapster ls' shows",
            )
        raise NotAuthorized(
            f"you may not use {what!r}, or it does not exist",
            "ask the administrator; without a bridge you get a network of your own",
        )

    async def _let_taps_go(self, uid: int, network: str) -> None:
        """At the quota, wait for taps that are going just now.

        A tap that its caller closed at once may still be in our closing hands.
        """
        tries = 0
        while self.ledger.count(uid, network) >= MAX_NICS and tries < _GOING_TRIES:
            for nic in [
                n for n in self.ledger if n.uid == uid and n.network == network
            ]:
                self._is_gone(nic)
            if not TapDescriptor.pending:
                return
            tries += 1
            await asyncio.sleep(_GOING_WAIT)

    def _is_gone(self, nic: Nic) -> bool:
        link = rtnetlink.get_link(self.env.netlink, nic.ifindex)
        if link is None or link.name != nic.ifname:
            self.nic_gone(nic)
            return True
        return False

    def _attach_to_network(
        self, peer: Peer, request: AttachRequest, network: NatNetwork
    ) -> tuple[TapDescriptor, Nic]:
        name = self._guest_name(request, network.network, peer.uid)
        wanted = None if request.for_parent else self._new_mac(network, peer.uid, name)
        mac = self._free_mac(request.mac or wanted, network.bridge_index)
        on_bridge = self.ledger.on_bridge(network.bridge)
        ipv4 = network.guest_ipv4(name, (n.ipv4 for n in on_bridge if n.ipv4))
        ipv6 = network.guest_ipv6(mac) if mac else None
        nic = self._new_nic(
            peer, request, ruleset.NAT, name, mac, network.bridge, network.bridge_index
        )
        nic.network, nic.ipv4, nic.ipv6, nic.mtu = (
            network.network,
            ipv4,
            ipv6,
            network.mtu,
        )
        return self._provision(nic, request.vnet_hdr, network)

    def _attach_to_bridge(
        self, peer: Peer, request: AttachRequest, link: Link
    ) -> tuple[TapDescriptor, Nic]:
        name = self._guest_name(request, f"bridge:{link.name}", peer.uid)
        wanted = request.mac
        if wanted is None and not request.for_parent:
            wanted = self._derived_mac(
                link.ifindex, "bridge", link.name, peer.uid, name
            )
        mac = self._free_mac(wanted, link.ifindex)
        nic = self._new_nic(
            peer, request, ruleset.LAN, name, mac, link.name, link.ifindex
        )
        nic.mtu = link.mtu
        self._pin_mac(link)
        return self._provision(nic, request.vnet_hdr, None)

    # allocate

    def _guest_name(self, request: AttachRequest, where: str, uid: int) -> str:
        if request.name is None:
            return self.ledger.free_name(where, uid)
        if self._is_taken((where, uid, request.name)):
            raise NameInUse(
                f"a guest named {request.name} is attached already",
                "choose another --name, or end that guest",
            )
        return request.name

    def _is_taken(self, scope: tuple[str, int, str]) -> bool:
        holder = self.ledger.by_scope(scope)
        return holder is not None and not self._is_gone(holder)

    def _new_mac(self, network: NatNetwork, uid: int, name: str) -> str:
        return self._derived_mac(network.bridge_index, network.network, uid, name)

    def _derived_mac(self, bridge_index: int, *identity: object) -> str:
        candidates = addresses.guest_macs(self.env.store.seed, *identity)
        return next(
            mac for mac in candidates if not self._mac_holder(bridge_index, mac)
        )

    def _mac_holder(self, bridge_index: int, mac: str) -> Nic | None:
        holder = self.ledger.by_mac(bridge_index, mac)
        return None if holder is None or self._is_gone(holder) else holder

    def _free_mac(self, mac: str | None, bridge_index: int) -> str | None:
        """:raises MacInUse: another guest of that bridge has it."""
        if mac is not None and self._mac_holder(bridge_index, mac):
            raise MacInUse(
                f"another guest of that network has the MAC address {mac}",
                "leave the MAC out to be given one",
            )
        return mac

    def _new_nic(
        self,
        peer: Peer,
        request: AttachRequest,
        kind: str,
        name: str,
        mac: str | None,
        bridge: str,
        bridge_index: int,
    ) -> Nic:
        pid = peer.pid
        if request.for_parent:
            pid = _holder_above(peer.pid)
        return Nic(
            ifname=f"{ruleset.TAP_PREFIX}{kind}"
            + addresses.base36(secrets.randbits(64), _TAP_DIGITS),
            ifindex=0,
            bridge=bridge,
            bridge_index=bridge_index,
            network=None,
            uid=peer.uid,
            user=user_name(peer.uid),
            pid=pid,
            name=name,
            mac=mac,
            ipv4=None,
            ipv6=None,
            mtu=0,
            state=State.WAITING if mac is None else State.ACTIVE,
        )

    # provision and publish

    def _provision(
        self, nic: Nic, vnet_hdr: bool, network: NatNetwork | None
    ) -> tuple[TapDescriptor, Nic]:
        """Make the tap and all that belongs to it, or leave nothing."""
        env = self.env
        held: list[TapDescriptor] = []

        def create_tap() -> None:
            held.append(TapDescriptor(tun.create(nic.ifname, vnet_hdr=vnet_hdr)))
            nic.ifindex = rtnetlink.index_of(self._ioctl, nic.ifname)

        def close_tap() -> None:
            held.pop().close()

        def filter_port() -> None:
            text = ruleset.add_port(nic.ifname, nic.mac, nic.ipv4)
            if text:
                env.nft.run(f"add port {nic.ifname}", text)

        def publish_guest() -> None:
            if network is not None and nic.mac is not None and nic.ipv4 is not None:
                network.add_guest(nic.ifname, nic.mac, nic.ipv4, nic.ipv6, nic.name)

        def withdraw_guest() -> None:
            if network is not None:
                network.remove_guest(nic.ifname, nic.mac, nic.ipv4)

        steps = (
            stages.Stage("create", create_tap, close_tap),
            stages.Stage("wire", lambda: self._wire(nic), stages.nothing),
            stages.Stage("filter", filter_port, lambda: self._delete_elements(nic)),
            stages.Stage("address", publish_guest, withdraw_guest),
            stages.Stage(
                "record", lambda: self.ledger.add(nic), lambda: self.ledger.remove(nic)
            ),
            stages.Stage("up", lambda: self._set_up(nic), stages.nothing),
        )
        try:
            stages.run(steps)
        except BaseException as err:
            for tap in held:  # if its own stage failed halfway
                tap.close()
            if not isinstance(err, NetlinkError | NftError | OSError):
                raise
            _log.error("attach of %s to %s failed: %s", nic.ifname, nic.bridge, err)
            raise self._explain(err, nic) from err
        self.events.about("attached", nic)
        if nic.state is State.WAITING:
            self.on_waiting()
        return held[0], nic

    def _wire(self, nic: Nic) -> None:
        """Join the bridge, locked, before the tap can carry a frame.

        One batch; the tap is down, so nothing in it does harm alone. The
        alternative name comes last: it is for people, and may be refused.
        """
        waiting = nic.mac is None
        host_mac = addresses.host_side_mac(nic.mac or secrets.token_bytes(6).hex(":"))
        batch = [
            rtnetlink.set_link(
                nic.ifindex,
                nic.ifname,
                mac=host_mac,
                mtu=nic.mtu,
                alias=f"{TAP_ALIAS} network={nic.network or nic.bridge}"
                f" user={nic.user} guest={nic.name}",
                master=nic.bridge_index,
                no_ipv6_address=True,
            ),
            rtnetlink.set_port(
                nic.ifindex,
                nic.ifname,
                learning=int(waiting),
                mab=int(waiting),
                flood=0,
                locked=1,
                guard=1,
                protect=1,
            ),
        ]
        if nic.mac is not None:
            batch.append(rtnetlink.add_fdb(nic.ifindex, nic.mac))
        batch.append(rtnetlink.add_altname(nic.ifindex, _altname(nic)))
        try:
            self.env.netlink.transact(batch)
        except NetlinkError as err:
            if not err.operation.startswith("add alternative name"):
                raise
            _log.warning("%s", err)
        if self._locked_ports is None or waiting:
            self._check_port(nic)

    def _check_port(self, nic: Nic) -> None:
        """A kernel ignores port settings that it does not know: look.

        Without "locked" nothing is handed out. Without "mab" a waiting port
        must not learn: its first MAC is then found through nftables alone.
        """
        link = rtnetlink.get_link(self.env.netlink, nic.ifindex)
        port = link.port if link is not None else {}
        self._locked_ports = port.get(rtnetlink.IFLA_BRPORT_LOCKED) == 1
        if not self._locked_ports:
            self._locked_ports = None
            raise OSError(
                errno.EOPNOTSUPP, "this kernel cannot lock bridge ports (it needs 5.18)"
            )
        if nic.mac is None and port.get(rtnetlink.IFLA_BRPORT_MAB) != 1:
            self.env.netlink.transact(
                [rtnetlink.set_port(nic.ifindex, nic.ifname, learning=0)]
            )

    def _set_up(self, nic: Nic) -> None:
        self.env.netlink.transact(
            [rtnetlink.set_link(nic.ifindex, nic.ifname, up=True)]
        )

    def _explain(self, err: Exception, nic: Nic) -> RequestError:
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
            return BrokerFailure(
                "the bridge has no port left", "a bridge takes 1023 ports"
            )
        return BrokerFailure(
            "the tap could not be made", "the broker's log has the reason"
        )

    def _pin_mac(self, link: Link) -> None:
        """Set an administrator's bridge's MAC to what it is: a bridge whose MAC
        was never set takes over that of a port."""
        if link.ifindex not in self._pinned:
            self.env.netlink.transact(
                [rtnetlink.set_link(link.ifindex, link.name, mac=link.address)]
            )
            self._pinned.add(link.ifindex)

    # going

    async def detach(self, peer: Peer, ifname: str) -> None:
        """Take a NIC away, for its owner or for root.

        :raises NoSuchNic: there is none, or it is another's.
        """
        nic = self.ledger.by_ifname(ifname)
        if nic is None or not (peer.is_root or peer.uid == nic.uid):
            raise NoSuchNic("there is no such NIC", "'tapster ls' shows yours")
        # A name can be used again while the index can't.
        link = rtnetlink.get_link(self.env.netlink, nic.ifindex)
        if link is not None and link.name == nic.ifname:
            try:
                self.env.netlink.transact(
                    [rtnetlink.delete_link(nic.ifindex, nic.ifname)]
                )
            except NetlinkError as err:
                if err.errno != errno.ENODEV:  # it went by itself
                    raise BrokerFailure("the tap could not be removed") from err
        self.nic_gone(nic)

    def nic_gone(self, nic: Nic) -> None:
        """Clear up after a tap that no longer exists."""
        if self.ledger.by_ifname(nic.ifname) is not nic:
            return
        self.ledger.remove(nic)
        self._delete_elements(nic)
        network = self.network_of(nic)
        if network is not None:
            network.remove_guest(nic.ifname, nic.mac, nic.ipv4)
            self._schedule_down(network)
        self.events.about("detached", nic)

    def _delete_elements(self, nic: Nic) -> None:
        """Remove a port's elements from nftables."""
        elements = []
        if nic.state is State.WAITING:
            elements.append(("waiting", nic.ifname))
        elif nic.mac is not None and nic.ipv4 is not None:
            elements.append(("guests", f"{nic.ifname} . {nic.mac} . {nic.ipv4}"))
        if elements:
            try:
                self.env.nft.run(
                    f"delete port {nic.ifname}", ruleset.delete_elements(elements)
                )
            except NftError as err:
                _log.error("%s", err)
        if nic.state is State.WAITING:
            self.forget_first_mac(nic)

    def forget_first_mac(self, nic: Nic) -> None:
        """Remove the MAC that a waiting port's guest showed, if it showed one."""
        try:
            self.env.nft.run(
                f"forget the first MAC of {nic.ifname}",
                ruleset.delete_elements([("first", nic.ifname)]),
            )
        except NftError as err:
            _log.debug("%s", err)  # it showed none

    # networks

    def network_of(self, nic: Nic) -> NatNetwork | None:
        """The network instance that a NIC is on; None on a Linux bridge."""
        return self.networks.get(f"{nic.network}-{nic.uid}") if nic.network else None

    def _network_that_is_up(self, name: str, uid: int) -> NatNetwork | None:
        """The user's instance of a network, which is not about to go down."""
        key = f"{name}-{uid}"
        network = self.networks.get(key)
        if network is None or not network.is_up:
            return None
        handle = self._going.pop(key, None)
        if handle is not None:
            handle.cancel()
        return network

    async def _bring_up(self, name: str, uid: int) -> NatNetwork:
        """The user's instance of a network, brought up by us or by another."""
        key = f"{name}-{uid}"
        async with self._locks.setdefault(key, asyncio.Lock()):
            network = self.networks.get(key)
            if network is None or not network.is_up:
                network = NatNetwork(self.env, name, uid)
                self._rising.add(key)
                try:
                    await network.up()
                    self.networks[key] = network
                except (OSError, NftError, BrokerFailure) as err:
                    _log.error("network %s did not come up: %s", key, err)
                    if isinstance(err, BrokerFailure):
                        raise
                    raise BrokerFailure(
                        f"network {name} did not come up",
                        "the broker's log has the reason",
                    ) from err
                finally:
                    self._rising.discard(key)
                    self._restore_forwarding()
            return network

    def _schedule_down(self, network: NatNetwork) -> None:
        """Take a network down when it has been without NICs for a while."""
        if network.key in self._going or self.ledger.is_used(network.bridge):
            return
        self._going[network.key] = asyncio.get_running_loop().call_later(
            self.config.broker.network_grace_seconds, self._start_down, network
        )

    def _start_down(self, network: NatNetwork) -> None:
        self._going.pop(network.key, None)
        task = asyncio.get_running_loop().create_task(self.take_down(network))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def take_down(self, network: NatNetwork) -> None:
        """Take a network down unless it got a NIC in the meantime."""
        async with self._locks.setdefault(network.key, asyncio.Lock()):
            current = self.networks.get(network.key)
            if current is not network or self.ledger.is_used(network.bridge):
                return
            # Out of the way first: whoever comes now waits for the lock and
            # brings up a new one.
            del self.networks[network.key]
            await network.down()
            self._restore_forwarding()

    def _restore_forwarding(self) -> None:
        """Let the host forward as it did before, once no network needs it:
        none that is up, and none that is coming up, another user's included."""
        if not self.networks and not self._rising:
            self.env.forwarding.restore()

    async def stop(self, *, everything: bool) -> None:
        """Take down every network that has no NIC; `everything`: every network.

        The system's guests keep theirs over a restart. A rootless broker's
        namespace ends with it.
        """
        for handle in self._going.values():
            handle.cancel()
        self._going.clear()
        for lock in list(self._locks.values()):
            if lock.locked():  # a network is coming up: its NIC comes with it
                async with lock:
                    pass
                await asyncio.sleep(_GOING_WAIT)
        for _ in range(_GOING_TRIES):
            if not TapDescriptor.pending:
                break
            await asyncio.sleep(_GOING_WAIT)
        for nic in list(self.ledger):
            self._is_gone(nic)
        for handle in self._going.values():
            handle.cancel()
        self._going.clear()
        if everything:
            for nic in list(self.ledger):
                self.nic_gone(nic)
        for network in list(self.networks.values()):
            await self.take_down(network)
        self._restore_forwarding()
        for handle in self._going.values():
            handle.cancel()


def _holder_above(pid: int) -> int:
    """Who runs a helper: its parent, or, where QEMU ran it through a shell,
    the shell's. For people to read; nothing is decided by it."""
    above = process.parent(pid) or pid
    if process.command_name(above) == "sh":
        above = process.parent(above) or above
    return above


_user_names: dict[int, tuple[float, str]] = {}
_USER_NAME_SECONDS = 60.0


def user_name(uid: int) -> str:
    """The account's name, or the number if there is none.

    For people to read; kept for a minute, as NSS may have to ask far away.
    """
    now = time.monotonic()
    kept = _user_names.get(uid)
    if kept is not None and now - kept[0] < _USER_NAME_SECONDS:
        return kept[1]
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    if len(_user_names) > 4096:
        _user_names.clear()
    _user_names[uid] = now, name
    return name


def _altname(nic: Nic) -> str:
    """Tells network, user and guest, in at most 127 bytes the kernel takes."""
    user = (
        nic.user
        if tun.is_valid_name(nic.user[:15]) and nic.user.isascii()
        else str(nic.uid)
    )
    return f"tapster.{nic.network or nic.bridge}.{user}.{nic.name}"[:127]
