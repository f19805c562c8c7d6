# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a hook is told: one JSON object on stdin, and the same in the environment.

The words are those of the wire. docs/hooks.md has each; a test holds it equal
to this.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ....networks import addresses
from ....networks.managed_network import ManagedNetwork
from ...audit.log import visible
from ...identify.accounts import user_name
from ...nics.ledger import Nic
from ...process.spawned.hook import MARK

ATTACH, DETACH, TAMPER = "attach", "detach", "tamper"
NETWORK_UP, NETWORK_DOWN = "network-up", "network-down"
EVENTS = (ATTACH, DETACH, NETWORK_UP, NETWORK_DOWN, TAMPER)

PREFIX = "TAPSTER_"
OF_EACH = ("event", "hook", "again", "reason")
OF_NIC = (
    *("ifname", "mac", "ipv4", "ipv6", "mtu", "bridge", "network"),
    *("uid", "user", "pid", "name"),
)
OF_NETWORK = (
    *("network", "mode", "bridge", "subnet4", "subnet6", "gateway4", "gateway6"),
    *("domain", "mtu", "uid", "user"),
)

NUMBERS = ("mtu", "uid", "pid")  # the others are text

Words = dict[str, Any]  # str, int, or None where there is nothing to say


def of_nic(nic: Nic) -> Words:
    return {name: getattr(nic, name) for name in OF_NIC}


def of_network(network: ManagedNetwork) -> Words:
    v4, v6, uid = network.subnet4, network.subnet6, network.uid
    told = {
        "network": network.name,
        "mode": network.definition.mode.value,
        "bridge": network.bridge,
        "subnet4": str(v4),
        "subnet6": str(v6) if v6 else None,
        "gateway4": str(addresses.gateway(v4)),
        "gateway6": str(addresses.gateway(v6)) if v6 else None,
        "domain": network.definition.full_domain,
        "mtu": network.mtu,
        "uid": uid,
        "user": user_name(uid) if uid is not None else None,
    }
    return {name: told[name] for name in OF_NETWORK}


def device_of(words: Mapping[str, Any]) -> str:
    """What they are about: the tap, or the bridge of a network."""
    return str(words.get("ifname", words["bridge"]))


def of_record(words: Mapping[str, Any]) -> dict[str, Any]:
    """The same as fields of an audit record."""
    names: tuple[str, ...] = ("network", "bridge", "uid", "user")
    if "ifname" in words:  # a network's other words are about no one guest
        names += ("name", "ifname", "mac", "ipv4", "ipv6", "pid")
    told = {name: words[name] for name in names}
    if told["uid"] is None:
        del told["uid"], told["user"]
    return {"owner": words["uid"], **told}


def of_event(
    event: str, hook: str, words: Mapping[str, Any], again: bool, reason: str | None
) -> Words:
    """All that one hook is told; text in it is printable."""
    told = {"event": event, "hook": hook, "again": again, "reason": reason, **words}
    return {
        name: visible(value) if isinstance(value, str) else value
        for name, value in told.items()
    }


def as_stdin(told: Mapping[str, Any]) -> bytes:
    """One line of ASCII."""
    return json.dumps(told).encode() + b"\n"


def as_environment(told: Mapping[str, Any], mark: str) -> dict[str, str]:
    """A hook's environment, but for PATH and LC_ALL, which are the spawner's: what
    is null or false is not in it.

    :param mark: what this run's processes are known by.
    """
    words = {
        PREFIX + name.upper(): "1" if value is True else str(value)
        for name, value in told.items()
        if value is not None and value is not False
    }
    return {**words, MARK: mark}
