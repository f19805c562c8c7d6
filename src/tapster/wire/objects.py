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
    """One attached NIC. Counters are the guest's: rx is what it received.
    `expires` is when it is taken away, by the host's clock: null for never.
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

    `uid` to `command` are who asked for it; where nobody did, `verb` is null, and
    they are whose it is. `outcome`: "ok", "denied" or "failed". Durations are in
    microseconds. Only root is told `executable`, and why a request was not granted.
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
    """A network with all that is to be known of it, or one user's instance.

    `uid` and `user` are whose instance it is: null where all have the same, and
    where none is up. State "pending": its definition changed, and takes effect
    when its last guest has gone; "removed": its definition is gone, and its
    guests stay. Rates are bits a second, 0 for no limit. `nics` are the
    caller's, for root all. `notes` are for people.
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
    """A port of the host that leads to a guest.

    State "active", or "waiting": the guest is not attached. `static`: the
    configuration has it; it is nobody's while it waits for anybody's guest.
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
    """Something about the host or the broker that a person should know."""

    code: str
    severity: str
    message: str
    remedy: str | None


@dataclass
class Step:
    """A rule about what was asked for, and what came of it."""

    place: str
    effect: str
    outcome: str


@dataclass
class Explanation:
    """Whether a user may have something, and why.

    `rule` is where the rule or line stands that decided, and `steps` are all
    rules about the same, in their order. `polkit` says that polkit has to allow it
    too; what it says is in `reason` where it could be asked. `max_nics` is how
    many NICs the user may have by that rule, `nics` how many it has of them;
    `network_max_nics` and `network_nics` are of all users together. A caller that
    is not root, and may not, is told no more than that.
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
    """What Attach answers; `fd` is an index into the descriptors sent along."""

    fd: FileDescriptor
    nic: Nic
