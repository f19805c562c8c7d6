# SPDX-License-Identifier: LGPL-2.1-or-later
"""People, targets and rules, for tests of who may have what."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from tapster.model import Peer, Rule
from tapster.policy.core.facts import Source, Verdict
from tapster.policy.core.rulebook import Target

ALICE = Peer(1000, 1000, frozenset({1000, 36}), 1)
BOB = Peer(1001, 100, frozenset(), 2)
ROOT = Peer(0, 0, frozenset({0}), 3)
SOURCE = Source("/etc/qemu/bridge.conf", 1, "a line")
YES = Verdict(True, "allowed by a line", SOURCE, ())
NO = Verdict(False, "denied by a line", SOURCE, ())
BROKEN = Verdict(False, "an unknown word", None, (), undecided=True)
SILENT = Verdict(False, "no rule of bridge.conf allows it", None, ())
DEFAULT = Target(network="default")
LAN = Target(network="lan")
BR0 = Target(bridge="br0")
MAC = "52:54:00:00:00:01"


def allow(location: str = "f:1", **keys: object) -> Rule:
    return Rule(location, **{"networks": ("lan",), **keys})  # type: ignore[arg-type]


def deny(location: str = "f:9", **keys: object) -> Rule:
    return allow(location, effect="deny", **keys)


# Whatever may be in a request and in rules, of a small world.
IDS = st.none() | st.frozensets(st.sampled_from([0, 1, 2, 36]), min_size=1)
NAMES = st.lists(st.sampled_from(["default", "lan", "br0", "*"]), unique=True)
RULES = st.builds(
    Rule,
    location=st.sampled_from(["f:1", "f:2", "f:3"]),
    users=IDS,
    groups=IDS,
    networks=NAMES.map(tuple),
    bridges=NAMES.map(tuple),
    effect=st.sampled_from(["allow", "allow", "polkit", "deny"]),
    trusted=st.booleans(),
    guests=st.sampled_from([(), (), ("web*",), ("db", "a?")]),
    macs=st.sampled_from([(), (), ("52:54:*",)]),
    max_nics=st.none() | st.integers(1, 3),
    manage=st.booleans(),
).map(lambda rule: replace(rule, macs=()) if rule.effect == "deny" else rule)
PEERS = st.builds(
    Peer,
    st.sampled_from([0, 1, 2]),
    st.sampled_from([0, 1, 36]),
    st.frozensets(st.sampled_from([0, 1, 2, 36])),
    st.just(1),
    st.none() | st.frozensets(st.sampled_from([1, 36])),
    st.booleans(),
)
TARGETS = st.builds(
    lambda target, name, mac: target._replace(name=name, mac=mac),
    st.sampled_from([DEFAULT, LAN, BR0, Target()]),
    st.sampled_from([None, "web1", "db", "mail"]),
    st.sampled_from([None, MAC, "02:00:00:00:00:01"]),
)
VERDICTS = st.sampled_from([YES, NO, SILENT])
MANY = st.lists(RULES, max_size=6)
