# SPDX-License-Identifier: LGPL-2.1-or-later
"""Objects that tests need and mostly don't care about: what matters is named."""

from __future__ import annotations

from typing import Any

from tapster.daemon.nics.ledger import Nic
from tapster.model import Peer, State


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
