# SPDX-License-Identifier: LGPL-2.1-or-later
"""Simulates other programs' nftables rules: would they drop a packet of ours?

A drop in any base chain is final in nftables: no rule of ours can let through what
another table drops. All that is left is to say which chain does.

The simulation is pure. It reads the JSON of ``nft list ruleset`` and follows one packet
at a time. Some matches can't be decided from there: a rate limit, a mark, and most
matches of iptables, of which libnftables lists only the name. Such a match may hit or
miss, and both ways are followed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address, ip_network
from typing import Any

OUR_TABLE = "tapster"

_ACCEPT, _DROP, _RETURN, _NEXT = "accept", "drop", "return", "next"
_Outcomes = frozenset[str]
_DONE: _Outcomes = frozenset({_ACCEPT, _DROP})

# Statements after which a packet goes on to the next statement of the same rule.
_PASSING = {
    "counter", "log", "mangle", "set", "map", "notrack", "dup", "ct helper",
    "ct timeout", "ct expectation", "flow", "last", "meter", "secmark",
}  # fmt: skip
_TARGETS_THAT_PASS = {
    "LOG", "NFLOG", "MARK", "CONNMARK", "TCPMSS", "CLASSIFY", "CHECKSUM", "DSCP",
    "TOS", "TTL", "HL", "CT", "NOTRACK", "AUDIT", "TRACE", "SECMARK", "CONNSECMARK",
    "SET", "TEE", "IDLETIMER", "RATEEST",
}  # fmt: skip
_TRANSPORT = {"tcp", "udp", "udplite", "sctp", "dccp", "icmp", "icmpv6", "igmp"}
_EXTENSIONS = {"rt", "frag", "hbh", "dst", "ah", "esp", "mh", "ipv6header"}
_NUMBERS = {1: "icmp", 6: "tcp", 17: "udp", 58: "ipv6-icmp", 132: "sctp"}


@dataclass(frozen=True)
class Packet:
    """A packet that has to get through. What `fields` does not name is not known."""

    what: str  # for people
    hook: str  # "input" or "forward"
    family: str  # "ip" or "ip6"
    protocol: str  # "udp" or "tcp"
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Obstacle:
    """A base chain that drops a packet, or may."""

    packet: Packet
    family: str
    table: str
    chain: str
    certain: bool


def packet(
    what: str,
    hook: str,
    family: str,
    protocol: str,
    *,
    iifname: str | None,
    oifname: str | None = None,
    state: str = "new",
    sport: int | None = None,
    dport: int | None = None,
    daddr: str | None = None,
) -> Packet:
    """Describe a packet as rules see it. What is None is not known.

    :param what: it is, for people.
    :param hook: "input" or "forward".
    :param family: "ip" or "ip6".
    :param protocol: "tcp" or "udp".
    :param iifname: the device that it comes in by.
    :param oifname: the device that it goes out by.
    :param state: of its connection: "new" or "established".
    :param sport: the source port.
    :param dport: the destination port.
    :param daddr: a broadcast or multicast address that it is for. On `input`, a packet
        without one is for an address of this host.
    """
    known: dict[str, Any] = {
        "meta l4proto": protocol,
        "meta nfproto": "ipv4" if family == "ip" else "ipv6",
        "meta protocol": family,
        "ip protocol": protocol,
        "ip6 nexthdr": protocol,
        "ct state": state,
        "ct status": "seen-reply" if state == "established" else "",
        "ct direction": "reply" if state == "established" else "original",
        "meta iifname": iifname,
        "meta iif": iifname,
        "meta oifname": oifname,
        "meta oif": oifname,
        f"{family} daddr": daddr,
    }
    for end, port in (("sport", sport), ("dport", dport)):
        known[f"th {end}"] = known[f"{protocol} {end}"] = port
    if hook == "input":
        known["fib daddr type"] = "local"
        if daddr is not None:
            many = ip_address(daddr).is_multicast
            known["fib daddr type"] = "multicast" if many else "broadcast"
    known = {key: value for key, value in known.items() if value is not None}
    return Packet(what, hook, family, protocol, known)


class NftSimulation:
    """Everybody else's tables, as they are listed, ours left out."""

    def __init__(self, listing: Iterable[Mapping[str, Any]]) -> None:
        """:param listing: the objects of libnftables' JSON, in their order."""
        self._chains: dict[tuple[str, str, str], Mapping[str, Any]] = {}
        self._rules: dict[tuple[str, str, str], list[Sequence[Any]]] = {}
        self._sets: dict[tuple[str, str, str], Sequence[Any]] = {}
        dormant = set()
        for entry in listing:
            for kind, body in entry.items():
                if kind == "table" and "dormant" in str(body.get("flags", "")):
                    dormant.add((body["family"], body["name"]))
                table = (body.get("family"), body.get("table"))
                if body.get("table") == OUR_TABLE or table in dormant:
                    continue
                if kind == "chain":
                    self._chains[(*table, body["name"])] = body
                elif kind == "rule":
                    key = (*table, body["chain"])
                    self._rules.setdefault(key, []).append(body.get("expr", []))
                elif kind in ("set", "map"):
                    self._sets[(*table, body["name"])] = body.get("elem", [])

    def has_chain(self, family: str, table: str, *prefixes: str) -> bool:
        """Whether a table has a chain whose name starts with one of the prefixes."""
        return any(
            (family, table) == key[:2] and key[2].startswith(prefixes)
            for key in self._chains
        )

    def rules(self, family: str, table: str, chain: str) -> list[Sequence[Any]]:
        """List the rules of a chain, each as its statements."""
        return self._rules.get((family, table, chain), [])

    def elements(self, family: str, table: str, name: str) -> Sequence[Any] | None:
        """List the elements of a named set or map; None if there is no such."""
        return self._sets.get((family, table, name))

    def obstacles(self, packet: Packet) -> list[Obstacle]:
        """Find the base chains that keep a packet from getting through.

        A chain that may drop the packet, but need not, counts only if its policy is
        drop: what such a chain lets through is the exception.
        """
        found = []
        for key, chain in self._chains.items():
            if chain.get("hook") != packet.hook or chain.get("type") != "filter":
                continue
            if key[0] not in (packet.family, "inet"):
                continue
            policy = str(chain.get("policy", _ACCEPT))
            ways = _Walk(self, packet, key[0], key[1]).chain(key[2])
            ends = {policy if way == _RETURN else way for way in ways}
            if ends == {_DROP} or (_DROP in ends and policy == _DROP):
                found.append(Obstacle(packet, *key, certain=ends == {_DROP}))
        return found


class _Walk:
    """All the ways that one packet may take through the chains of one table.

    A match is True, False, or None where it can't be decided.
    """

    def __init__(
        self, rules: NftSimulation, packet: Packet, family: str, table: str
    ) -> None:
        self._rules, self._packet = rules, packet
        self._family, self._table = family, table
        self._known: dict[str, _Outcomes] = {}

    def chain(self, name: str) -> _Outcomes:
        """What a chain may do with it: accept, drop, or return to its caller."""
        if name not in self._known:
            ends: set[str] = set()
            going_on = True
            for rule in self._rules.rules(self._family, self._table, name):
                ways = self._rule(rule)
                ends |= ways - {_NEXT}
                if going_on := _NEXT in ways:
                    continue
                break
            self._known[name] = frozenset(ends | ({_RETURN} if going_on else set()))
        return self._known[name]

    def _rule(self, rule: Sequence[Any]) -> _Outcomes:
        certain = True
        for statement in rule:
            if not isinstance(statement, dict) or len(statement) != 1:
                certain = False
                continue
            ((kind, body),) = statement.items()
            if kind in _PASSING:
                continue
            if kind == "match":
                matches = self._compare(body["left"], body["op"], body["right"])
            elif kind == "xt" and body.get("type") == "match":
                matches = self._xt_match(str(body.get("name")), rule)
            elif (ways := self._verdict(kind, body)) is not None:
                return ways if certain else ways | {_NEXT}
            else:
                matches = None  # a limit, a quota, or a statement not known here
            if matches is False:
                return frozenset({_NEXT})
            certain = certain and matches is True
        return frozenset({_NEXT})

    def _verdict(self, kind: str, body: Any) -> _Outcomes | None:
        """What a statement does with a packet; None: it is no verdict."""
        if kind in ("accept", "drop", "return"):
            return frozenset({kind})
        if kind in ("reject", "continue"):
            return frozenset({_DROP if kind == "reject" else _NEXT})
        if kind in ("jump", "goto"):
            ways = self.chain(body["target"])
            if kind == "jump" and _RETURN in ways:
                ways = ways - {_RETURN} | {_NEXT}
            return ways
        if kind == "vmap":
            return self._verdict_map(body["key"], body["data"])
        if kind == "queue":
            return _DONE
        if kind == "xt" and body.get("name") == "REJECT":
            return frozenset({_DROP})
        if kind == "xt" and body.get("name") not in _TARGETS_THAT_PASS:
            return _DONE | {_NEXT}
        return frozenset({_NEXT}) if kind == "xt" else None

    def _verdict_map(self, key: Any, data: Any) -> _Outcomes:
        ways: set[str] = set()
        for pair in self._elements(data) or ():
            matches = self._compare(key, "==", _plain(pair[0]))
            if matches is False or not isinstance(pair[1], dict):
                continue
            ((kind, body),) = pair[1].items()
            ways |= self._verdict(kind, body) or {_NEXT}
            if matches:
                return frozenset(ways)
        return frozenset(ways | {_NEXT})

    def _xt_match(self, name: str, rule: Sequence[Any]) -> bool | None:
        """Guess a match of iptables by its name and by what else the rule does.

        A rule whose only match is `conntrack` accepts established connections or drops
        invalid packets: that is how people write it. By `addrtype` ufw lets pass what
        is for this host, which all packets are that we try on `input`.
        """
        if name == "comment":
            return True
        kinds = [kind for s in rule if isinstance(s, dict) for kind in s]
        passes = "accept" in kinds or "return" in kinds
        alone = "match" not in kinds and "limit" not in kinds and kinds.count("xt") == 1
        if name in ("conntrack", "state"):
            known = self._packet.fields["ct state"] == "established"
            if passes and known:
                return True
            return False if alone else None
        if name == "addrtype" and passes and self._packet.hook == "input":
            return True
        if name in _EXTENSIONS:
            return False  # our packets have none of these headers
        if name in _TRANSPORT | {"icmp6"}:
            return None if name == self._packet.protocol else False
        return None

    def _compare(self, left: Any, op: str, right: Any) -> bool | None:
        if isinstance(left, dict) and "concat" in left:
            equal = self._any_of(partial(self._concat, left["concat"]), right)
        else:
            name = _name(left)
            layer = name.partition(" ")[0]
            if layer in _TRANSPORT and layer != self._packet.protocol:
                return False
            if layer in ("ip", "ip6") and layer != self._packet.family:
                return False
            if name not in self._packet.fields:
                return None
            equal = self._any_of(partial(_equal, self._packet.fields[name]), right)
        if equal is None or op not in ("==", "!=", "in"):
            return None
        return not equal if op == "!=" else equal

    def _concat(self, lefts: Sequence[Any], right: Any) -> bool | None:
        parts = right.get("concat") if isinstance(right, dict) else None
        if not isinstance(parts, list) or len(parts) != len(lefts):
            return None
        found = [
            self._compare(one, "==", other)
            for one, other in zip(lefts, parts, strict=True)
        ]
        return False if False in found else None if None in found else True

    def _any_of(self, matches: Any, right: Any) -> bool | None:
        """Whether the right side of a match, or one of its elements, matches."""
        elements = self._elements(right)
        if elements is None:
            named = isinstance(right, str) and right[:1] == "@"
            return None if named else matches(right)
        found = [matches(_plain(element)) for element in elements]
        return True if True in found else None if None in found else False

    def _elements(self, data: Any) -> Sequence[Any] | None:
        """The elements of a set, anonymous or named, or of a list of flags; None if
        it is neither."""
        if isinstance(data, str) and data[:1] == "@":
            return self._rules.elements(self._family, self._table, data[1:])
        if isinstance(data, dict) and "set" in data:
            data = data["set"]
            return data if isinstance(data, list) else [data]
        return data if isinstance(data, list) else None


def _plain(element: Any) -> Any:
    """Strip an element of its timeout, counter and comment."""
    if isinstance(element, dict) and "elem" in element:
        return element["elem"]["val"]
    return element


def _name(left: Any) -> str:
    """Name what a match looks at, e.g. ``udp dport`` or ``fib daddr type``."""
    if not isinstance(left, dict) or len(left) != 1:
        return "?"
    ((kind, body),) = left.items()
    if not isinstance(body, dict):
        return "?"
    if kind == "payload":
        return f"{body.get('protocol', '?')} {body.get('field', '?')}"
    if kind == "fib":
        flags = body.get("flags")
        flags = flags if isinstance(flags, str) else " ".join(flags or ())
        return f"fib {flags} {body.get('result')}"
    if kind in ("meta", "ct") and "key" in body:
        return f"{kind} {body['key']}"
    return "?"


def _equal(value: Any, right: Any) -> bool | None:
    """Compare a known value with a value, a range, a prefix or a pattern; None if that
    can't be decided."""
    if isinstance(right, dict):
        if "range" in right and isinstance(value, int):
            low, high = right["range"]
            return low <= value <= high if isinstance(low, int) else None
        if "prefix" in right and isinstance(value, str):
            prefix = right["prefix"]
            try:
                network = ip_network(f"{prefix['addr']}/{prefix['len']}", strict=False)
                return ip_address(value) in network
            except ValueError:
                return None
        return None
    if isinstance(right, int) and isinstance(value, str):
        return _NUMBERS[right] == value if right in _NUMBERS else None
    if isinstance(right, str) and isinstance(value, str):
        return right == "*" or (
            value.startswith(right[:-1]) if right.endswith("*") else value == right
        )
    return bool(value == right)
