# SPDX-License-Identifier: LGPL-2.1-or-later
"""dnsmasq: DHCP, DNS and router advertisements of one network instance.

One process a bridge, bound to that bridge alone. It answers only guests that
have a reservation, which is a file of their own in a directory that dnsmasq
watches: a new guest needs no signal and no restart.
"""

from __future__ import annotations

import asyncio
import grp
import logging
import os
import pwd
import secrets
import select
import signal
import socket
import struct
import time
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import NamedTuple, Protocol

from ..errors import BrokerFailure
from ..kernel import process
from . import state_files

_log = logging.getLogger(__name__)

LEASE_TIME = "1h"
START_LIMIT = 5.0  # seconds
LOG_LIMIT = 256 * 1024  # bytes
_STRAY_LIMIT = 1000  # milliseconds until a killed dnsmasq must be gone
_POLL = 0.002  # seconds between looks at the pid file


class Launcher(Protocol):
    """Whoever may start programs."""

    user: str | None  # whom dnsmasq becomes; None: stays who it is
    capabilities: int  # that a program started has, as a bit mask

    async def start_dnsmasq(self, bridge: str) -> process.Process:
        """Start it on the configuration of that bridge's directory.

        :raises BrokerFailure: it was not started; the message says why.
        """

    def signal(self, running: process.Process, number: signal.Signals) -> None:
        """Signal it; nothing happens if it is gone."""


class Settings(NamedTuple):
    """What one dnsmasq serves."""

    bridge: str
    subnet4: IPv4Network
    subnet6: IPv6Network | None
    domain: str
    mtu: int
    directory: str  # its own, below the runtime directory
    # Resolvers; empty: those of /etc/resolv.conf. None: other names than the
    # guests' own are not looked up.
    upstream: Sequence[str] | None
    user: str | None  # whom it becomes; None: stays who it is
    dhcp: bool = True  # and router advertisements
    slaac: bool = True  # False: IPv6 addresses by DHCPv6 alone
    routed: bool = True  # whether it tells guests a way out


def service_user() -> str | None:
    """The account that dnsmasq changes to, where the broker may let it."""
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


def reservation(mac: str, ipv4: str, ipv6: str | None, name: str) -> str:
    """A guest's line in the DHCP directory (dnsmasq(8), --dhcp-host)."""
    address6 = f",[{ipv6}]" if ipv6 else ""
    return f"{mac},{ipv4}{address6},{name}\n"


def names(ipv4: str, ipv6: str | None, name: str, domain: str) -> str:
    """A guest's lines in the hosts directory."""
    text = f"{ipv4} {name}.{domain} {name}\n"
    if ipv6:
        text += f"{ipv6} {name}.{domain} {name}\n"
    return text


def prepare_parent(directory: str, user: str | None) -> None:
    """Make the directory of all networks. What is made in there later is of its
    group, dnsmasq's: the broker can't give files away by then.

    :raises OSError: it can't be made.
    """
    os.makedirs(directory, exist_ok=True)
    if user is not None:
        os.chown(directory, -1, pwd.getpwnam(user).pw_gid)
    # dnsmasq must pass, and nobody else can look.
    os.chmod(directory, 0o711 if user is None else 0o2711)


def prepare_directory(settings: Settings) -> None:
    """Make the directory, readable for the broker and dnsmasq alone."""
    for path in (
        settings.directory,
        f"{settings.directory}/dhcp",
        f"{settings.directory}/hosts",
    ):
        os.makedirs(path, mode=0o750, exist_ok=True)
    state_files.write(f"{settings.directory}/dnsmasq.conf", configuration(settings))


def release(bridge: str, server: str, ipv4: str, mac: str) -> None:
    """Give back the lease of a guest that is gone, in its name: DHCPRELEASE,
    RFC 2131 section 4.4.6. Otherwise its name and address would stay taken
    until the lease ran out.

    :raises OSError: it could not be sent.
    """
    op_request, ethernet, length = 1, 1, 6
    packet = struct.pack(
        "!4BIHH4s4s4s4s16s64s128sI",
        op_request,
        ethernet,
        length,
        0,
        secrets.randbits(32),
        0,
        0,
        IPv4Address(ipv4).packed,
        bytes(4),
        bytes(4),
        bytes(4),
        bytes.fromhex(mac.replace(":", "")),
        b"",
        b"",
        0x63825363,  # the magic cookie of RFC 2131
    )
    packet += b"\x35\x01\x07" + b"\x36\x04" + IPv4Address(server).packed + b"\xff"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        # dnsmasq hears that bridge alone, its own host's words included.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, bridge.encode())
        sock.sendto(packet, socket.MSG_DONTWAIT, (server, 67))


async def spawn(settings: Settings, launcher: Launcher) -> process.Process:
    """Start dnsmasq on a directory that `prepare_directory` made, and wait until
    it has bound its sockets (some 20 ms).

    :returns: the running process; the caller closes it.
    :raises BrokerFailure: it did not start; the message is its own.
    """
    pid_file = f"{settings.directory}/dnsmasq.pid"
    state_files.remove(pid_file)
    before = _log_size(settings.directory)
    running = await launcher.start_dnsmasq(settings.bridge)
    try:
        limit = time.monotonic() + START_LIMIT
        while not _is_written(pid_file):
            if process.has_ended(running.pidfd):
                raise BrokerFailure(_last_words(settings.directory, before))
            if time.monotonic() > limit:
                raise BrokerFailure(f"dnsmasq was not ready within {START_LIMIT:.0f} s")
            await asyncio.sleep(_POLL)
    except BaseException:
        launcher.signal(running, signal.SIGKILL)
        running.close()
        raise
    return running


def _log_size(directory: str) -> int:
    try:
        return os.stat(f"{directory}/dnsmasq.log").st_size
    except OSError:
        return 0


def _last_words(directory: str, before: int) -> str:
    """Why it did not start: the last line of its log behind `before`."""
    try:
        with open(f"{directory}/dnsmasq.log", "rb") as file:
            file.seek(before)
            lines = file.read(LOG_LIMIT).decode(errors="replace").split("\n")
    except OSError:
        lines = []
    said = [line for line in lines if line.strip()]
    return f"dnsmasq did not start: {said[-1].strip() if said else 'it said nothing'}"


def _is_written(path: str) -> bool:
    try:
        return os.stat(path).st_size > 0
    except FileNotFoundError:
        return False


def is_ours(pid: int, directory: str) -> bool:
    """Whether `pid` runs for the network of this directory."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return f"--pid-file={directory}/dnsmasq.pid".encode() in file.read().split(
                b"\0"
            )
    except OSError:
        return False


def end_strays(directory: str, known: set[int]) -> None:
    """End every dnsmasq of a network below `directory`, in this network
    namespace, that is not `known`: one whose records were lost would keep its
    address, and the next one of its network from starting, for ever."""
    mark = f"--pid-file={directory}/".encode()
    here = os.stat("/proc/self/ns/net")
    for name in os.listdir("/proc"):
        if not name.isdecimal() or int(name) in known:
            continue
        try:
            # Held before it is looked at, or the pid may change hands in between.
            stray = process.Process(int(name))
        except OSError:
            continue
        try:
            if _is_stray(name, mark, here):
                _log.warning("ending dnsmasq %s, which no network of ours has", name)
                stray.send_signal(signal.SIGKILL)
                poll = select.poll()
                poll.register(stray.pidfd, select.POLLIN)
                poll.poll(_STRAY_LIMIT)
        finally:
            stray.close()


def _is_stray(pid: str, mark: bytes, here: os.stat_result) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            if not any(word.startswith(mark) for word in file.read().split(b"\0")):
                return False
        return os.path.samestat(os.stat(f"/proc/{pid}/ns/net"), here)
    except OSError:
        return False  # it ended


def trim_log(directory: str) -> None:
    """Keep its log from filling the runtime directory (dnsmasq appends)."""
    path = f"{directory}/dnsmasq.log"
    try:
        if os.stat(path).st_size > LOG_LIMIT:
            os.truncate(path, 0)
    except FileNotFoundError:
        pass
