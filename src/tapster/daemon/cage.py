# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the broker gives up, in two steps: docs/security.md has the table.

First, before it starts the process that starts programs, what none of them needs;
then, before it serves anybody, what it has needed for the start alone.
"""

from __future__ import annotations

from ..kernel import capabilities, process

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
    """No program that is started from now on has more than it needs, or gains
    anything by being setuid."""
    process.prctl(process.PR_SET_NO_NEW_PRIVS, 1)
    capabilities.bound(PROGRAMS)


def close() -> None:
    """What is left is for serving."""
    have = process.effective_capabilities()
    kept = [number for number in BROKER if have >> number & 1]
    capabilities.bound(kept)
    capabilities.keep(kept)
    # Nobody of our user, dnsmasq among them, gets at our memory.
    process.prctl(process.PR_SET_DUMPABLE, 0)
