# SPDX-License-Identifier: LGPL-2.1-or-later
"""What else on this host keeps guests from their network, and what helps.

Other programs' rules and settings are not ours to change, and some of them
can't be outdone from here: they are found, and told with the command that puts
them right. `gather` looks at the host, `diagnose` only judges.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Literal

from ....kernel import rtnetlink, sysctl
from ....kernel.netlink import NetlinkSocket
from ....model import BRIDGE_PREFIX
from . import foreign_firewall as firewall
from .foreign_firewall import Firewall, Obstacle, Packet

_EXAMPLES = {"tapster0": "tun", "tapbr0": "bridge"}  # a device of each kind
_NM = "NetworkManager"
_NM_DIRECTORIES = ("usr/lib", "run", "etc")  # the later ones count more
_NETWORKD_DIRECTORIES = ("usr/lib", "usr/local/lib", "run", "etc")
_TABLES_OF_IPTABLES = ("filter", "mangle", "raw", "security")
_TRUST = "--zone=trusted --add-interface=tapbr+"

# Findings about programs that manage devices.
OF_MANAGERS = ("networkmanager", "networkd")

Severity = Literal["error", "warning", "info"]
Setting = tuple[str, str, str]  # section, key, value


@dataclass(frozen=True)
class Finding:
    """One thing that is, or may be, in the way."""

    code: str
    severity: Severity
    message: str  # one line
    remedy: str | None = None  # one line, a command


@dataclass(frozen=True)
class Host:
    """What `diagnose` has to know besides the rules of nftables."""

    sysctls: Mapping[str, str] = field(default_factory=dict)  # those that exist
    uplinks: Sequence[str] = ()  # devices with a default route
    rivals: Sequence[tuple[str, str, str]] = ()  # bridge, its subnet, what overlaps
    networkmanager: bool | None = None  # does it leave us alone? None: not running
    networkd: str | None = None  # the file by which it would manage our devices


def of_configuration(problem: str | None) -> Finding:
    """The broker started with a configuration that is wrong.

    :param problem: what is; None where the caller should not be told.
    """
    return Finding(
        "configuration",
        "error",
        problem or "the broker's configuration is wrong, and it serves nothing",
        "tapster policy check, correct what it says, then: tapster network reload",
    )


def of_hook(problem: str | None) -> Finding:
    """A hook that is not to be trusted, so that nothing is handed out.

    :param problem: which, and why; None where the caller should not be told.
    """
    return Finding(
        "hook",
        "error",
        f"no NIC is handed out: {problem or 'one of the hooks cannot be run'}",
        "correct it, or take its right to be executed away; see docs/hooks.md",
    )


# Looking


def gather(netlink: NetlinkSocket, bridges: Sequence[str], root: str = "/") -> Host:
    """Read what there is to know, in the calling thread's network namespace.

    :param root: what /etc, /run and /usr are below.
    """
    uplinks = sorted(set(_default_routes()))
    keys = [
        "ipv4/ip_forward", "ipv4/conf/all/rp_filter", "ipv6/conf/all/forwarding",
        "ipv6/conf/all/disable_ipv6", "ipv6/conf/default/disable_ipv6",
        "bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables",
    ]  # fmt: skip
    keys += [f"ipv4/conf/{name}/rp_filter" for name in uplinks]
    keys += [f"ipv4/conf/{name}/forwarding" for name in bridges]
    keys += [f"ipv6/conf/{name}/disable_ipv6" for name in bridges]
    found = {key: sysctl.read(key) for key in keys}
    return Host(
        {key: value for key, value in found.items() if value is not None},
        uplinks,
        list(_rivals(netlink, bridges)),
        _networkmanager_leaves_us(root) if _runs(root, _NM) else None,
        _networkd_file(root) if _runs(root, "systemd/netif") else None,
    )


def _runs(root: str, directory: str) -> bool:
    return os.path.isdir(os.path.join(root, "run", directory))


def _default_routes() -> Iterator[str]:
    # /proc/net is of the process, which may have threads in other namespaces.
    with open("/proc/thread-self/net/route", encoding="ascii") as file:
        for line in file:
            words = line.split()
            if len(words) > 7 and words[1] == words[7] == "00000000":
                yield words[0]


def _rivals(
    netlink: NetlinkSocket, bridges: Sequence[str]
) -> Iterator[tuple[str, str, str]]:
    names = {link.ifindex: link.name for link in rtnetlink.links(netlink)}
    used = {
        (names.get(index, "a route"), net)
        for index, net in rtnetlink.used_networks(netlink)
        if not net.is_link_local and not net.is_multicast
    }
    for bridge in bridges:
        own = {net for device, net in used if device == bridge}
        for device, net in sorted(used, key=str):
            for subnet in own if device != bridge else ():
                whole = not any(_within(subnet, o) for o in own - {subnet})
                if whole and (_within(net, subnet) or _within(subnet, net)):
                    yield bridge, str(subnet), f"{net} ({device})"


def _within(one: IPv4Network | IPv6Network, other: IPv4Network | IPv6Network) -> bool:
    if isinstance(one, IPv4Network):
        return isinstance(other, IPv4Network) and one.subnet_of(other)
    return isinstance(other, IPv6Network) and one.subnet_of(other)


def _settings(path: str) -> list[Setting]:
    """What an ini file says, in its order; nothing if there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = [line.strip() for line in file]
    except OSError:
        return []
    section, found = "", []
    for line in lines:
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
            found.append((section, "", ""))
        elif line[:1] not in ("#", ";", "") and "=" in line:
            key, _, value = line.partition("=")
            found.append((section, key.strip(), value.strip()))
    return found


def _files(directories: Iterable[str], end: str) -> dict[str, str]:
    """Name → path, in the order of names; a later directory's hide the others."""
    found: dict[str, str] = {}
    for directory in directories:
        try:
            names = os.listdir(directory)
        except OSError:
            continue
        found |= {n: os.path.join(directory, n) for n in names if n.endswith(end)}
    return dict(sorted(found.items()))


def _networkmanager_leaves_us(root: str) -> bool:
    """NetworkManager.conf(5): conf.d in /usr/lib and /run, then the main file,
    then conf.d in /etc; what comes later counts."""
    places = [os.path.join(root, d, _NM, "conf.d") for d in _NM_DIRECTORIES]
    files = _files(places, ".conf")
    main = os.path.join(root, "etc", _NM, f"{_NM}.conf")
    early = [p for p in files.values() if not p.startswith(places[-1] + "/")]
    late = [p for p in files.values() if p.startswith(places[-1] + "/")]
    specs: list[str] = []
    for path in (*early, main, *late):
        for section, key, value in _settings(path):
            if section == "keyfile" and key.rstrip("+-") == "unmanaged-devices":
                new = [
                    s.strip() for s in value.replace(",", ";").split(";") if s.strip()
                ]
                if key.endswith("-"):
                    specs = [s for s in specs if s not in new]
                else:
                    specs = specs + new if key.endswith("+") else new
    return all(_specified(specs, *device) for device in _EXAMPLES.items())


def _specified(specs: Iterable[str], name: str, kind: str) -> bool:
    covered = False
    for spec in specs:
        inner = spec.removeprefix("except:")
        key, _, value = inner.rpartition(":")
        hit = inner == "*" or (key == "type" and value == kind)
        if key in ("interface-name", ""):
            hit = hit or fnmatch.fnmatchcase(name, value.removeprefix("~"))
        if hit and inner != spec:
            return False
        covered = covered or hit
    return covered


def _networkd_file(root: str) -> str | None:
    """systemd.network(5): the first file whose [Match] fits a device counts.

    What [Match] asks for besides name and kind is taken to be so.
    """
    places = [os.path.join(root, d, "systemd/network") for d in _NETWORKD_DIRECTORIES]
    for name, kind in _EXAMPLES.items():
        for path in _files(places, ".network").values():
            settings = _settings(path)
            if not settings or not _fits(settings, name, kind):
                continue
            ours = [v for s, k, v in settings if (s, k) == ("Link", "Unmanaged")]
            if not ours or ours[-1].lower() not in ("yes", "true", "on", "1"):
                return path
            break
    return None


def _fits(settings: Sequence[Setting], name: str, kind: str) -> bool:
    wanted: dict[str, list[str]] = {}
    for section, key, value in settings:
        if section == "Match" and key:
            wanted[key] = [*wanted.get(key, ()), *value.split()] if value else []
    kinds = (kind, "ether") if kind == "tun" else (kind,)
    for key, known in (("Name", (name,)), ("Kind", (kind,)), ("Type", kinds)):
        if not (globs := wanted.pop(key, [])):
            continue
        inverted = globs[0].startswith("!")
        globs = [g.removeprefix("!") for g in globs]
        if any(fnmatch.fnmatchcase(k, g) for k in known for g in globs) == inverted:
            return False
    return "Path" not in wanted  # virtual devices have none


# Judging


def diagnose(
    listing: Iterable[Mapping[str, Any]], bridges: Sequence[str], host: Host
) -> list[Finding]:
    """What is in the way, the worst first.

    :param listing: the objects of libnftables' ``list ruleset``.
    :param bridges: those that are up; without any, one is imagined. Of one that
        is not a network of ours (a Linux bridge) only what is bridged is judged.
    """
    found = [
        *_firewalls(Firewall(listing), bridges, host),
        *_forwarding(bridges, host),
        *_reverse_paths(host),
        *_managers(host),
        *_ipv6(bridges, host),
        *_collisions(host),
    ]
    order = ("error", "warning", "info")
    return sorted(found, key=lambda finding: order.index(finding.severity))


def _packets(bridges: Sequence[str], host: Host) -> Iterator[tuple[str, Packet]]:
    """What has to get through, and the code of the finding if it does not."""
    make = firewall.packet
    uplinks = host.uplinks or (None,)
    families = ["ip"] if _without_ipv6(host) else ["ip", "ip6"]
    for bridge in bridges:
        for family in families:
            nf = "bridge/bridge-nf-call-" + (
                "iptables" if family == "ip" else "ip6tables"
            )
            if host.sysctls.get(nf) == "1":
                yield "bridge-nf-call", make(
                    "from guest to guest", "forward", family, "tcp",
                    iifname=bridge, oifname=bridge,
                )  # fmt: skip
            if not bridge.startswith(BRIDGE_PREFIX):
                continue
            v4 = family == "ip"
            yield "input-drop", make(
                "DHCP", "input", family, "udp", iifname=bridge,
                sport=68 if v4 else 546, dport=67 if v4 else 547,
                daddr="255.255.255.255" if v4 else "ff02::1:2",
            )  # fmt: skip
            yield (
                "input-drop",
                make("DNS", "input", family, "udp", iifname=bridge, dport=53),
            )
            for uplink in uplinks:
                yield "forward-drop", make(
                    "what guests send outside", "forward", family, "tcp",
                    iifname=bridge, oifname=uplink,
                )  # fmt: skip
                yield "forward-drop", make(
                    "the answers to guests", "forward", family, "tcp",
                    iifname=uplink, oifname=bridge, state="established",
                )  # fmt: skip


def _firewalls(
    rules: Firewall, bridges: Sequence[str], host: Host
) -> Iterator[Finding]:
    groups: dict[tuple[str, str], list[Obstacle]] = {}
    for code, packet in _packets(bridges or [f"{BRIDGE_PREFIX}0"], host):
        for obstacle in rules.obstacles(packet):
            remedy = _let_pass(rules, obstacle)
            groups.setdefault((code, remedy), []).append(obstacle)
    for (code, remedy), obstacles in groups.items():
        certain = [o for o in obstacles if o.certain]
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


def _let_pass(rules: Firewall, obstacle: Obstacle) -> str:
    """The command that lets our packets pass a base chain.

    Who may reach a guest is decided in our own table: what is let through here
    has still to pass there, and forwarded ports need nothing more.
    """
    family, table, chain = obstacle.family, obstacle.table, obstacle.chain
    hook, device = obstacle.packet.hook, str(obstacle.packet.fields["meta iifname"])
    ours = obstacle.packet.what == "from guest to guest"
    ours = not ours or device.startswith(BRIDGE_PREFIX)
    if table == "firewalld" and ours:
        return f"firewall-cmd {_TRUST} && firewall-cmd --permanent {_TRUST}"
    name = "tapbr+" if ours else device
    iptables = "iptables" if family == "ip" else "ip6tables"
    docker = hook == "forward" and rules.has_chain(family, table, "DOCKER-USER")
    if family in ("ip", "ip6") and not docker and rules.has_chain(
        family, table, "ufw-", "ufw6-"
    ):  # fmt: skip
        if hook == "input":
            return f"ufw allow in on {name}"
        return f"ufw route allow in on {name} && ufw route allow out on {name}"
    if docker or (
        table in _TABLES_OF_IPTABLES and chain.isupper() and family != "inet"
    ):
        to = "DOCKER-USER" if docker else chain
        start = f"{iptables} -I {to}" if table == "filter" else (
            f"{iptables} -t {table} -I {to}"
        )  # fmt: skip
        command = f"{start} -i {name} -j ACCEPT"
        if hook == "forward":
            command += f" && {start} -o {name} -j ACCEPT"
        return command
    start = f"nft insert rule {family} {table} {chain}"
    name = "tapbr*" if ours else device
    command = f"{start} 'iifname \"{name}\" accept'"
    if hook == "forward":
        command += f" && {start} 'oifname \"{name}\" accept'"
    return command


def _forwarding(bridges: Sequence[str], host: Host) -> Iterator[Finding]:
    ours = [b for b in bridges if b.startswith(BRIDGE_PREFIX)]
    switches = {"ipv4/ip_forward": "IPv4"}
    if not _without_ipv6(host):
        switches["ipv6/conf/all/forwarding"] = "IPv6"
    if host.sysctls.get("ipv4/ip_forward") != "0":  # else it sets every device's
        switches |= {f"ipv4/conf/{b}/forwarding": f"IPv4 on {b}" for b in ours}
    for key, what in switches.items() if ours else ():
        if host.sysctls.get(key) == "0":
            yield Finding(
                "forwarding-off",
                "error",
                f"forwarding of {what} is off again: guests reach nothing outside",
                f"sysctl -w net/{key}=1",
            )


def _reverse_paths(host: Host) -> Iterator[Finding]:
    """Strict is no harm with one way out. The greater of the two settings counts."""
    of_all = int(host.sysctls.get("ipv4/conf/all/rp_filter", "0"))
    for uplink in host.uplinks if len(host.uplinks) > 1 else ():
        key = f"ipv4/conf/{uplink}/rp_filter"
        if max(of_all, int(host.sysctls.get(key, "0"))) == 1:
            yield Finding(
                "rp-filter",
                "warning",
                f"rp_filter is strict on {uplink}, one of {len(host.uplinks)} ways out:"
                " answers that come back by another way than they went are dropped",
                f"sysctl -w net/{key}=2",
            )


def _managers(host: Host) -> Iterator[Finding]:
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
    if host.networkd is not None:
        # The first file counts; "-" and "0" are early in the order of names.
        first = os.path.basename(host.networkd)
        names = ("00-tapster.network", "0-tapster.network", "-tapster.network")
        name = next((n for n in names if n < first), None)
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


def _without_ipv6(host: Host) -> bool:
    return host.sysctls.get("ipv6/conf/all/disable_ipv6", "1") != "0"


def _ipv6(bridges: Sequence[str], host: Host) -> Iterator[Finding]:
    if "ipv6/conf/all/disable_ipv6" not in host.sysctls:
        yield Finding("no-ipv6", "info", "this kernel runs without IPv6: guests too")
        return
    off = [
        key
        for key in (
            "ipv6/conf/all/disable_ipv6",
            "ipv6/conf/default/disable_ipv6",
            *(
                f"ipv6/conf/{b}/disable_ipv6"
                for b in bridges
                if b.startswith(BRIDGE_PREFIX)
            ),
        )
        if host.sysctls.get(key, "0") != "0"
    ]
    if off:
        yield Finding(
            "no-ipv6",
            "info",
            "IPv6 is switched off here: guests have it in networks that come up"
            " after it is on",
            "sysctl -w " + " ".join(f"net/{key}=0" for key in off),
        )


def _collisions(host: Host) -> Iterator[Finding]:
    for bridge, subnet, rival in host.rivals:
        yield Finding(
            "subnet-collision",
            "error",
            f"{subnet} of {bridge} overlaps {rival} of this host: end the network's"
            " guests, and the next one gets a free subnet",
        )
