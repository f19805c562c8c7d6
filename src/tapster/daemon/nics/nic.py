# SPDX-License-Identifier: LGPL-2.1-or-later
"""One NIC of a guest: a frozen fact, which is replaced when something changes.

Whoever holds a `Nic` holds what was true when it was taken from the ledger. To
learn what is true now, ask the ledger again (`Ledger.current`); to change
something, ask it for a transition (`Ledger.transition`).
"""

from __future__ import annotations

from dataclasses import dataclass

from ...model import TAP_PREFIX, Rate, State
from ...networks.elements import Guest
from ...syntax import is_interface_name
from . import naming
from .naming import EVERYBODY, NameKey


@dataclass(frozen=True, slots=True)
class Nic:
    """One tap of ours. `network` is None on a Linux bridge that is not ours.

    All fields but `handed_out` are in the NIC's record (`nics/record.py`), by
    these names; a broker of another version reads them.
    """

    ifname: str
    ifindex: int  # 0 while the tap is not made
    bridge: str
    bridge_index: int
    network: str | None
    uid: int
    user: str
    pid: int
    name: str  # of the guest
    mac: str | None  # of the guest; None while it is not known
    ipv4: str | None
    ipv6: str | None
    mtu: int  # bytes
    state: State
    reason: str | None = None  # why it is refused or in quarantine
    shared: bool = False  # the network is one for all users
    trusted: bool = False  # no anti-spoofing
    isolated: bool = False  # does not see the other guests
    strict: bool = False  # on a Linux bridge: held to addresses it may not have
    learns: bool = False  # on a Linux bridge: held to what a DHCP server gives it
    rate_egress: int = 0  # bit/s, what the guest sends; 0: no limit
    rate_ingress: int = 0
    macs: tuple[str, ...] = ()  # patterns of what its MAC may be; (): anything
    host_mac: str = ""  # of the host's end of the tap, as it was made
    expires: float | None = None  # seconds of CLOCK_BOOTTIME; None: never
    share: str | None = None  # the name in lxc-usernet whose number it counts for
    # Whether its caller has been told of it. False while the administrator's hooks
    # have their say: what ends then was never anybody's, and is no news.
    handed_out: bool = True

    @property
    def network_key(self) -> str:
        """The network, or the Linux bridge, in one word that is unique."""
        return self.network or naming.on_linux_bridge(self.bridge)

    @property
    def name_key(self) -> NameKey:
        """What a guest's name is unique in: one user's guests on one network, or
        all guests of a network that is one for all users."""
        return self.network_key, EVERYBODY if self.shared else self.uid, self.name

    @property
    def rate(self) -> Rate:
        return Rate(self.rate_egress, self.rate_ingress)

    @property
    def guest(self) -> Guest:
        """What nftables is told of it."""
        waits = self.state is State.WAITING
        return Guest(
            self.ifname,
            self.ifindex,
            self.ifname[len(TAP_PREFIX)],
            None if waits or self.state is State.REFUSED else self.mac,
            self.ipv4,
            self.ipv6,
            waits,
            self.strict,
            self.learns,
            bool(self.rate_egress),
            self.state is State.QUARANTINED,
        )

    @property
    def alias(self) -> str:
        """The alias that its tap is given."""
        return naming.alias(self.network or self.bridge, self.user, self.name)

    @property
    def altname(self) -> str:
        """The alternative name that its tap is given."""
        user = str(self.uid)
        if is_interface_name(self.user[:15]) and self.user.isascii():
            user = self.user
        return naming.alternative_name(self.network or self.bridge, user, self.name)
