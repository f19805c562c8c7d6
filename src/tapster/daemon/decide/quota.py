# SPDX-License-Identifier: LGPL-2.1-or-later
"""How many NICs a user has of those that a rule is about."""

from __future__ import annotations

from ...model import Rule
from ...policy.core.matching import covers, matches_any
from ...policy.core.rulebook import EVERY_NETWORK, Target
from ..nics.ledger import Ledger
from ..nics.naming import on_linux_bridge
from ..nics.nic import Nic


def target_of(nic: Nic) -> Target:
    """What a NIC was asked for as. A MAC that is not known yet may be any."""
    if nic.network is not None:
        return Target(nic.network, None, nic.name, nic.mac)
    return Target(None, nic.bridge, nic.name, nic.mac)


def _asked_for(nic: Nic) -> Target:
    """What a NIC counts as. A rule with `macs` may have granted a NIC for which no MAC
    was asked for; the broker has chosen one then, which is not one of these: such a
    NIC counts as one whose MAC may be any."""
    target = target_of(nic)
    if nic.macs and nic.mac is not None and not matches_any(nic.mac, nic.macs):
        return target._replace(mac=None)
    return target


def used(ledger: Ledger, uid: int, rule: Rule, bridges: bool) -> int:
    """How many NICs a user has of those that a rule is about.

    :param ledger: all NICs.
    :param uid: the user.
    :param rule: the rule.
    :param bridges: whether NICs on Linux bridges count.
    """
    if rule.guests or rule.macs:
        mine = ledger.of_user(uid)
        return sum(
            covers(rule, _asked_for(nic)) for nic in mine if bridges or nic.network
        )
    if EVERY_NETWORK in rule.networks:
        total = ledger.count_on_networks(uid)
    else:
        total = sum(ledger.count(uid, network) for network in set(rule.networks))
    if bridges:
        total += sum(ledger.count(uid, on_linux_bridge(b)) for b in set(rule.bridges))
    return total
