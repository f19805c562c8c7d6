# SPDX-License-Identifier: LGPL-2.1-or-later
"""Judges whether other programs' nftables rules stop what guests need. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ....model import BRIDGE_PREFIX
from .finding import Finding
from .foreign_firewall import NftSimulation, Obstacle, Packet, packet
from .host_facts import HostFacts

_FORWARD, _INPUT, _BRIDGED = "forward-drop", "input-drop", "bridge-nf-call"
_BETWEEN_GUESTS = "from guest to guest"
_TABLES_OF_IPTABLES = ("filter", "mangle", "raw", "security")
_TRUST = "--zone=trusted --add-interface=tapbr+"


def blocked(
    rules: NftSimulation, bridges: Sequence[str], host: HostFacts
) -> Iterator[Finding]:
    """What does not get through, one finding for each command that helps.

    :param rules: everybody else's.
    :param bridges: those that are up; without any, one is imagined.
    :param host: its uplinks and sysctls.
    """
    groups: dict[tuple[str, str], list[Obstacle]] = {}
    for code, wanted in _packets(bridges or [f"{BRIDGE_PREFIX}0"], host):
        for obstacle in rules.obstacles(wanted):
            key = code, _remedy(rules, obstacle)
            groups.setdefault(key, []).append(obstacle)
    for (code, remedy), obstacles in groups.items():
        certain = [obstacle for obstacle in obstacles if obstacle.certain]
        told = certain or obstacles
        chains = dict.fromkeys(f"{o.family} {o.table} {o.chain}" for o in told)
        packets = dict.fromkeys(o.packet.what for o in told)
        yield Finding(
            code,
            "error" if certain else "warning",
            f"nftables: {', '.join(chains)} {'drops' if certain else 'may drop'}"
            f" {', '.join(packets)}",
            remedy,
        )


# What has to get through


def _packets(bridges: Sequence[str], host: HostFacts) -> Iterator[tuple[str, Packet]]:
    """Each packet with the code of the finding if it does not get through.

    A bridge that is not a network of ours (a Linux bridge) is judged by its bridged
    frames alone, where the kernel passes those to iptables.
    """
    for bridge in bridges:
        for family in ("ip", "ip6") if host.has_ipv6 else ("ip",):
            iptables = "iptables" if family == "ip" else "ip6tables"
            if host.sysctls.get(f"bridge/bridge-nf-call-{iptables}") == "1":
                yield _BRIDGED, packet(
                    _BETWEEN_GUESTS, "forward", family, "tcp",
                    iifname=bridge, oifname=bridge,
                )  # fmt: skip
            if bridge.startswith(BRIDGE_PREFIX):
                yield from _packets_to_host(bridge, family)
                for uplink in host.uplinks or (None,):
                    yield from _packets_by(uplink, bridge, family)


def _packets_to_host(bridge: str, family: str) -> Iterator[tuple[str, Packet]]:
    is_v4 = family == "ip"
    yield _INPUT, packet(
        "DHCP", "input", family, "udp", iifname=bridge,
        sport=68 if is_v4 else 546, dport=67 if is_v4 else 547,
        daddr="255.255.255.255" if is_v4 else "ff02::1:2",
    )  # fmt: skip
    yield _INPUT, packet("DNS", "input", family, "udp", iifname=bridge, dport=53)


def _packets_by(
    uplink: str | None, bridge: str, family: str
) -> Iterator[tuple[str, Packet]]:
    """:param uplink: None: which one is not known."""
    yield _FORWARD, packet(
        "what guests send outside", "forward", family, "tcp",
        iifname=bridge, oifname=uplink,
    )  # fmt: skip
    yield _FORWARD, packet(
        "the answers to guests", "forward", family, "tcp",
        iifname=uplink, oifname=bridge, state="established",
    )  # fmt: skip


# What helps


def _remedy(rules: NftSimulation, obstacle: Obstacle) -> str:
    """The command by which a base chain lets our packets pass, in the words of the
    program that made the chain.

    It lets everything of our bridges pass: who may reach a guest is decided in our own
    table, where every packet has to pass, too. Forwarded ports need nothing more.
    """
    is_ours = obstacle.packet.what != _BETWEEN_GUESTS or _device(obstacle).startswith(
        BRIDGE_PREFIX
    )
    family, table = obstacle.family, obstacle.table
    if table == "firewalld" and is_ours:
        return f"firewall-cmd {_TRUST} && firewall-cmd --permanent {_TRUST}"
    name = "tapbr+" if is_ours else _device(obstacle)
    if _is_forwarded(obstacle) and rules.has_chain(family, table, "DOCKER-USER"):
        return _by_iptables(obstacle, "DOCKER-USER", name)
    if family in ("ip", "ip6") and rules.has_chain(family, table, "ufw-", "ufw6-"):
        return _by_ufw(obstacle, name)
    is_iptables = table in _TABLES_OF_IPTABLES and obstacle.chain.isupper()
    if is_iptables and family != "inet":
        return _by_iptables(obstacle, obstacle.chain, name)
    return _by_nft(obstacle, "tapbr*" if is_ours else _device(obstacle))


def _device(obstacle: Obstacle) -> str:
    return str(obstacle.packet.fields["meta iifname"])


def _is_forwarded(obstacle: Obstacle) -> bool:
    return obstacle.packet.hook == "forward"


def _by_ufw(obstacle: Obstacle, name: str) -> str:
    if _is_forwarded(obstacle):
        return f"ufw route allow in on {name} && ufw route allow out on {name}"
    return f"ufw allow in on {name}"


def _by_iptables(obstacle: Obstacle, chain: str, name: str) -> str:
    start = "iptables" if obstacle.family == "ip" else "ip6tables"
    if obstacle.table != "filter":
        start += f" -t {obstacle.table}"
    start += f" -I {chain}"
    command = f"{start} -i {name} -j ACCEPT"
    if _is_forwarded(obstacle):
        command += f" && {start} -o {name} -j ACCEPT"
    return command


def _by_nft(obstacle: Obstacle, name: str) -> str:
    start = f"nft insert rule {obstacle.family} {obstacle.table} {obstacle.chain}"
    command = f"{start} 'iifname \"{name}\" accept'"
    if _is_forwarded(obstacle):
        command += f" && {start} 'oifname \"{name}\" accept'"
    return command
