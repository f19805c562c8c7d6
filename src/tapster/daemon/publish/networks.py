# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which networks of ours are up: brought up for a first NIC, taken down after
the last, changed when the configuration is read anew, and looked after between.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine
from ipaddress import IPv4Network, IPv6Network

from ...errors import BrokerFailure
from ...kernel import rtnetlink
from ...kernel.netlink import NetlinkError
from ...kernel.nft import NftError
from ...model import Egress, Mode, NetworkDefinition
from ...networks import ruleset
from ...networks.host_context import HostContext
from ...networks.managed_network import ManagedNetwork, instance_key
from ..nics.ledger import Ledger

_log = logging.getLogger(__name__)

_SETTLE = 0.2  # seconds in which changes of the host's addresses are gathered
_SUSTAIN = 5.0  # seconds between two looks at what networks need of the host


class Instances:
    """All instances of one broker's networks."""

    def __init__(self, env: HostContext, ledger: Ledger, grace: float) -> None:
        """:param grace: seconds that one without NICs stays up."""
        self._env = env
        self._ledger = ledger
        self.grace = grace
        self._up: dict[str, ManagedNetwork] = {}
        self._keys: dict[str, str] = {}  # by bridge; each has one for ever
        self._rising: set[str] = set()  # keys of those that are coming up
        self._locks: dict[str, asyncio.Lock] = {}
        self._going: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._own: set[IPv4Network | IPv6Network] = set()  # as told to nftables
        self._looking: asyncio.TimerHandle | None = None
        self._sustaining: asyncio.TimerHandle | None = None
        self.wanted: Callable[[str], NetworkDefinition | None] = lambda _: None
        self.on_up: Callable[[ManagedNetwork], None] = lambda _: None
        self.on_down: Callable[[ManagedNetwork], None] = lambda _: None
        self.on_note: Callable[[ManagedNetwork, str], None] = _ignore_note
        self.on_changed: Callable[[ManagedNetwork, list[str]], None] = _ignore_change

    def all(self) -> list[ManagedNetwork]:
        return list(self._up.values())

    def get(self, key: str) -> ManagedNetwork | None:
        return self._up.get(key)

    def on_bridge(self, bridge: str) -> ManagedNetwork | None:
        """The instance whose bridge that is; None for one that is not ours."""
        key = self._keys.get(bridge)
        return self._up.get(key) if key is not None else None

    def adopt(self, network: ManagedNetwork) -> None:
        """Take in one that an earlier broker brought up."""
        self._enter(network)
        self._sustain_soon()

    def _enter(self, network: ManagedNetwork) -> None:
        self._up[network.key] = network
        self._keys[network.bridge] = network.key

    # Coming up

    def ready(self, definition: NetworkDefinition, uid: int) -> ManagedNetwork | None:
        """The user's instance, if it is up and to stay so."""
        network = self._up.get(instance_key(definition, uid))
        if network is None or not network.is_up or self._is_past(network, definition):
            return None
        self._stay(network.key)
        return network

    def _is_past(self, network: ManagedNetwork, wanted: NetworkDefinition) -> bool:
        """Whether another is wanted, and no guest keeps this one."""
        return not self._ledger.is_used(network.bridge) and bool(
            network.differs(wanted)
        )

    def _stay(self, key: str) -> None:
        handle = self._going.pop(key, None)
        if handle is not None:
            handle.cancel()

    async def bring_up(self, definition: NetworkDefinition, uid: int) -> ManagedNetwork:
        """The user's instance, brought up by us or by another.

        :raises AddressesExhausted, BrokerFailure: it does not come up.
        """
        key = instance_key(definition, uid)
        async with self._locks.setdefault(key, asyncio.Lock()):
            network = self._up.get(key)
            if network is not None and self._is_past(network, definition):
                self._stay(key)
                del self._up[key]
                await network.down()
                self.on_down(network)
                network = None
            if network is None or not network.is_up:
                network = ManagedNetwork(self._env, definition, uid)
                self._rising.add(key)
                try:
                    await network.up()
                    self._enter(network)
                except (OSError, NftError, BrokerFailure) as err:
                    _log.error("network %s did not come up: %s", key, err)
                    if isinstance(err, BrokerFailure):
                        raise
                    raise BrokerFailure(
                        f"network {definition.name} did not come up",
                        "the broker's log has the reason",
                    ) from err
                finally:
                    self._rising.discard(key)
                    self.restore_host()
                self.on_up(network)
                self._sustain_soon()
                self._change(network)  # read anew while it came up
                self._tell_own_networks()
            return network

    # Going down

    def schedule_down(self, network: ManagedNetwork) -> None:
        """Take a network down when it has been without NICs for a while."""
        if network.key in self._going or self._ledger.is_used(network.bridge):
            return
        self._going[network.key] = asyncio.get_running_loop().call_later(
            self.grace, self._start_down, network
        )

    def _start_down(self, network: ManagedNetwork) -> None:
        self._going.pop(network.key, None)
        self._start(self.take_down(network))

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def take_down(self, network: ManagedNetwork) -> None:
        """Take a network down unless it got a NIC in the meantime."""
        async with self._locks.setdefault(network.key, asyncio.Lock()):
            current = self._up.get(network.key)
            if current is not network or self._ledger.is_used(network.bridge):
                return
            # Out of the way first: whoever comes now waits for the lock and
            # brings up a new one.
            del self._up[network.key]
            await network.down()
            self.on_down(network)
            self._tell_own_networks()
            self.restore_host()

    def restore_host(self) -> None:
        """Let the host forward as it did before, and route without rules of ours,
        once no network needs it: none that is up, and none that is coming up,
        another user's included."""
        if self._rising:
            return
        if not any(n.definition.mode is Mode.NAT for n in self._up.values()):
            self._env.ip_forwarding.restore()
        if self._up:
            return
        if self._env.routing:
            try:
                self._env.nft.run("delete the inet table", ruleset.no_routing())
                self._env.routing = False
                self._own = set()
            except NftError as err:
                _log.error("%s", err)

    def cancel(self) -> None:
        """Forget all that was to be done later."""
        for handle in (*self._going.values(), self._looking, self._sustaining):
            if handle is not None:
                handle.cancel()
        self._going.clear()
        self._looking = self._sustaining = None

    async def wait_for_rising(self) -> None:
        """Until no network is coming up or going down any more."""
        for lock in list(self._locks.values()):
            if lock.locked():
                async with lock:
                    pass

    # Looking after them

    def look_at_host(self) -> None:
        """The host's addresses or routes have changed: look at them, soon."""
        if self._looking is None and self._up:
            self._looking = asyncio.get_running_loop().call_later(_SETTLE, self._look)

    def _look(self) -> None:
        self._looking = None
        try:
            used = list(rtnetlink.used_networks(self._env.netlink))
        except NetlinkError as err:
            _log.warning("the host's addresses: %s", err)
            return
        v4 = [(i, net) for i, net in used if isinstance(net, IPv4Network)]
        for network in self._up.values():
            if network.look_for_collision(v4):
                self.on_note(
                    network,
                    f"its subnet {network.subnet4} is now also {network.collision}"
                    " of this host"
                    if network.collision
                    else f"its subnet {network.subnet4} is its own again",
                )
        self._tell_own_networks()

    def own_networks(self, networks: Collection[ManagedNetwork]) -> str:
        """The statements that close the host's own networks to guests of these
        networks that get to the Internet only; "" if they do already, or need not.

        :raises NetlinkError: the kernel does not say what they are.
        """
        own: set[IPv4Network | IPv6Network] = set()
        if any(n.definition.egress is Egress.INTERNET for n in networks):
            of_ours = {network.bridge_index for network in networks}
            own = {
                net
                for index, net in rtnetlink.used_networks(self._env.netlink)
                if index and index not in of_ours and not net.is_link_local
            }
        if own == self._own:
            return ""
        self._own = own
        return ruleset.host_networks(own)

    def _tell_own_networks(self) -> None:
        before = self._own
        try:
            text = self.own_networks(self._up.values())
            if text:
                self._env.nft.run("tell the host's networks", text)
        except (NetlinkError, NftError) as err:
            self._own = before  # told the next time
            _log.error("%s", err)

    def _sustain_soon(self) -> None:
        if self._sustaining is None and self._up:
            self._sustaining = asyncio.get_running_loop().call_later(
                _SUSTAIN, self._sustain
            )

    def _sustain(self) -> None:
        """Put right what somebody changed that the networks that are up need:
        a program that sets all sysctls anew switches forwarding off."""
        self._sustaining = None
        if any(n.definition.mode is Mode.NAT for n in self._up.values()):
            try:
                self._env.ip_forwarding.enable()
            except OSError as err:
                _log.error("forwarding is off and stays off: %s", err)
        self._sustain_soon()

    # Other definitions

    def change(self) -> list[str]:
        """Hold all instances against what is wanted now.

        :returns: what has changed, and what will only when guests have gone.
        """
        told: list[str] = []
        for network in self.all():
            told += self._change(network)
        self._tell_own_networks()
        return told

    def _change(self, network: ManagedNetwork) -> list[str]:
        wanted = self.wanted(network.name)
        if wanted is None:
            return [f"{network.key}: removed when its last guest has gone"]
        try:
            changed = network.change(wanted)
        except (OSError, NftError) as err:
            _log.error("%s", err)
            return [f"{network.key}: not changed, see the broker's log"]
        told = []
        if changed:
            told.append(f"{network.key}: changed {', '.join(changed)}")
            self.on_changed(network, changed)
        if "dns" in changed or "egress" in changed:
            self._start(self._restart_names(network))
        waiting = network.differs(wanted)
        if waiting:
            told.append(
                f"{network.key}: {', '.join(waiting)} will change when its"
                " last guest has gone"
            )
        return told

    async def _restart_names(self, network: ManagedNetwork) -> None:
        try:
            await network.dnsmasq.restart()
        except OSError as err:
            _log.error("the names of %s stay as they were: %s", network.key, err)


def _ignore_note(network: ManagedNetwork, text: str) -> None:
    """Until somebody wants to know."""


def _ignore_change(network: ManagedNetwork, changed: list[str]) -> None:
    """Until somebody wants to know."""
