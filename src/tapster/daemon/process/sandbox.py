# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the broker gives up, step by step, and until when each thing is possible.

    start, with everything that the service manager or root gave
      │  main reads the command line, startup.sanitize()
      ▼
    restrict_children()
      │  SHOULD follow: start the spawner, which inherits these limits; read the
      │    configuration; take the locks; open the sockets; reconcile.
      │  MUST NOT follow: anything that needs a setuid program, or a capability
      │    that is not in CHILDREN.
      ▼
    enter()
      │  SHOULD follow: say READY=1 and serve, and nothing else.
      │  MUST NOT follow: start a program; load a shared library, or import a
      │    Python module that brings one; give a file to another user; signal
      │    another process. A call that is on no list ends the broker.
      ▼
    serve

Neither step can be undone, and both have to happen before the process has met a
caller. docs/security.md shows in a table what is left to whom.
"""

from __future__ import annotations

import ctypes
import os
import re

from ...errors import BrokerUnavailable
from ...kernel import capabilities, process, seccomp
from . import syscalls

# What becomes of a system call that is on no list. A test that looks for missing
# entries sets another action here.
DEFAULT = seccomp.KILL_PROCESS

# The upper bound for a broker that root starts by hand, and for what it starts; a
# unit file gives less. The broker itself keeps the first three (BROKER); the rest
# is for the spawner and for dnsmasq.
CHILDREN = frozenset(
    (
        capabilities.NET_ADMIN,  # taps, bridges, nftables, net.* sysctls
        capabilities.NET_BIND_SERVICE,  # ports 53 and 67; forwarded ports
        capabilities.DAC_READ_SEARCH,  # files that bridge.conf includes
        capabilities.NET_RAW,  # dnsmasq's IPv6
        capabilities.SETUID,  # dnsmasq becomes its own user
        capabilities.SETGID,
        capabilities.CHOWN,  # dnsmasq gives its pid file to that user
        capabilities.KILL,  # the spawner signals dnsmasq
        capabilities.SYS_PTRACE,  # the spawner reads /proc/PID/exe for the log
    )
)
# The broker has fewer capabilities than the spawner and dnsmasq have. That is why
# the kernel denies it their memory, even where all three are one user (ptrace(2)).
BROKER = frozenset(
    (
        capabilities.NET_ADMIN,
        capabilities.NET_BIND_SERVICE,
        capabilities.DAC_READ_SEARCH,
    )
)


def restrict_children() -> None:
    """First step: limit every program that is started from now on.

    Such a program has no capability outside CHILDREN, gains nothing by being
    setuid, and can't make the system calls of `syscalls.programs`.

    :raises BrokerUnavailable: system call filters are not available.
    """
    process.prctl(process.PR_SET_NO_NEW_PRIVS, 1)
    capabilities.bound(CHILDREN)
    _load_filter(syscalls.programs(), seccomp.ALLOW)


def enter(*, rootless: bool) -> None:
    """Second step: keep what serving needs, and nothing else.

    :param rootless: whether the broker may still signal processes by descriptor:
        if its supervisor has died, the broker has to end pasta.
    :raises BrokerUnavailable: system call filters are not available.
    """
    _load_libraries()
    have = process.effective_capabilities()
    kept = [number for number in BROKER if have >> number & 1]
    capabilities.bound(kept)
    capabilities.keep(kept)
    # No other process of our user, such as dnsmasq, may read our memory.
    process.prctl(process.PR_SET_DUMPABLE, 0)
    _load_filter(syscalls.broker(os.getpid(), ends_pasta=rootless), DEFAULT)


def _load_filter(rules: list[seccomp.Rule], default: int) -> None:
    try:
        seccomp.load(rules, default)
    except OSError as err:
        raise BrokerUnavailable(
            f"no system call filter: {err}", "apt install libseccomp2"
        ) from err


def _load_libraries() -> None:
    """Load now what would otherwise be loaded at its first use, which the filter
    forbids: libc's name services, and modules of Python's."""
    import unicodedata  # noqa: F401 - for names in other scripts

    for name in name_services():
        try:
            ctypes.CDLL(f"libnss_{name}.so.2")
        except OSError:
            pass  # part of libc itself, or not installed


def name_services(path: str = "/etc/nsswitch.conf") -> set[str]:
    """Read which services libc looks users and groups up in (nsswitch.conf(5))."""
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
