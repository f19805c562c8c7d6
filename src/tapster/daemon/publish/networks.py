# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which networks of ours are up: started for a first NIC, stopped after the last,
and changed when the configuration is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Coroutine
from typing import Protocol

from ...errors import BrokerFailure
from ...kernel.nft import NftError
from ...model import NetworkDefinition
from ...networks.host_context import HostContext
from ...networks.managed_network import ManagedNetwork, instance_key
from ...policy.config.current import CurrentConfig
from ..nics.ledger import Ledger
from ..nics.nic import Nic
from .host_upkeep import HostUpkeep

_log = logging.getLogger(__name__)


class NetworkListener(Protocol):
    """Whoever has to know what becomes of networks."""

    def network_up(self, network: ManagedNetwork) -> None:
        """A network is up; it may have no NIC yet."""

    def network_down(self, network: ManagedNetwork) -> None:
        """A network is down, and its bridge is gone."""

    def network_noted(self, network: ManagedNetwork, text: str) -> None:
        """Something happened to a network that its users want to know."""

    def network_changed(
        self, network: ManagedNetwork, changed: Collection[str]
    ) -> None:
        """A network that is up has another definition; `changed` are its properties
        that differ, which its NICs have to follow."""


class RunningNetworks:
    """All instances of one broker's networks."""

    def __init__(
        self,
        host: HostContext,
        ledger: Ledger,
        current: CurrentConfig,
        listener: NetworkListener,
    ) -> None:
        """
        :param host: what all networks share.
        :param ledger: says which bridges have NICs.
        :param current: has the definitions, and how long a network without NICs
            stays up.
        :param listener: is told what becomes of networks.
        """
        self._host = host
        self._ledger = ledger
        self._current = current
        self._listener = listener
        self._up: dict[str, ManagedNetwork] = {}
        self._keys: dict[str, str] = {}  # by bridge; a bridge keeps its key for ever
        self._starting: set[str] = set()  # keys
        self._locks: dict[str, asyncio.Lock] = {}
        self._stop_timers: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.upkeep = HostUpkeep(host, self._up.values(), listener.network_noted)

    def all(self) -> list[ManagedNetwork]:
        """Those that are up."""
        return list(self._up.values())

    def get(self, key: str) -> ManagedNetwork | None:
        return self._up.get(key)

    def on_bridge(self, bridge: str) -> ManagedNetwork | None:
        """The instance whose bridge that is; None if the bridge is not ours."""
        key = self._keys.get(bridge)
        return self._up.get(key) if key is not None else None

    def network_of(self, nic: Nic) -> ManagedNetwork | None:
        """The instance that a NIC is on; None if it is on a Linux bridge."""
        return self.on_bridge(nic.bridge) if nic.network else None

    def adopt(self, network: ManagedNetwork) -> None:
        """Take in an instance that an earlier broker started."""
        self._insert(network)
        self.upkeep.sustain_soon()

    def _insert(self, network: ManagedNetwork) -> None:
        self._up[network.key] = network
        self._keys[network.bridge] = network.key

    # Coming up

    def ready(self, definition: NetworkDefinition, uid: int) -> ManagedNetwork | None:
        """The user's instance, if it is up and a NIC may be put on it.

        A timer that would stop it is cancelled: the caller has to call
        `schedule_down` when it is done.
        """
        network = self._up.get(instance_key(definition, uid))
        if (
            network is None
            or not network.is_up
            or self._is_outdated(network, definition)
        ):
            return None
        self._cancel_stop(network.key)
        return network

    def _is_outdated(self, network: ManagedNetwork, wanted: NetworkDefinition) -> bool:
        """Whether another definition is wanted, and no guest keeps this one."""
        return not self._ledger.is_used(network.bridge) and bool(
            network.differs(wanted)
        )

    def _cancel_stop(self, key: str) -> None:
        handle = self._stop_timers.pop(key, None)
        if handle is not None:
            handle.cancel()

    async def bring_up(self, definition: NetworkDefinition, uid: int) -> ManagedNetwork:
        """The user's instance, started by this call or by another one.

        :raises AddressesExhausted: no subnet is free.
        :raises BrokerFailure: it does not come up.
        """
        key = instance_key(definition, uid)
        async with self._locks.setdefault(key, asyncio.Lock()):
            network = self._up.get(key)
            if network is not None and self._is_outdated(network, definition):
                self._cancel_stop(key)
                await self._stop(network)
                network = None
            if network is None or not network.is_up:
                network = await self._start(ManagedNetwork(self._host, definition, uid))
            return network

    async def _start(self, network: ManagedNetwork) -> ManagedNetwork:
        key = network.key
        self._starting.add(key)
        try:
            await network.up()
            self._insert(network)
        except (OSError, NftError, BrokerFailure) as err:
            _log.error("network %s did not come up: %s", key, err)
            if isinstance(err, BrokerFailure):
                raise
            raise BrokerFailure(
                f"network {network.name} did not come up",
                "the broker's log has the reason",
            ) from err
        finally:
            self._starting.discard(key)
            self.restore_host()
        self._listener.network_up(network)
        self.upkeep.sustain_soon()
        self._follow(network)  # the configuration may have changed meanwhile
        self.upkeep.close_host_networks()
        return network

    # Going down

    def schedule_down(self, network: ManagedNetwork) -> None:
        """Stop a network when it has been without NICs for a while."""
        if network.key in self._stop_timers or self._ledger.is_used(network.bridge):
            return
        self._stop_timers[network.key] = asyncio.get_running_loop().call_later(
            self._current.value.broker.network_grace_seconds,
            self._grace_is_over,
            network,
        )

    def _grace_is_over(self, network: ManagedNetwork) -> None:
        self._stop_timers.pop(network.key, None)
        self._run(self.take_down(network))

    def _run(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def take_down(self, network: ManagedNetwork) -> None:
        """Stop a network unless it has got a NIC in the meantime."""
        async with self._locks.setdefault(network.key, asyncio.Lock()):
            current = self._up.get(network.key)
            if current is not network or self._ledger.is_used(network.bridge):
                return
            await self._stop(network)
            self.upkeep.close_host_networks()
            self.restore_host()

    async def _stop(self, network: ManagedNetwork) -> None:
        # Out of the way first: whoever wants the network now waits for the lock, and
        # starts a new one.
        del self._up[network.key]
        await network.down()
        self._listener.network_down(network)

    def restore_host(self) -> None:
        """Give the host back what no network needs any more, neither one that is up
        nor one that is starting, which may be another user's."""
        if not self._starting:
            self.upkeep.restore()

    def cancel(self) -> None:
        """Forget all that was to be done later."""
        for handle in self._stop_timers.values():
            handle.cancel()
        self._stop_timers.clear()
        self.upkeep.cancel()

    async def wait_for_locks(self) -> None:
        """Until no network is starting or stopping any more."""
        for lock in list(self._locks.values()):
            if lock.locked():
                async with lock:
                    pass

    # Other definitions

    def follow_configuration(self) -> list[str]:
        """Hold all instances against the configuration that holds now.

        :returns: what has changed, and what will only when guests have gone; a line
            for people each.
        """
        told: list[str] = []
        for network in self.all():
            told += self._follow(network)
        self.upkeep.close_host_networks()
        return told

    def _follow(self, network: ManagedNetwork) -> list[str]:
        wanted = self._current.value.networks.get(network.name)
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
            self._listener.network_changed(network, changed)
        if "dns" in changed or "egress" in changed:
            self._run(self._restart_dnsmasq(network))
        waiting = network.differs(wanted)
        if waiting:
            told.append(
                f"{network.key}: {', '.join(waiting)} will change when its"
                " last guest has gone"
            )
        return told

    async def _restart_dnsmasq(self, network: ManagedNetwork) -> None:
        try:
            await network.dnsmasq.restart()
        except OSError as err:
            _log.error("the names of %s stay as they were: %s", network.key, err)
