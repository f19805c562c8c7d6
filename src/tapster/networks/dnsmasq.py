# SPDX-License-Identifier: LGPL-2.1-or-later
"""How dnsmasq is configured: DHCP, DNS and router advertisements of one instance.

Each network instance has a dnsmasq of its own, which is bound to the instance's bridge
alone and answers only guests that have a reservation (guest_files).
"""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

from ..kernel import process
from . import state_files

LEASE_TIME = "1h"


class Settings(NamedTuple):
    """What one dnsmasq serves."""

    bridge: str
    subnet4: IPv4Network
    subnet6: IPv6Network | None
    domain: str
    mtu: int
    directory: str  # its own, below the runtime directory
    # Addresses of resolvers; empty: those of /etc/resolv.conf. None: no names but the
    # guests' own are looked up.
    upstream: Sequence[str] | None
    user: str | None  # whom it becomes; None: stays who it is
    dhcp: bool = True  # and router advertisements
    slaac: bool = True  # False: IPv6 addresses by DHCPv6 alone
    routed: bool = True  # whether it tells guests a way out


def service_user() -> str | None:
    """The account that dnsmasq is to run as; None: the broker's own, as the broker has
    no CAP_SETUID, or there is no such account."""
    if not process.has_capability(process.CAP_SETUID):
        return None
    for name in ("dnsmasq", "nobody"):
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return name
    return None


def group_of(user: str) -> str:
    """The name of an account's group."""
    return grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_name


def configuration(settings: Settings) -> str:
    """The text of dnsmasq.conf."""
    s = settings
    lines = [
        f"interface={s.bridge}",
        "except-interface=lo",
        "bind-interfaces",
        "keep-in-foreground",
        f"pid-file={s.directory}/dnsmasq.pid",
        "log-facility=-",  # stderr, which is dnsmasq.log
        f"dhcp-leasefile={s.directory}/leases",
        "no-hosts",
        "no-ping",
        "dhcp-authoritative",
        "dhcp-ignore-names",  # a guest's name is the broker's to give
        f"dhcp-hostsdir={s.directory}/dhcp",
        f"hostsdir={s.directory}/hosts",
        f"domain={s.domain}",
        f"local=/{s.domain}/",
        "domain-needed",
        "bogus-priv",  # addresses of guests that are gone are not asked outside
    ]
    if s.dhcp:
        lines += [
            f"dhcp-option=option:domain-search,{s.domain}",
            f"dhcp-option=option:mtu,{s.mtu}",
            f"dhcp-range={s.subnet4.network_address},static,{s.subnet4.netmask},{LEASE_TIME}",
        ]
        if not s.routed:
            lines.append("dhcp-option=option:router")  # without a value: none
    if s.dhcp and s.subnet6 is not None:
        lifetime = "" if s.routed else ",0"
        mode = "static,slaac" if s.slaac else "static"
        lines += [
            "enable-ra",
            f"ra-param={s.bridge},mtu:{s.mtu},30{lifetime}",
            f"dhcp-range={s.subnet6.network_address},{mode},64,{LEASE_TIME}",
            f"dhcp-option=option6:domain-search,{s.domain}",
        ]
    if s.upstream is None:
        lines.append("no-resolv")
    elif s.upstream:
        lines += ["no-resolv", *(f"server={server}" for server in s.upstream)]
    if s.user is not None:
        # Without a group dnsmasq takes one of its own choice, which could not
        # read the directory.
        lines += [f"user={s.user}", f"group={group_of(s.user)}"]
    else:
        lines += ["user=", "group="]  # stay who you are, root in a namespace included
    return "\n".join(lines) + "\n"


def prepare_parent(directory: str, user: str | None) -> None:
    """Make the directory of all networks.

    What is made in it later gets its group, which is dnsmasq's: by then the broker
    can't give files away any more.

    :param directory: <runtime>/networks.
    :param user: the account that dnsmasq runs as; None: the broker's own.
    :raises OSError: it can't be made.
    """
    os.makedirs(directory, exist_ok=True)
    if user is not None:
        os.chown(directory, -1, pwd.getpwnam(user).pw_gid)
    # dnsmasq must get through to its own directory; nobody else can list this one.
    os.chmod(directory, 0o711 if user is None else 0o2711)


def prepare_directory(settings: Settings) -> None:
    """Make an instance's directory, readable for the broker and dnsmasq alone, and
    write dnsmasq's configuration there.

    :raises OSError: that can't be done.
    """
    for path in (
        settings.directory,
        f"{settings.directory}/dhcp",
        f"{settings.directory}/hosts",
    ):
        os.makedirs(path, mode=0o750, exist_ok=True)
    state_files.write(f"{settings.directory}/dnsmasq.conf", configuration(settings))
