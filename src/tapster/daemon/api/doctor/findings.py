# SPDX-License-Identifier: LGPL-2.1-or-later
"""Judges what is in guests' way: from facts alone, without looking at the host.

Other programs' rules and settings are not ours to change, and some of them can't be
outdone by rules of ours. Each is told with the command that puts it right.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ....model import BRIDGE_PREFIX
from . import firewalls
from .finding import Finding
from .foreign_firewall import NftSimulation
from .host_facts import HostFacts

# Codes of findings about programs that manage devices.
OF_MANAGERS = ("networkmanager", "networkd")

_SEVERITIES = ("error", "warning", "info")


def diagnose(
    listing: Iterable[Mapping[str, Any]], bridges: Sequence[str], host: HostFacts
) -> list[Finding]:
    """What is in the way, the worst first.

    :param listing: the objects of libnftables' ``list ruleset``.
    :param bridges: those that are up; without any, one is imagined. One that is not a
        network of ours (a Linux bridge) is judged by its bridged frames alone.
    :param host: what is known of the host besides.
    """
    ours = [bridge for bridge in bridges if bridge.startswith(BRIDGE_PREFIX)]
    found = [
        *firewalls.blocked(NftSimulation(listing), bridges, host),
        *_forwarding(ours, host),
        *_reverse_paths(host),
        *_networkmanager(host),
        *_networkd(host),
        *_ipv6(ours, host),
        *_overlaps(host),
    ]
    return sorted(found, key=lambda finding: _SEVERITIES.index(finding.severity))


def of_configuration(problem: str | None) -> Finding:
    """The broker started with a configuration that is wrong.

    :param problem: what is wrong; None where the caller should not be told.
    """
    return Finding(
        "configuration",
        "error",
        problem or "the broker's configuration is wrong, and it serves nothing",
        "tapster policy check, correct what it says, then: tapster network reload",
    )


def of_hook(problem: str | None) -> Finding:
    """A hook can't be trusted, so that nothing is handed out.

    :param problem: which hook, and why; None where the caller should not be told.
    """
    return Finding(
        "hook",
        "error",
        f"no NIC is handed out: {problem or 'one of the hooks cannot be run'}",
        "correct it, or take its right to be executed away; see docs/hooks.md",
    )


def _forwarding(ours: Sequence[str], host: HostFacts) -> Iterator[Finding]:
    """Somebody has switched off what we need and had switched on."""
    if not ours:
        return
    switches = {"ipv4/ip_forward": "IPv4"}
    if host.has_ipv6:
        switches["ipv6/conf/all/forwarding"] = "IPv6"
    if host.sysctls.get("ipv4/ip_forward") != "0":  # else the bridges' are off by it
        switches |= {f"ipv4/conf/{b}/forwarding": f"IPv4 on {b}" for b in ours}
    for key, what in switches.items():
        if host.sysctls.get(key) == "0":
            yield Finding(
                "forwarding-off",
                "error",
                f"forwarding of {what} is off again: guests reach nothing outside",
                f"sysctl -w net/{key}=1",
            )


def _reverse_paths(host: HostFacts) -> Iterator[Finding]:
    """A strict rp_filter does harm where there are several ways out. Of the setting
    for all devices and a device's own, the greater counts."""
    if len(host.uplinks) < 2:
        return
    of_all = int(host.sysctls.get("ipv4/conf/all/rp_filter", "0"))
    for uplink in host.uplinks:
        key = f"ipv4/conf/{uplink}/rp_filter"
        if max(of_all, int(host.sysctls.get(key, "0"))) == 1:
            yield Finding(
                "rp-filter",
                "warning",
                f"rp_filter is strict on {uplink}, one of {len(host.uplinks)} ways out:"
                " answers that come back by another way than they went are dropped",
                f"sysctl -w net/{key}=2",
            )


def _networkmanager(host: HostFacts) -> Iterator[Finding]:
    if host.networkmanager is False:
        path = "/etc/NetworkManager/conf.d"
        yield Finding(
            "networkmanager",
            "warning",
            "NetworkManager may manage our devices: they are not in unmanaged-devices",
            f"mkdir -p {path} && printf '[keyfile]\\nunmanaged-devices+="
            f"interface-name:tapster*;interface-name:tapbr*\\n'"
            f" > {path}/zz-tapster.conf && nmcli general reload",
        )


def _networkd(host: HostFacts) -> Iterator[Finding]:
    if host.networkd is None:
        return
    # The first file that fits counts: one is needed whose name sorts before.
    culprit = os.path.basename(host.networkd)
    names = ("00-tapster.network", "0-tapster.network", "-tapster.network")
    name = next((n for n in names if n < culprit), None)
    path = "/etc/systemd/network"
    yield Finding(
        "networkd",
        "warning",
        f"systemd-networkd manages tapster's devices by {host.networkd}",
        f"mkdir -p {path} && printf '[Match]\\nName=tapster* tapbr*\\n[Link]\\n"
        f"Unmanaged=yes\\n' > {path}/{name} && networkctl reload"
        if name
        else None,
    )


def _ipv6(ours: Sequence[str], host: HostFacts) -> Iterator[Finding]:
    if "ipv6/conf/all/disable_ipv6" not in host.sysctls:
        yield Finding("no-ipv6", "info", "this kernel runs without IPv6: guests too")
        return
    devices = ("all", "default", *ours)
    keys = [f"ipv6/conf/{device}/disable_ipv6" for device in devices]
    off = [key for key in keys if host.sysctls.get(key, "0") != "0"]
    if off:
        yield Finding(
            "no-ipv6",
            "info",
            "IPv6 is switched off here: guests have it in networks that come up"
            " after it is on",
            "sysctl -w " + " ".join(f"net/{key}=0" for key in off),
        )


def _overlaps(host: HostFacts) -> Iterator[Finding]:
    for bridge, subnet, other in host.overlaps:
        yield Finding(
            "subnet-collision",
            "error",
            f"{subnet} of {bridge} overlaps {other} of this host: end the network's"
            " guests, and the next one gets a free subnet",
        )
