# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a hook is told: one JSON object on stdin, and the same in the environment.

The fields have the names and the values that they have on the wire. docs/hooks.md
describes each; a test holds it equal to this module.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ....networks import addresses
from ....networks.managed_network import ManagedNetwork
from ...audit.log import visible
from ...identify.accounts import user_name
from ...nics.nic import Nic
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

NUMBERS = ("mtu", "uid", "pid")  # the fields that are not text

# Each value is text, a number, or None where there is nothing to say.
Payload = dict[str, Any]


def of_nic(nic: Nic) -> Payload:
    """What every event about a NIC has of it."""
    return {name: getattr(nic, name) for name in OF_NIC}


def of_network(network: ManagedNetwork) -> Payload:
    """What every event about a network has of it."""
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


def device_of(about: Mapping[str, Any]) -> str:
    """The device that a payload is about: a tap, or the bridge of a network."""
    return str(about.get("ifname", about["bridge"]))


def of_record(about: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a payload that an audit record has, too."""
    names: tuple[str, ...] = ("network", "bridge", "uid", "user")
    if "ifname" in about:  # a network's addresses are not those of a guest
        names += ("name", "ifname", "mac", "ipv4", "ipv6", "pid")
    told = {name: about[name] for name in names}
    if told["uid"] is None:
        del told["uid"], told["user"]
    return {"owner": about["uid"], **told}


def of_event(
    event: str, hook: str, about: Mapping[str, Any], again: bool, reason: str | None
) -> Payload:
    """All that one hook is told. Text in it is made printable.

    :param event: one of `EVENTS`.
    :param hook: the hook's own name.
    :param about: what `of_nic` or `of_network` says.
    :param again: whether the hook was run for this before, and cut off.
    :param reason: what was changed, in words; of `TAMPER` alone.
    """
    told = {"event": event, "hook": hook, "again": again, "reason": reason, **about}
    return {
        name: visible(value) if isinstance(value, str) else value
        for name, value in told.items()
    }


def as_stdin(told: Mapping[str, Any]) -> bytes:
    """The payload as one line of JSON, in ASCII."""
    return json.dumps(told).encode() + b"\n"


def as_environment(told: Mapping[str, Any], mark: str) -> dict[str, str]:
    """The payload as variables; what is None or False is left out. PATH and LC_ALL
    are added by the spawner.

    :param mark: the value of `MARK`, by which the processes of this run are found.
    """
    variables = {
        PREFIX + name.upper(): "1" if value is True else str(value)
        for name, value in told.items()
        if value is not None and value is not False
    }
    return {**variables, MARK: mark}
