# SPDX-License-Identifier: LGPL-2.1-or-later
"""Objects that tests need and mostly don't care about: what matters is named."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from tapster.daemon.nics.ledger import Ledger
from tapster.daemon.nics.nic import Nic
from tapster.daemon.nics.port_filter import PortFilter
from tapster.daemon.nics.record import RecordDirectory
from tapster.model import Peer, State
from tapster.networks.elements import Guest


def make_nic(number: int = 1, **fields: Any) -> Nic:
    """An active NIC of uid 1000 on network "default".

    :param number: tells it from others: its index, name, MAC and address follow.
    :param fields: those of `Nic` that matter.
    """
    given = {
        "ifname": f"tapstern{number}",
        "ifindex": number,
        "bridge": "tapbr1",
        "bridge_index": 100,
        "network": "default",
        "uid": 1000,
        "user": "alice",
        "pid": 4711,
        "name": f"vm{number}",
        "mac": f"02:00:00:00:00:{number:02x}",
        "ipv4": f"10.70.1.{number + 1}",
        "ipv6": None,
        "mtu": 1500,
        "state": State.ACTIVE,
    }
    return Nic(**{**given, **fields})


def make_peer(uid: int = 1000, **fields: Any) -> Peer:
    """A process of a user who is in no group but the one of the same number.

    :param fields: those of `Peer` that matter.
    """
    given = {"gid": uid, "groups": frozenset({uid}), "pid": 1}
    return Peer(uid, **{**given, **fields})


class FakePorts:
    """A `PortFilter` that has the ports in a dict instead of in nftables."""

    def __init__(self) -> None:
        self.there: dict[str, Guest] = {}  # by ifname
        self.limits: dict[str, int] = {}  # bit/s, by ifname
        self.forgotten: list[str] = []  # ports whose rate limit was removed
        self.spared: list[str] = []  # NICs of the same MAC, as `remove` was told
        self.failure: Exception | None = None  # raised once by the next change

    def add(self, nic: Nic) -> None:
        self.there[nic.ifname] = nic.guest

    def replace(self, before: Nic, after: Nic) -> None:
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        assert self.there.setdefault(before.ifname, before.guest) == before.guest
        self.there[after.ifname] = after.guest

    def remove(self, nic: Nic, others: Iterable[Nic]) -> None:
        self.spared += [other.ifname for other in others]
        self.there.pop(nic.ifname, None)

    def forget_first_mac(self, nic: Nic) -> None:
        pass

    def limit(self, ifname: str, before: int, after: int) -> None:
        assert self.limits.pop(ifname, 0) == before
        if after:
            self.limits[ifname] = after

    def forget_limit(self, nic: Nic) -> None:
        if nic.rate_egress:
            self.forgotten.append(nic.ifname)


def make_ledger(tmp_path: Path, ports: FakePorts | None = None) -> Ledger:
    """A ledger whose records are below `tmp_path`, and which has no nftables."""
    records = RecordDirectory(str(tmp_path / "nics"))
    return Ledger(records, cast(PortFilter, ports or FakePorts()))
