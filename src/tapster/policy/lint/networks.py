# SPDX-License-Identifier: LGPL-2.1-or-later
"""What networks and Linux bridges say that their author may not have meant."""

from __future__ import annotations

from collections.abc import Iterator

from ..config.load import Reading
from ..config.toml_locations import Document, Keys
from ..config.values import shown
from .findings import Finding, Severity, at
from .host import Host


def lint_networks(reading: Reading, host: Host) -> Iterator[Finding]:
    """Findings about all Linux bridges and reservations, in no order."""
    yield from _bridges(reading, host)
    yield from _reservations(reading)


def about_bridge(name: str, host: Host) -> tuple[Severity, str, str, str] | None:
    """What is wrong with a name that should be a Linux bridge's.

    :returns: severity, code, message and hint; None if it is a Linux bridge.
    """
    found = host.is_bridge(name)
    if found is None:
        text = f"there is no Linux bridge {shown(name)} on this host"
        return Severity.NOTE, "no-such-bridge", text, "it may come later"
    if not found:
        text = f"{shown(name)} is not a Linux bridge"
        return Severity.WARNING, "not-a-bridge", text, "only Linux bridges are used"
    return None


def _bridges(reading: Reading, host: Host) -> Iterator[Finding]:
    """About each Linux bridge, where it is named first."""
    named: dict[str, tuple[Document, Keys]] = {}
    for name, network in reading.config.networks.items():
        for document in reversed(reading.documents):
            if "bridge" in document.data.get("networks", {}).get(name, {}):
                keys: Keys = ("networks", name, "bridge")
                named.setdefault(network.bridge or "", (document, keys))
                break
    for rule, document, keys in reading.written:
        for index, name in enumerate(rule.bridges):
            named.setdefault(name, (document, (*keys, "bridges", index)))
    for name, (document, keys) in named.items():
        words = about_bridge(name, host)
        if words is not None:
            yield at(document, keys, *words)


def _reservations(reading: Reading) -> Iterator[Finding]:
    """What two networks of one Linux bridge reserve for two guests.

    Within one network the reader refuses that.
    """
    seen: dict[tuple[str, object], tuple[str, str]] = {}
    for name, network in reading.config.networks.items():
        if network.bridge is None:
            continue
        for guest, what in network.reservations.items():
            for value in filter(None, (what.ipv4, what.ipv6, what.mac)):
                mine = (guest, name)
                first = seen.setdefault((network.bridge, value), mine)
                if first[0] != guest:
                    yield _twice(reading, value, first, mine)


def _twice(
    reading: Reading, value: object, first: tuple[str, str], second: tuple[str, str]
) -> Finding:
    """
    :param value: the address or MAC.
    :param first: the guest that has it already, and the guest's network.
    :param second: the guest that it is reserved for again, and that guest's network.
    """
    guest, network = first
    there, there_keys = _reservation(reading, network, guest)
    document, keys = _reservation(reading, second[1], second[0])
    bridge = reading.config.networks[network].bridge
    return at(
        document,
        keys,
        Severity.WARNING,
        "reserved-twice",
        f"{value} is guest {guest}'s on network {network}, which is on Linux "
        f"bridge {bridge} too",
        "no two guests of a bridge can have it",
        (there.line(*there_keys),),
    )


def _reservation(reading: Reading, network: str, guest: str) -> tuple[Document, Keys]:
    """Where a reservation was written last, which is the one that holds."""
    keys: Keys = ("networks", network, "reservations", guest)
    for document in reversed(reading.documents):
        found = document.data.get("networks", {}).get(network, {})
        if guest in found.get("reservations", {}):
            return document, keys
    raise KeyError(guest)
