# SPDX-License-Identifier: LGPL-2.1-or-later
"""The objects that replies of io.tapster.Broker are made of.

`python -m tapster.wire.generate` writes from these dataclasses what clients check
in a reply (`tapster.client.fields`), and the types of the `.varlink` text.
"""

# No "from __future__ import annotations": asyncvarlink reads the annotations.

from dataclasses import dataclass
from typing import TypedDict

from asyncvarlink import FileDescriptor


@dataclass
class Nic:
    """One attached NIC.

    Counters are the guest's: rx is what it received. `expires` is when the NIC will
    be removed, by the host's clock; null means never.
    """

    ifname: str
    mac: str | None
    ipv4: str | None
    ipv6: str | None
    mtu: int
    bridge: str
    network: str | None
    uid: int
    user: str
    pid: int
    name: str
    state: str
    reason: str | None
    expires: str | None
    rx_bytes: int
    rx_packets: int
    tx_bytes: int
    tx_packets: int


@dataclass
class Event:
    """Something that was decided or has changed; docs/events.md has each field.

    `uid` to `command` say who asked for it. If nobody did, `verb` is null, and they
    say to whom it belongs. `outcome` is "ok", "denied" or "failed", and durations
    are in microseconds. Only root is told `executable`, and why a request was denied.
    """

    time: str
    event: str
    verb: str | None = None
    outcome: str = "ok"
    uid: int = -1
    user: str = ""
    gid: int | None = None
    pid: int = 0
    executable: str | None = None
    command: str | None = None
    owner: int | None = None
    network: str | None = None
    bridge: str | None = None
    name: str | None = None
    ifname: str | None = None
    mac: str | None = None
    ipv4: str | None = None
    ipv6: str | None = None
    port: str | None = None
    guest_port: int | None = None
    rule: str | None = None
    reason: str | None = None
    duration: int | None = None
    count: int | None = None


@dataclass
class Network:
    """A network that the caller may use."""

    name: str
    mode: str
    max_nics: int
    nics: int


@dataclass
class NetworkInfo:
    """Every property of a network, or of one user's instance of it.

    `uid` and `user` say whose instance it is; they are null if all users share one,
    or if no instance is up. In state "pending", the definition has changed, and takes
    effect when the last guest has gone. In state "removed", the definition is gone,
    and guests are still there. Rates are in bits per second, 0 for no limit. `nics`
    counts those of the caller, for root all. `notes` are for people.
    """

    name: str
    mode: str
    scope: str
    uid: int | None
    user: str | None
    state: str
    bridge: str | None
    subnet4: str | None
    subnet6: str | None
    gateway4: str | None
    gateway6: str | None
    domain: str | None
    mtu: int | None
    isolation: bool
    egress: str | None
    host_access: list[str]
    egress_rate: int
    ingress_rate: int
    dns: list[str]
    dhcp: bool
    address_check: str | None
    forwards: list[str]
    max_nics: int | None
    nics: int
    notes: list[str]


@dataclass
class ForwardInfo:
    """A port of the host that is forwarded to a guest.

    The state is "active", or "waiting" while the guest is not attached. A `static`
    forward stands in the configuration. While such a forward waits for any user's
    guest, `uid` and `user` are null.
    """

    network: str
    uid: int | None
    user: str | None
    port: str
    guest: str
    guest_port: int
    state: str
    ipv4: str | None
    ipv6: str | None
    static: bool


@dataclass
class Finding:
    """Something about the host or the broker that a person should know.

    `remedy` says what to do about it, in one or more lines.
    """

    code: str
    severity: str
    message: str
    remedy: str | None


@dataclass
class Step:
    """A rule about the network or bridge in question, and its outcome."""

    place: str
    effect: str
    outcome: str


@dataclass
class Explanation:
    """Whether a user may have something, and why.

    `rule` is the place of the rule or line that decided. `steps` are all rules about
    the same network or bridge, in their order. If `polkit` is true, polkit has to
    allow it too; if polkit could be asked, `reason` has its answer. `max_nics` is how
    many NICs that rule lets the user have, and `nics` how many of them the user has;
    `network_max_nics` and `network_nics` are about all users together. A caller who
    is not root, and would be denied, is told no more than that.
    """

    user: str
    uid: int
    allowed: bool
    reason: str
    rule: str | None
    polkit: bool
    max_nics: int | None
    nics: int
    network_max_nics: int | None
    network_nics: int | None
    steps: list[Step]
    notes: list[str]


class Info(TypedDict):
    """What GetInfo answers."""

    version: str
    tier: str
    networks: list[Network]
    bridges: list[str]


class Attached(TypedDict):
    """What Attach answers; `fd` is an index into the descriptors of the message."""

    fd: FileDescriptor
    nic: Nic
