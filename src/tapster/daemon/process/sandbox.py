# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the broker gives up, in two steps: docs/security.md has the table.

First, before it starts the process that starts programs, what none of them needs;
then, before it serves anybody, what it has needed for the start alone.
"""

from __future__ import annotations

import ctypes
import os
import re

from ...errors import BrokerUnavailable
from ...kernel import capabilities, process, seccomp
from . import syscalls as filters

# For calls that are on no list. Tests that look for what is missing take another.
DEFAULT = seccomp.KILL_PROCESS

# Of a broker that root has started by hand, and of what it starts; a unit file
# gives less. All of it is the spawner's or dnsmasq's, save the first three.
PROGRAMS = frozenset(
    (
        capabilities.NET_ADMIN,  # taps, bridges, nftables, net.* sysctls
        capabilities.NET_BIND_SERVICE,  # ports 53 and 67; forwarded ports
        capabilities.DAC_READ_SEARCH,  # files that bridge.conf includes
        capabilities.NET_RAW,  # dnsmasq's IPv6
        capabilities.SETUID,  # dnsmasq becomes its own user
        capabilities.SETGID,
        capabilities.CHOWN,  # dnsmasq's pid file becomes that user's
        capabilities.KILL,  # the spawner signals it
        capabilities.SYS_PTRACE,  # the spawner reads /proc/PID/exe for the log
    )
)
# The broker's own. It has less than dnsmasq and the spawner, so that the kernel
# denies it their memory, though they be of its user (ptrace(2)).
BROKER = frozenset(
    (
        capabilities.NET_ADMIN,
        capabilities.NET_BIND_SERVICE,
        capabilities.DAC_READ_SEARCH,
    )
)


def bound_programs() -> None:
    """No program that is started from now on has more than it needs, gains
    anything by being setuid, or gets at what is not its business.

    :raises BrokerUnavailable: there are no system call filters.
    """
    process.prctl(process.PR_SET_NO_NEW_PRIVS, 1)
    capabilities.bound(PROGRAMS)
    _filter(filters.programs(), seccomp.ALLOW)


def close(*, rootless: bool) -> None:
    """What is left is for serving.

    :raises BrokerUnavailable: there are no system call filters.
    """
    _load_libraries()
    have = process.effective_capabilities()
    kept = [number for number in BROKER if have >> number & 1]
    capabilities.bound(kept)
    capabilities.keep(kept)
    # Nobody of our user, dnsmasq among them, gets at our memory.
    process.prctl(process.PR_SET_DUMPABLE, 0)
    _filter(filters.broker(os.getpid(), ends_pasta=rootless), DEFAULT)


def _filter(rules: list[seccomp.Rule], default: int) -> None:
    try:
        seccomp.load(rules, default)
    except OSError as err:
        raise BrokerUnavailable(
            f"no system call filter: {err}", "apt install libseccomp2"
        ) from err


def _load_libraries() -> None:
    """Code that is else loaded when it is first needed, which is too late then:
    libc's name services, and modules of Python's."""
    import unicodedata  # noqa: F401 - for names in other scripts

    for name in name_services():
        try:
            ctypes.CDLL(f"libnss_{name}.so.2")
        except OSError:
            pass  # one of libc itself, or not installed


def name_services(path: str = "/etc/nsswitch.conf") -> set[str]:
    """The services that users and groups are looked up in (nsswitch.conf(5))."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read(1 << 16).split("\n")
    except OSError:
        lines = []
    found = set()
    for line in lines:
        database, _, services = line.partition("#")[0].partition(":")
        if database.strip() in ("passwd", "group", "initgroups"):
            # "[NOTFOUND=return]" says what to do with an answer.
            found |= set(
                re.findall(r"[A-Za-z0-9_-]+", re.sub(r"\[.*?\]", "", services))
            )
    return found
