# SPDX-License-Identifier: LGPL-2.1-or-later
"""What of a NIC or a network is in nftables' sets, and how it is written there.

An element has two forms: text, for the one transaction in which a broker that
starts makes its tables, and the bytes that the kernel takes directly, for the
attach path (kernel/nftelem.py). Both come from here, so they can't differ.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple

from ..kernel import nftelem
from ..model import Forward, Port
from . import addresses, ruleset
from .ruleset import BRIDGE_TABLE, INET_TABLE, LAN, TRUSTED

PORTS = "ports"
# Elements of these are no port's, but of a MAC that guests of bridges apart may
# share: addresses that are somebody's, and MACs whose leases are learned.
CLAIMED, LEARNERS = "claimed6", "learners"
_OF_NO_PORT = (CLAIMED, LEARNERS)


class Entry(NamedTuple):
    """One element of a set or map of the bridge table.

    `parts` are names, MACs and addresses as they are usually written; `raw` is
    the number of the first one that nft has no type for and calls an integer.
    A port is known by its name in text and by `ifindex` to the kernel. Of the map
    `ports`, `chain` is where its frames go, None: to be accepted.
    """

    set: str
    parts: tuple[str, ...]
    raw: int = 9
    ifindex: int = 0
    chain: str | None = None

    def text(self) -> str:
        key = " . ".join(
            _number(part) if place >= self.raw else part
            for place, part in enumerate(self.parts)
        )
        if self.set != PORTS:
            return key
        return f"{key} : {f'goto {self.chain}' if self.chain else 'accept'}"

    def element(self) -> nftelem.Element:
        first, *rest = self.parts
        if self.set in _OF_NO_PORT:  # a single one is not filled up
            key = nftelem.mac_bytes(first) if _is_mac(first) else nftelem.ip_addr(first)
        elif self.ifindex:
            key = nftelem.iface_index(self.ifindex)
        else:
            key = nftelem.ifname(first)
        for part in rest:
            key += nftelem.ether_addr(part) if _is_mac(part) else nftelem.ip_addr(part)
        data = nftelem.verdict(self.chain) if self.set == PORTS else b""
        return nftelem.Element(nftelem.NFPROTO_BRIDGE, "tapster", self.set, key, data)


def _is_mac(part: str) -> bool:
    return len(part) == 17 and part[2::3] == ":::::"


def _number(part: str) -> str:
    if _is_mac(part):
        return "0x" + part.replace(":", "")
    return f"0x{IPv6Address(part).packed.hex()}"


class Guest(NamedTuple):
    """What the checks of a port are about. Of a waiting or refused one the MAC
    is None; `strict` holds a LAN port to addresses that it may not have,
    `learns` to what a DHCP server says, `limited` to a rate; `shut` is one of
    which nothing is let through."""

    ifname: str
    ifindex: int
    kind: str  # of ruleset
    mac: str | None
    ipv4: str | None = None
    ipv6: str | None = None
    waiting: bool = False
    strict: bool = False
    learns: bool = False
    limited: bool = False
    shut: bool = False


def of_port(guest: Guest) -> list[Entry]:
    """The elements of one port."""
    if guest.shut:
        return []
    mac, kind = guest.mac, guest.kind
    chain = ruleset.chain_of(kind, waiting=guest.waiting, limited=guest.limited)

    def of_it(name: str, *parts: str, raw: int = 9) -> None:
        entries.append(Entry(name, (guest.ifname, *parts), raw, guest.ifindex, chain))

    entries: list[Entry] = []
    of_it(PORTS)
    chain = None
    if mac is None or kind == TRUSTED:
        return entries
    four, six = ("limited4", "limited6") if guest.limited else ("guests", "guests6")
    of_it("macs", mac, raw=1)
    if guest.ipv4 is not None:
        of_it(four, guest.ipv4)
    if guest.ipv6 is not None:
        of_it(six, guest.ipv6, raw=1)
    local = addresses.link_local(mac)  # where there is no other, too
    of_it(six, local, raw=1)
    entries.append(Entry(CLAIMED, (local,), 0))
    if kind == LAN:
        if guest.ipv4 is not None or guest.strict:
            of_it("checked4")
        if guest.ipv6 is not None or guest.strict:
            of_it("checked6")
        if guest.learns:
            entries.append(Entry(LEARNERS, (mac,), 0))
    return entries


def keys(entries: Iterable[Entry]) -> list[nftelem.Element]:
    """For the kernel, as they are."""
    return [entry.element() for entry in entries]


def added(entries: Iterable[Entry]) -> str:
    """For nft: the statements that add them."""
    return "".join(
        f"add element {BRIDGE_TABLE} {entry.set} {{ {entry.text()} }}\n"
        for entry in entries
    )


class Network(NamedTuple):
    """What the host's own rules know of a network of ours."""

    bridge: str
    subnet4: IPv4Network
    subnet6: IPv6Network | None
    routed: bool  # guests get outside, by masquerade
    internet_only: bool
    isolating: bool
    host_access: tuple[Port, ...]


def _of_network(net: Network) -> list[tuple[str, str]]:
    bridge = net.bridge
    entries = [("bridges", bridge), ("gateways4", f"{bridge} . {net.subnet4[1]}")]
    if not net.isolating:
        entries.append(("within", f"{bridge} . {bridge}"))
    if net.internet_only:
        entries.append(("internet", bridge))
    if net.routed:
        entries.append(("nat4", str(net.subnet4)))
    if net.subnet6 is not None:
        entries.append(("gateways6", f"{bridge} . {net.subnet6[1]}"))
        entries.append(("gateways6", f"{bridge} . fe80::1"))
        if net.routed:
            entries.append(("nat6", str(net.subnet6)))
    for port in net.host_access:
        last = f"-{port.last}" if port.last != port.first else ""
        element = f"{bridge} . {port.protocol} . {port.first}{last}"
        entries.append(("host_access", element))
    return entries


def add_network(net: Network) -> str:
    """The statements that add a network of ours."""
    return _statements("add", _of_network(net))


def delete_network(net: Network) -> str:
    """The statements that take it away again."""
    return _statements("delete", _of_network(net))


def change_network(old: Network, new: Network) -> str:
    """From one to the other in one transaction, touching only what differs."""
    before, after = _of_network(old), _of_network(new)
    return _statements("delete", [e for e in before if e not in after]) + _statements(
        "add", [e for e in after if e not in before]
    )


def _statements(verb: str, entries: Iterable[tuple[str, str]]) -> str:
    return "".join(
        f"{verb} element {INET_TABLE} {name} {{ {value} }}\n" for name, value in entries
    )


def forward(verb: str, rule: Forward, ipv4: str | None, ipv6: str | None) -> str:
    """The statements that add a forwarded port for a guest, or delete it."""
    key = f"{rule.port.protocol} . {rule.port.first}"
    text = ""
    for family, address in ((4, ipv4), (6, ipv6)):
        if address is not None:
            value = f" : {address} . {rule.guest_port}" if verb == "add" else ""
            text += f"{verb} element {INET_TABLE} forwards{family} {{ {key}{value} }}\n"
    return text
