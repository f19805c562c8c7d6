# SPDX-License-Identifier: LGPL-2.1-or-later
"""The tab: every NIC that was handed out, what it was for, and whose it is.

The kernel is the truth about what exists; this is what it was for. A NIC is
frozen, and there is one way to change it: `Ledger.transition`, which keeps the
indices in here, the elements of nftables and the record on disk in step.

      (made, its MAC known)                 (made, its MAC not told)
              │                                      │
              ▼             first MAC                ▼
           ACTIVE ◀──────────────────────────── WAITING ──────▶ REFUSED
              │                                      │   first MAC     │
              │ tampered with                        │   is another's  │
              ▼                                      ▼                 ▼
         QUARANTINED ◀───────────────────────────────┴─────────────────┘
              │
              ▼             Every state ends with `remove`, when the tap is gone.
           (gone)           A change of address, rate, isolation or MTU leaves the
                            state as it is, and is a transition all the same.

Order of a transition, so that a broker killed in the middle leaves nothing open:
what opens a port, or changes what it may say, changes the elements first and then
the record; what shuts it (QUARANTINED) writes the record first.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ...kernel.netlink import NetlinkError
from ...model import State
from . import naming
from .naming import NameKey
from .nic import Nic
from .port_filter import PortFilter
from .record import RecordDirectory

_log = logging.getLogger(__name__)

# From which state a NIC may come to which. Whatever is not here is a bug.
TRANSITIONS: dict[State, frozenset[State]] = {
    State.WAITING: frozenset((State.ACTIVE, State.REFUSED, State.QUARANTINED)),
    State.ACTIVE: frozenset((State.QUARANTINED,)),
    State.REFUSED: frozenset((State.QUARANTINED,)),
    State.QUARANTINED: frozenset(),
}
_HOLDS_MAC = (State.ACTIVE, State.QUARANTINED)


class Ledger:
    """All NICs, found by whatever is known of them."""

    def __init__(self, records: RecordDirectory, ports: PortFilter) -> None:
        self.records = records
        self.ports = ports
        self._nics: dict[str, Nic] = {}  # by ifname, which the indices lead to
        self._by_index: dict[int, str] = {}
        self._by_name: dict[NameKey, str] = {}
        self._by_mac: dict[tuple[int, str], str] = {}  # bridge's index, MAC
        self._by_bridge: dict[str, dict[str, None]] = {}
        self._of_user: dict[int, dict[str, None]] = {}
        self._waiting: dict[str, None] = {}
        self._macs: Counter[str] = Counter()  # on how many bridges
        self._counts: dict[int, Counter[str]] = {}  # of a user, by network key
        self._totals: Counter[str] = Counter()  # of all users, by network key
        self._lowest_number: dict[tuple[str, int], int] = {}

    # Finding

    def __iter__(self) -> Iterator[Nic]:
        return iter(self._nics.values())

    def __len__(self) -> int:
        return len(self._nics)

    def by_ifname(self, ifname: str) -> Nic | None:
        return self._nics.get(ifname)

    def current(self, nic: Nic) -> Nic | None:
        """A NIC as it is now; None if it is gone. Names of taps are random, and
        never used again."""
        return self._nics.get(nic.ifname)

    def by_index(self, ifindex: int) -> Nic | None:
        return self._find(self._by_index.get(ifindex))

    def by_name(self, key: NameKey) -> Nic | None:
        """The NIC of the guest of that name, by `Nic.name_key`."""
        return self._find(self._by_name.get(key))

    def by_mac(self, bridge_index: int, mac: str) -> Nic | None:
        """The NIC that has that MAC on one bridge; a NIC that only showed it and
        was refused has none."""
        return self._find(self._by_mac.get((bridge_index, mac)))

    def _find(self, ifname: str | None) -> Nic | None:
        return self._nics[ifname] if ifname is not None else None

    def knows_mac(self, mac: str) -> bool:
        """Whether any guest, on whatever bridge, has that MAC."""
        return mac in self._macs

    def on_bridge(self, bridge: str) -> list[Nic]:
        return [self._nics[ifname] for ifname in self._by_bridge.get(bridge, ())]

    def is_used(self, bridge: str) -> bool:
        """Whether any NIC is on that bridge."""
        return bridge in self._by_bridge

    def waiting(self) -> list[Nic]:
        """The NICs whose guest has not shown a MAC yet."""
        return [self._nics[ifname] for ifname in self._waiting]

    def of_user(self, uid: int) -> list[Nic]:
        return [self._nics[ifname] for ifname in self._of_user.get(uid, ())]

    # Counting

    def count(self, uid: int, network_key: str) -> int:
        """How many NICs a user has on one network or Linux bridge."""
        counts = self._counts.get(uid)
        return counts[network_key] if counts else 0

    def count_on_networks(self, uid: int) -> int:
        """How many NICs a user has on all networks together."""
        counts = self._counts.get(uid, Counter[str]())
        return sum(n for key, n in counts.items() if not naming.is_linux_bridge(key))

    def count_all(self, network_key: str) -> int:
        """How many NICs all users together have on one network or Linux bridge."""
        return self._totals[network_key]

    def free_name(self, network_key: str, uid: int) -> str:
        """A name for a guest that was given none: vm1, or the next that is free."""
        number = self._lowest_number.get((network_key, uid), 1)
        while (network_key, uid, naming.automatic_name(number)) in self._by_name:
            number += 1
        self._lowest_number[network_key, uid] = number
        return naming.automatic_name(number)

    # Changing

    def add(self, nic: Nic) -> None:
        """Enter a new NIC, whose elements are there already, and write its record.

        :raises OSError: the record can't be written; nothing has changed.
        """
        self.records.write(nic)
        self.adopt(nic)

    def adopt(self, nic: Nic) -> None:
        """Enter a NIC whose record is there already. The record stays as it is: its
        guest runs, and a broker that died while it wrote would lose it."""
        self._counts.setdefault(nic.uid, Counter())[nic.network_key] += 1
        self._totals[nic.network_key] += 1
        self._of_user.setdefault(nic.uid, {})[nic.ifname] = None
        self._by_index[nic.ifindex] = nic.ifname
        self._by_name[nic.name_key] = nic.ifname
        self._by_bridge.setdefault(nic.bridge, {})[nic.ifname] = None
        self._enter(nic)

    def transition(self, nic: Nic, to: State | None = None, /, **changes: Any) -> Nic:
        """Replace a NIC, as it is now, by one that differs from it.

        :param nic: which one; it may be a fact of before.
        :param to: the state that it comes to; None: it stays in its own.
        :param changes: fields of `Nic` and their new values; not those that say
            which NIC it is, whose, and on which bridge.
        :returns: the NIC as it is from now on.
        :raises LookupError: the NIC is gone.
        :raises NetlinkError: nftables refused; nothing has changed.
        :raises OSError: the record can't be written; nothing has changed. What is
            put into quarantine is so all the same, and this is logged.
        """
        nic = self._nics[nic.ifname]
        if to is not None and to is not nic.state:
            if to not in TRANSITIONS[nic.state]:
                raise ValueError(f"{nic.ifname}: {nic.state} never becomes {to}")
            changes["state"] = to
        new = replace(nic, **changes)
        if changes.keys() == {"handed_out"}:  # which no record and no rule has
            self._nics[nic.ifname] = new
        elif new.state is State.QUARANTINED:
            self._shut(nic, new)
        else:
            self._change(nic, new)
        return new

    def _change(self, nic: Nic, new: Nic) -> None:
        self.ports.replace(nic, new)
        try:
            self.records.replace(new)
        except BaseException:
            self._restore(new, nic)
            raise
        self._enter(new)

    def _restore(self, new: Nic, nic: Nic) -> None:
        try:
            self.ports.replace(new, nic)
        except NetlinkError as err:
            _log.error("%s", err)

    def _shut(self, nic: Nic, new: Nic) -> None:
        try:
            self.records.replace(new)
        except OSError as err:
            _log.error("%s: its record: %s", nic.ifname, err)
        self._enter(new)
        if nic.state is not State.QUARANTINED:
            self.ports.remove(nic, self.same_mac(nic))
            self.ports.forget_limit(nic)

    def _enter(self, nic: Nic) -> None:
        """Have a NIC found as it is from now on."""
        self._nics[nic.ifname] = nic
        if nic.state is State.WAITING:
            self._waiting[nic.ifname] = None
        else:
            self._waiting.pop(nic.ifname, None)
        if nic.mac is not None and nic.state in _HOLDS_MAC:
            key = nic.bridge_index, nic.mac
            if self._by_mac.get(key) != nic.ifname:
                self._by_mac[key] = nic.ifname
                self._macs[nic.mac] += 1

    def withdraw(self, nic: Nic) -> None:
        """Undo `add`: strike a NIC off, and remove its record. Its elements stay."""
        if self._nics.pop(nic.ifname, None) is None:
            return
        self._uncount(nic)
        _discard(self._of_user, nic.uid, nic.ifname)
        _discard(self._by_bridge, nic.bridge, nic.ifname)
        self._waiting.pop(nic.ifname, None)
        self._by_index.pop(nic.ifindex, None)
        self._by_name.pop(nic.name_key, None)
        self._release_number(nic)
        key = nic.bridge_index, nic.mac or ""
        if self._by_mac.get(key) == nic.ifname:
            del self._by_mac[key]
            self._macs[key[1]] -= 1
            if not self._macs[key[1]]:
                del self._macs[key[1]]
        self.records.remove(nic.ifname)

    def remove(self, nic: Nic) -> None:
        """Strike off a NIC whose tap is gone, and remove its record, its elements
        and its rate limit."""
        nic = self._nics.get(nic.ifname, nic)
        self.withdraw(nic)
        self.ports.remove(nic, self.same_mac(nic))
        if nic.state is not State.QUARANTINED:  # else its limit went before
            self.ports.forget_limit(nic)

    def same_mac(self, nic: Nic) -> list[Nic]:
        """Other NICs with that MAC, which are on other bridges. `nic` is not among
        them, though it may still be in the ledger."""
        if nic.mac is None or not self.knows_mac(nic.mac):
            return []
        return [n for n in self if n.mac == nic.mac and n.ifname != nic.ifname]

    def _uncount(self, nic: Nic) -> None:
        counts = self._counts[nic.uid]
        for counter in (counts, self._totals):
            counter[nic.network_key] -= 1
            if not counter[nic.network_key]:
                del counter[nic.network_key]
        if not counts:
            del self._counts[nic.uid]

    def _release_number(self, nic: Nic) -> None:
        """Have the next guest without a name take the number of one that went."""
        network_key, uid, name = nic.name_key
        number = naming.automatic_number(name)
        lowest = self._lowest_number.get((network_key, uid), 1)
        if number is not None and number < lowest:
            self._lowest_number[network_key, uid] = number

    def rewrite_all(self) -> None:
        """Write every record, where they may all be lost; :raises OSError."""
        self.records.make()
        for nic in self:
            self.records.replace(nic)


def _discard(index: dict[Any, dict[str, None]], key: object, ifname: str) -> None:
    """Take a NIC out of an index of several for each key."""
    names = index[key]
    del names[ifname]
    if not names:
        del index[key]
