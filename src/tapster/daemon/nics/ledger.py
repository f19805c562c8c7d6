# SPDX-License-Identifier: LGPL-2.1-or-later
"""The tab: every NIC that was handed out, what it was for, and whose it is.

The kernel is the truth about what exists. A record says what the kernel can't:
one file a NIC in the runtime directory, which does not outlive a reboot, as
the taps do not. A record is written before its tap is handed out.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from ...model import TAP_PREFIX, State
from ...networks import state_files
from ...networks.elements import Guest
from ...syntax import is_interface_name, is_mac

_RECORD_LIMIT = 64 * 1024  # bytes
_INT, _UINT = 2**31 - 1, 2**32 - 1

_log = logging.getLogger(__name__)

EVERYBODY = -1  # in place of a uid
_LINUX_BRIDGE = "bridge:"  # no network's name has a colon


def on_linux_bridge(bridge: str) -> str:
    """The word for a bridge that was asked for by its own name."""
    return _LINUX_BRIDGE + bridge


@dataclass(slots=True)
class Nic:
    """One tap of ours. `network` is None on a Linux bridge that is not ours."""

    ifname: str
    ifindex: int
    bridge: str
    bridge_index: int
    network: str | None
    uid: int
    user: str
    pid: int
    name: str
    mac: str | None
    ipv4: str | None
    ipv6: str | None
    mtu: int
    state: State
    reason: str | None = None
    shared: bool = False  # the network is one for all users
    trusted: bool = False  # no anti-spoofing
    isolated: bool = False  # does not see the other guests
    strict: bool = False  # on a Linux bridge: held to addresses it may not have
    learns: bool = False  # on a Linux bridge: held to what a DHCP server gives it
    rate_egress: int = 0  # bit/s, what the guest sends; 0: no limit
    rate_ingress: int = 0
    macs: list[str] = field(default_factory=list)  # patterns of what it may be
    host_mac: str = ""  # of the host's end, as it was made
    expires: float | None = None  # seconds of CLOCK_BOOTTIME; None: never
    share: str | None = None  # the name in lxc-usernet whose number it counts for

    @property
    def where(self) -> str:
        """The network, or the Linux bridge, by one word."""
        return self.network or on_linux_bridge(self.bridge)

    @property
    def scope(self) -> tuple[str, int, str]:
        """What a guest's name is unique in: one user's guests on one network,
        or all of a network that is one for all users."""
        return (self.where, EVERYBODY if self.shared else self.uid, self.name)

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


_FIELDS = tuple(field.name for field in dataclasses.fields(Nic))


class Ledger:
    """All NICs, found by whatever is known of them."""

    def __init__(self, directory: str) -> None:
        """:raises OSError: the directory can't be made, or is another's."""
        self._directory = directory
        state_files.private_directory(directory)
        self._by_ifname: dict[str, Nic] = {}
        self._by_index: dict[int, Nic] = {}
        self._by_scope: dict[tuple[str, int, str], Nic] = {}
        self._by_mac: dict[tuple[int, str], Nic] = {}
        self._by_bridge: dict[str, dict[str, Nic]] = {}
        self._macs: Counter[str] = Counter()
        self._waiting: dict[str, Nic] = {}
        self._of_user: dict[int, dict[str, Nic]] = {}
        self._counts: dict[int, Counter[str]] = {}  # of a user, by where
        self._in_all: Counter[str] = Counter()  # by where
        self._lowest_number: dict[tuple[str, int], int] = {}

    def __iter__(self) -> Iterator[Nic]:
        return iter(self._by_ifname.values())

    def __len__(self) -> int:
        return len(self._by_ifname)

    def by_ifname(self, ifname: str) -> Nic | None:
        return self._by_ifname.get(ifname)

    def by_index(self, ifindex: int) -> Nic | None:
        return self._by_index.get(ifindex)

    def by_scope(self, scope: tuple[str, int, str]) -> Nic | None:
        return self._by_scope.get(scope)

    def by_mac(self, bridge_index: int, mac: str) -> Nic | None:
        return self._by_mac.get((bridge_index, mac))

    def knows_mac(self, mac: str) -> bool:
        """Whether any guest, on whatever bridge, has that MAC."""
        return mac in self._macs

    def on_bridge(self, bridge: str) -> list[Nic]:
        return list(self._by_bridge.get(bridge, {}).values())

    def is_used(self, bridge: str) -> bool:
        """Whether any NIC is on that bridge."""
        return bridge in self._by_bridge

    def waiting(self) -> list[Nic]:
        return list(self._waiting.values())

    def of_user(self, uid: int) -> list[Nic]:
        return list(self._of_user.get(uid, {}).values())

    def count(self, uid: int, where: str) -> int:
        """How many NICs a user has on a network, or `on_linux_bridge`."""
        counts = self._counts.get(uid)
        return counts[where] if counts else 0

    def count_on_networks(self, uid: int) -> int:
        """How many NICs a user has on all networks together."""
        counts = self._counts.get(uid, Counter[str]())
        return sum(
            count
            for where, count in counts.items()
            if not where.startswith(_LINUX_BRIDGE)
        )

    def count_all(self, where: str) -> int:
        """How many NICs all users have there."""
        return self._in_all[where]

    def free_name(self, where: str, uid: int) -> str:
        """A name for a guest that was given none: vm1, or the next that is free."""
        number = self._lowest_number.get((where, uid), 1)
        while (where, uid, f"vm{number}") in self._by_scope:
            number += 1
        self._lowest_number[where, uid] = number
        return f"vm{number}"

    def add(self, nic: Nic) -> None:
        """Enter a NIC and write its record."""
        state_files.write(self._path(nic.ifname), _record(nic))
        self.enter(nic)

    def enter(self, nic: Nic) -> None:
        """Enter a NIC whose record is there already. It stays as it is: its guest
        runs, and a broker that dies while it writes would lose it."""
        self._of_user.setdefault(nic.uid, {})[nic.ifname] = nic
        self._counts.setdefault(nic.uid, Counter())[nic.where] += 1
        self._in_all[nic.where] += 1
        self._index(nic)

    def _index(self, nic: Nic) -> None:
        self._by_ifname[nic.ifname] = nic
        self._by_index[nic.ifindex] = nic
        self._by_scope[nic.scope] = nic
        self._by_bridge.setdefault(nic.bridge, {})[nic.ifname] = nic
        if nic.state is State.WAITING:
            self._waiting[nic.ifname] = nic
        else:
            self._waiting.pop(nic.ifname, None)
        if nic.mac is not None and nic.state in (State.ACTIVE, State.QUARANTINED):
            place = nic.bridge_index, nic.mac
            if self._by_mac.get(place) is not nic:
                self._by_mac[place] = nic
                self._macs[nic.mac] += 1

    def update(self, nic: Nic) -> None:
        """Write the record anew and find the NIC by its MAC from now on.

        Its guest runs: a broker that dies now leaves the old record or the new.
        """
        state_files.replace(self._path(nic.ifname), _record(nic))
        self._index(nic)

    def write_again(self) -> None:
        """Every record, where they all may be lost; :raises OSError."""
        state_files.private_directory(self._directory)
        for nic in self:
            self.update(nic)

    def remove(self, nic: Nic) -> None:
        """Strike a NIC off and remove its record."""
        if self._by_ifname.pop(nic.ifname, None) is None:
            return
        self._uncount(nic)
        on_bridge = self._by_bridge[nic.bridge]
        del on_bridge[nic.ifname]
        if not on_bridge:
            del self._by_bridge[nic.bridge]
        self._waiting.pop(nic.ifname, None)
        where, uid, name = nic.scope
        number = name.removeprefix("vm")
        if number.isdecimal() and int(number) < self._lowest_number.get(
            (where, uid), 1
        ):
            self._lowest_number[where, uid] = int(number)
        self._by_index.pop(nic.ifindex, None)
        self._by_scope.pop(nic.scope, None)
        if nic.mac is not None and self._by_mac.get((nic.bridge_index, nic.mac)) is nic:
            del self._by_mac[nic.bridge_index, nic.mac]
            self._macs[nic.mac] -= 1
            if not self._macs[nic.mac]:
                del self._macs[nic.mac]
        state_files.remove(self._path(nic.ifname))

    def _uncount(self, nic: Nic) -> None:
        counts = self._counts[nic.uid]
        for counter in (counts, self._in_all):
            counter[nic.where] -= 1
            if not counter[nic.where]:
                del counter[nic.where]
        if not counts:
            del self._counts[nic.uid]
        del self._of_user[nic.uid][nic.ifname]
        if not self._of_user[nic.uid]:
            del self._of_user[nic.uid]

    def forget(self, ifname: str) -> None:
        """Remove the record of a NIC that was never entered here."""
        state_files.remove(self._path(ifname))

    def _path(self, ifname: str) -> str:
        return os.path.join(self._directory, ifname)

    def records(self) -> Iterator[Nic]:
        """What an earlier broker wrote; a record that makes no sense is removed."""
        for ifname in sorted(os.listdir(self._directory)):
            path = self._path(ifname)
            try:
                nic = read_record(state_files.read_json(path, _RECORD_LIMIT))
                if nic.ifname != ifname or not is_interface_name(ifname):
                    raise ValueError("it is about another device")
            except (ValueError, TypeError, KeyError) as err:
                _log.warning("record %s is damaged and removed: %s", path, err)
                state_files.discard(path)
                continue
            yield nic


def _record(nic: Nic) -> str:
    return json.dumps({name: getattr(nic, name) for name in _FIELDS})


_TYPES: dict[str, type] = {
    "int": int,
    "bool": bool,
    "float": float,
    "list[str]": list,
}


def read_record(data: object) -> Nic:
    """:raises ValueError, TypeError: these are not a NIC's fields and types."""
    if not isinstance(data, dict):
        raise TypeError("not an object")
    nic = Nic(**data)
    for each in dataclasses.fields(Nic):
        value = getattr(nic, each.name)
        optional = "None" in str(each.type)
        wanted = _TYPES.get(str(each.type).split(" ")[0], str)
        if not (isinstance(value, wanted) or (optional and value is None)):
            raise TypeError(f"{each.name} is {value!r}")
    nic.state = State(nic.state)
    _check(nic)
    return nic


def _check(nic: Nic) -> None:
    """What is of the right type and can't be: the kernel and nftables are told it.

    :raises ValueError: it is this.
    """
    for name, least, most in (
        ("ifindex", 1, _INT),
        ("bridge_index", 0, _INT),
        ("uid", 0, _UINT),
        ("pid", 0, _INT),
        ("mtu", 0, 65535),
        ("rate_egress", 0, 10**13),
        ("rate_ingress", 0, 10**13),
    ):
        value = getattr(nic, name)
        if isinstance(value, bool) or not least <= value <= most:
            raise ValueError(f"{name} is {value!r}")
    for name in ("mac", "host_mac"):
        value = getattr(nic, name)
        if value and not is_mac(value):
            raise ValueError(f"{name} is {value!r}")
    if nic.ipv4 is not None:
        IPv4Address(nic.ipv4)
    if nic.ipv6 is not None:
        IPv6Address(nic.ipv6)
    if not is_interface_name(nic.bridge):
        raise ValueError(f"bridge is {nic.bridge!r}")
    for name in ("user", "name", "network", "share"):
        value = getattr(nic, name)
        if value is not None and not (len(value) < 256 and value.isprintable()):
            raise ValueError(f"{name} is {value!r}")
    if not all(isinstance(pattern, str) for pattern in nic.macs):
        raise ValueError(f"macs is {nic.macs!r}")
    if nic.expires is not None and not math.isfinite(nic.expires):
        raise ValueError(f"expires is {nic.expires!r}")
    if nic.state is State.ACTIVE and nic.mac is None and not nic.trusted:
        raise ValueError("it is active and has no MAC")
