# SPDX-License-Identifier: LGPL-2.1-or-later
"""The facts that every part of the daemon shares: frozen, and nothing more."""

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
    """Who asks, as the kernel tells it about the other end of the socket."""

    uid: int
    gid: int
    groups: frozenset[int]
    pid: int
    # A process can leave groups, in a user namespace (user_namespaces(7)): those that
    # its account has. None: that is not known.
    account_groups: frozenset[int] | None = frozenset()
    # It is no account's uid, but one of those that subuid(5) gives to some user.
    subordinate: bool = False

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
    interactive: bool = False  # whether a person may be asked, where polkit wants it


class State(StrEnum):
    """What a NIC is doing."""

    ACTIVE = "active"  # open for its MAC
    WAITING = "waiting"  # shut until the guest shows its first MAC
    REFUSED = "refused"  # shut: the MAC it showed is another guest's
    QUARANTINED = "quarantined"  # on no bridge: its holder tampered with the tap


class OnTamper(StrEnum):
    """What a NIC whose holder tampered with its tap comes to."""

    QUARANTINE = "quarantine"  # on no bridge from then on
    RESTORE = "restore"  # it is undone and told, and the guest stays
    DETACH = "detach"  # the tap is taken away


@dataclass(frozen=True, slots=True)
class Addresses:
    """What a guest was given on a network that gives addresses."""

    ipv4: str | None = None
    ipv6: str | None = None


class Mode(StrEnum):
    """What a network connects its guests with."""

    NAT = "nat"  # a bridge and subnet of ours, and the outside by masquerade
    ISOLATED = "isolated"  # a bridge and subnet of ours, and nothing else
    BRIDGE = "bridge"  # a Linux bridge of the host's, which stays as it is


class Scope(StrEnum):
    """Whether each user has an instance of a network, or all have the same."""

    USER = "user"
    SHARED = "shared"


class Egress(StrEnum):
    """Where guests of a NATed network get by themselves."""

    ANY = "any"
    INTERNET = "internet"  # neither private networks nor the host's own
    NONE = "none"


class AddressCheck(StrEnum):
    """How guests of a `bridge` network are held to their addresses."""

    LEASE = "lease"  # by what the DHCP server answered them, or is reserved
    RESERVED = "reserved"  # by the configuration: no reservation, no address
    OFF = "off"


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
        """Whether all of `other` is in this one."""
        return (
            self.protocol == other.protocol
            and self.first <= other.first
            and other.last <= self.last
        )


@dataclass(frozen=True, slots=True)
class Forward:
    """What comes to `port` of the host (a single one) goes to a guest's."""

    port: Port
    guest: str
    guest_port: int

    def __str__(self) -> str:
        return f"{self.port} {self.guest}:{self.guest_port}"


@dataclass(frozen=True, slots=True)
class Rate:
    """Bits a second, as the guest sees it: `egress` is what it sends. 0: no limit."""

    egress: int = 0
    ingress: int = 0


@dataclass(frozen=True, slots=True)
class Reservation:
    """What a guest of this name gets; `user` is a uid, None for anyone's guest."""

    ipv4: IPv4Address | None = None
    ipv6: IPv6Address | None = None
    mac: str | None = None
    user: int | None = None


@dataclass(frozen=True, slots=True)
class NetworkDefinition:
    """One network as it is configured; the defaults are those of the file.

    `domain` empty means "<name>.internal". `subnet` and `subnet6` None mean that
    a free one is found; `ipv6` False that there is none. `dns` empty means the
    host's resolvers. `isolation` None means: if the network is shared.
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
    max_nics: int | None = None  # of all users together; None: no limit

    @property
    def full_domain(self) -> str:
        """The domain of its guests' names."""
        return self.domain or f"{self.name}.internal"

    @property
    def is_shared(self) -> bool:
        """Whether guests of all users share one instance of it, and so one set of
        names and forwarded ports. A Linux bridge is no instance of ours."""
        return self.scope is Scope.SHARED and self.mode is not Mode.BRIDGE

    @property
    def is_isolating(self) -> bool:
        """Whether its ports do not see each other."""
        return self.is_shared if self.isolation is None else self.isolation


@dataclass(frozen=True, slots=True)
class Rule:
    """One [[rules]] of the policy: whom it is about, what, and what then.

    Without users and groups it is about everyone. `location` is its file:line.
    """

    location: str = ""
    users: frozenset[int] | None = None  # uids; None where none were named
    groups: frozenset[int] | None = None  # gids
    networks: tuple[str, ...] = ()
    bridges: tuple[str, ...] = ()  # Linux bridges
    effect: str = "allow"  # or "deny", or "polkit": allow if polkit(8) does
    max_nics: int | None = None  # a user, on all that the rule is about
    macs: tuple[str, ...] = ()  # patterns; empty: any
    trusted: bool = False
    forward: tuple[Port, ...] | None = None  # None: ports from 1024 up
    guests: tuple[str, ...] = ()  # patterns of guests' names; empty: any
    ttl: int | None = None  # seconds until a NIC is taken away; None: never
    manage: bool = False  # whether other users' NICs are seen and changed
