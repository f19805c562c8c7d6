# SPDX-License-Identifier: LGPL-2.1-or-later
"""Plain frozen data that all parts of the daemon share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

# How the names of our own devices begin.
TAP_PREFIX = "tapster"
BRIDGE_PREFIX = "tapbr"


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of the socket: what the kernel says, not the message."""

    uid: int
    gid: int
    groups: frozenset[int]
    pid: int
    # The groups of its account. A process in a user namespace can have dropped some
    # of them (user_namespaces(7)), so `groups` may lack one. None: not known.
    account_groups: frozenset[int] | None = frozenset()
    # The uid belongs to no account, but to a range that subuid(5) gives to a user.
    subordinate: bool = False

    @property
    def is_root(self) -> bool:
        return self.uid == 0


@dataclass(frozen=True, slots=True)
class AttachRequest:
    """What a caller asks for, in its own words: nothing in it is verified."""

    network: str | None = None
    bridge: str | None = None
    name: str | None = None
    mac: str | None = None
    vnet_hdr: bool = True
    for_parent: bool = False
    interactive: bool = False  # whether a person may be asked, where polkit wants it


class State(StrEnum):
    """Whether a NIC can be used, and if not, why."""

    ACTIVE = "active"  # open for its MAC
    WAITING = "waiting"  # shut until the guest shows its first MAC
    REFUSED = "refused"  # shut: the MAC it showed is another guest's
    QUARANTINED = "quarantined"  # on no bridge: its holder tampered with the tap


class OnTamper(StrEnum):
    """What is done to a NIC whose holder tampered with its tap."""

    QUARANTINE = "quarantine"  # on no bridge from then on
    RESTORE = "restore"  # the change is undone and reported; the guest stays
    DETACH = "detach"  # the tap is removed


@dataclass(frozen=True, slots=True)
class Addresses:
    """The addresses of a guest, on a network that assigns them."""

    ipv4: str | None = None
    ipv6: str | None = None


class Mode(StrEnum):
    """What guests of a network are connected to."""

    NAT = "nat"  # a bridge and subnet of ours; the outside through NAT
    ISOLATED = "isolated"  # a bridge and subnet of ours; no way out
    BRIDGE = "bridge"  # a Linux bridge of the host, which is not changed


class Scope(StrEnum):
    """Whether each user has an instance of a network, or all users share one."""

    USER = "user"
    SHARED = "shared"


class Egress(StrEnum):
    """Where guests of a NATed network may connect to."""

    ANY = "any"
    INTERNET = "internet"  # neither private networks nor the host's own
    NONE = "none"


class AddressCheck(StrEnum):
    """How it is known which addresses a guest of a `bridge` network may use."""

    LEASE = "lease"  # those that DHCP gave it, or that are reserved for it
    RESERVED = "reserved"  # only those that the configuration reserves for it
    OFF = "off"  # any


@dataclass(frozen=True, slots=True)
class Port:
    """One port, or a range of them, of one protocol: "tcp/80", "udp/5000-5010"."""

    protocol: str  # "tcp" or "udp"
    first: int
    last: int

    def __str__(self) -> str:
        end = f"-{self.last}" if self.last != self.first else ""
        return f"{self.protocol}/{self.first}{end}"

    def covers(self, other: Port) -> bool:
        """Whether this range includes all of `other`."""
        return (
            self.protocol == other.protocol
            and self.first <= other.first
            and other.last <= self.last
        )


@dataclass(frozen=True, slots=True)
class Forward:
    """A single port of the host whose traffic goes to a port of a guest."""

    port: Port
    guest: str
    guest_port: int

    def __str__(self) -> str:
        return f"{self.port} {self.guest}:{self.guest_port}"


@dataclass(frozen=True, slots=True)
class Rate:
    """Limits in bits per second, 0 for none. `egress` is what the guest sends."""

    egress: int = 0
    ingress: int = 0


@dataclass(frozen=True, slots=True)
class Reservation:
    """What is kept for the guest of a name, of user `user` (uid; None: any user)."""

    ipv4: IPv4Address | None = None
    ipv6: IPv6Address | None = None
    mac: str | None = None
    user: int | None = None


@dataclass(frozen=True, slots=True)
class NetworkDefinition:
    """One network as it is configured, with the defaults of the configuration file.

    An empty `domain` means "<name>.internal", an empty `dns` the host's resolvers.
    Where `subnet` or `subnet6` is None, the broker chooses a free one; `ipv6` False
    means no IPv6 at all. Where `isolation` is None, a shared network is isolating.
    """

    name: str
    mode: Mode = Mode.NAT
    scope: Scope = Scope.USER
    bridge: str | None = None  # of mode "bridge", and only there
    subnet: IPv4Network | None = None
    subnet6: IPv6Network | None = None
    ipv6: bool = True
    slaac: bool = True  # False: addresses by DHCPv6 alone
    domain: str = ""
    dns: tuple[IPv4Address | IPv6Address, ...] = ()
    dhcp: bool = True
    mtu: int | None = None  # bytes; None: 1500, or that of the bridge
    isolation: bool | None = None
    egress: Egress = Egress.ANY
    host_access: tuple[Port, ...] = ()
    rate: Rate = Rate()
    forward: tuple[Forward, ...] = ()
    address_check: AddressCheck = AddressCheck.LEASE
    reservations: Mapping[str, Reservation] = field(default_factory=dict)  # by name
    max_nics: int | None = None  # for all users together; None: no limit

    @property
    def full_domain(self) -> str:
        """The domain that the names of its guests are in."""
        return self.domain or f"{self.name}.internal"

    @property
    def is_shared(self) -> bool:
        """Whether guests of all users share one instance of it, and so one set of
        names and forwarded ports. A Linux bridge is no instance of ours."""
        return self.scope is Scope.SHARED and self.mode is not Mode.BRIDGE

    @property
    def is_isolating(self) -> bool:
        """Whether its guests cannot reach each other."""
        return self.is_shared if self.isolation is None else self.isolation


@dataclass(frozen=True, slots=True)
class Rule:
    """One [[rules]] of the policy: which users, which networks, and what is allowed.

    A rule that names neither users nor groups is about everyone. `location` is its
    file:line.
    """

    location: str = ""
    users: frozenset[int] | None = None  # uids; None where none were named
    groups: frozenset[int] | None = None  # gids
    networks: tuple[str, ...] = ()
    bridges: tuple[str, ...] = ()  # Linux bridges
    effect: str = "allow"  # or "deny", or "polkit": allow if polkit(8) does
    max_nics: int | None = None  # per user, on all networks of the rule together
    macs: tuple[str, ...] = ()  # patterns; empty: any
    trusted: bool = False
    forward: tuple[Port, ...] | None = None  # None: ports from 1024 up
    guests: tuple[str, ...] = ()  # patterns of guests' names; empty: any
    ttl: int | None = None  # seconds until a NIC is removed; None: never
    manage: bool = False  # whether other users' NICs may be seen and changed
