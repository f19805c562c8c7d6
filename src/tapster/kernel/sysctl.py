# SPDX-License-Identifier: LGPL-2.1-or-later
"""net.* sysctls of the network namespace that the calling process is in.

/proc/sys/net is about the reader's namespace. (/sys/class/net is about the namespace in
which it was mounted.)
"""

from __future__ import annotations

import os

_ROOT = "/proc/sys/net"


def _path(key: str) -> str:
    # Keys are written with slashes, as a device's name may have dots.
    parts = key.split("/")
    if not all(parts) or ".." in parts or "." in parts:
        raise ValueError(f"not a sysctl: {key!r}")
    return os.path.join(_ROOT, *parts)


def read(key: str) -> str | None:
    """The value of e.g. ``ipv4/ip_forward``; None if this kernel has none."""
    try:
        with open(_path(key), encoding="ascii") as file:
            return file.read().strip()
    except FileNotFoundError:
        return None


def write(key: str, value: str) -> None:
    """Set a sysctl.

    :raises OSError: EACCES: we have no CAP_NET_ADMIN; ENOENT: there is no such key.
    """
    with open(_path(key), "w", encoding="ascii") as file:
        file.write(value)


def children(key: str) -> list[str]:
    """The names below e.g. ``ipv6/conf``; empty if there is no such key."""
    try:
        return sorted(os.listdir(_path(key)))
    except FileNotFoundError:
        return []


def in_initial_namespace() -> bool:
    """Whether this is the host's first network namespace.

    net.core.netdev_budget is one of the settings that the kernel shows only
    there (net/core/sysctl_net_core.c, net_core_table).
    """
    return os.path.exists(f"{_ROOT}/core/netdev_budget")
