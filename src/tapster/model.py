# SPDX-License-Identifier: LGPL-2.1-or-later
"""The facts that every part of the daemon shares: frozen, and nothing more."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Peer:
    """Who asks, as the kernel tells it about the other end of the socket."""

    uid: int
    gid: int
    groups: frozenset[int]
    pid: int

    @property
    def is_root(self) -> bool:
        return self.uid == 0


@dataclass(frozen=True, slots=True)
class AttachRequest:
    """What a caller asks for. All of it is the caller's word."""

    network: str | None = None
    bridge: str | None = None
    name: str | None = None
    mac: str | None = None
    vnet_hdr: bool = True
    for_parent: bool = False


class State(StrEnum):
    """What a NIC is doing."""

    ACTIVE = "active"  # open for its MAC
    WAITING = "waiting"  # shut until the guest shows its first MAC
    REFUSED = "refused"  # shut: the MAC it showed is another guest's


@dataclass(frozen=True, slots=True)
class Addresses:
    """What a guest was given on a network that gives addresses."""

    ipv4: str | None = None
    ipv6: str | None = None
