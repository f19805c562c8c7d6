# SPDX-License-Identifier: LGPL-2.1-or-later
"""Another configuration under running guests: what changes for them, and when.

A network of ours changes what it can while it is up, and the rest when its last
guest has gone (`publish/networks.py`). NICs follow their network here. A network of
mode `bridge` is always up, so its NICs are compared with the configuration itself.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from ..kernel.nft import NftError
from ..model import NetworkDefinition, State
from ..networks.managed_network import ManagedNetwork
from ..policy.config.current import CurrentConfig
from ..policy.config.load import Config
from .audit.events import Events
from .nics.ledger import Ledger
from .nics.nic import Nic
from .provision.adjust import Adjuster
from .publish.hooks.lifecycle import Hooks
from .publish.networks import RunningNetworks
from .publish.open_forwards import OpenForwards

_log = logging.getLogger(__name__)


class NetworkNews:
    """Is told what becomes of networks (`publish.networks.NetworkListener`): hooks
    and watchers hear of it, and NICs follow."""

    def __init__(
        self, ledger: Ledger, adjuster: Adjuster, hooks: Hooks, events: Events
    ) -> None:
        self._ledger = ledger
        self._adjuster = adjuster
        self._hooks = hooks
        self._events = events

    def network_up(self, network: ManagedNetwork) -> None:
        self._hooks.network_up(network)

    def network_down(self, network: ManagedNetwork) -> None:
        self._hooks.network_down(network)

    def network_noted(self, network: ManagedNetwork, text: str) -> None:
        self._events.network(network.name, network.bridge, network.uid, text)

    def network_changed(
        self, network: ManagedNetwork, changed: Collection[str]
    ) -> None:
        for nic in self._ledger.on_bridge(network.bridge):
            follow(self._adjuster, nic, network.definition, changed)


class Reconfigurer:
    """Replaces the configuration of one broker."""

    def __init__(
        self,
        current: CurrentConfig,
        ledger: Ledger,
        adjuster: Adjuster,
        networks: RunningNetworks,
        forwards: OpenForwards,
    ) -> None:
        self._current = current
        self._ledger = ledger
        self._adjuster = adjuster
        self._networks = networks
        self._forwards = forwards

    def reload(self, config: Config) -> list[str]:
        """Go by another configuration from now on.

        :returns: what that changes for guests that run, and when, for people.
        """
        self._current.replace(config)
        told = self._networks.follow_configuration() + self._change_on_bridges()
        for line in told:
            _log.info("%s", line)
        self._forwards.follow_configuration()
        return told

    def catch_up(self) -> None:
        """Hold all NICs to what their networks are: an earlier broker may have been
        killed while it changed one after the other."""
        for network in self._networks.all():
            for nic in self._ledger.on_bridge(network.bridge):
                changed = differences(network.definition, nic)
                if changed:
                    follow(self._adjuster, nic, network.definition, changed)

    def _change_on_bridges(self) -> list[str]:
        changes: dict[str, set[str]] = {}
        for nic in list(self._ledger):
            definition = self._current.value.networks.get(nic.network or "")
            if definition is None or definition.bridge != nic.bridge:
                continue
            changed = differences(definition, nic)
            if changed:
                follow(self._adjuster, nic, definition, changed)
                changes.setdefault(definition.name, set()).update(changed)
        return [
            f"{name}: changed {', '.join(sorted(changed))}"
            for name, changed in changes.items()
        ]


def differences(definition: NetworkDefinition, nic: Nic) -> set[str]:
    """In which properties a NIC is not as its network says that NICs are."""
    found = set()
    if nic.isolated != definition.is_isolating:
        found.add("isolation")
    if nic.rate != definition.rate:
        found.add("rate")
    return found


def follow(
    adjuster: Adjuster,
    nic: Nic,
    definition: NetworkDefinition,
    changed: Collection[str],
) -> None:
    """Have a NIC follow its network. What fails is logged: other NICs follow.

    :param changed: names of the network's properties that are others now.
    """
    if nic.state is State.QUARANTINED:
        return
    try:
        if "isolation" in changed:
            nic = adjuster.isolate(nic, definition.is_isolating)
        if "rate" in changed:
            adjuster.limit(nic, definition.rate)
    except (OSError, NftError) as err:
        _log.error("%s: %s", nic.ifname, err)
