# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which elements nftables' sets hold for a NIC or a network, and how they are written.

An element has two forms. Text is for the one transaction in which a broker that starts
makes its tables. Bytes, which the kernel takes directly, are for the attach path
(kernel/nftelem.py). Both forms come from here, so they can't differ.
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
# Sets whose elements do not name a port: link-local addresses that are some guest's,
# and MACs whose leases are learned. Guests on two bridges may share such an element.
CLAIMED, LEARNERS = "claimed6", "learners"
_OF_NO_PORT = (CLAIMED, LEARNERS)


class Entry(NamedTuple):
    """One element of a set or map of the bridge table.

    A port is its name in text, and its index to the kernel.
    """

    set: str
    parts: tuple[str, ...]  # of the key: names, MACs, addresses as usually written
    raw: int = 9  # the number of the first part that nft calls an integer
    ifindex: int = 0  # of the port; 0: the key is not about a port
    chain: str | None = None  # of the map `ports`: where frames go; None: accepted

    def text(self) -> str:
        """The element as nft reads it."""
        key = " . ".join(
            _number(part) if place >= self.raw else part
            for place, part in enumerate(self.parts)
        )
        if self.set != PORTS:
            return key
        return f"{key} : {f'goto {self.chain}' if self.chain else 'accept'}"

    def element(self) -> nftelem.Element:
        """The element as the kernel takes it."""
        first, *rest = self.parts
        if self.set in _OF_NO_PORT:  # a key of one part is not filled up
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
    """What the checks of a port are about."""

    ifname: str
    ifindex: int
    kind: str  # of ruleset: LAN, NAT or TRUSTED
    mac: str | None  # None: not known yet, or refused
    ipv4: str | None = None
    ipv6: str | None = None
    waiting: bool = False  # for its first MAC
    strict: bool = False  # on a LAN: held to its addresses, also where it has none
    learns: bool = False  # on a LAN: held to what a DHCP server answers it
    limited: bool = False  # to a rate
    shut: bool = False  # nothing is let through


def of_port(guest: Guest) -> list[Entry]:
    """The elements of one port."""
    if guest.shut:
        return []
    chain = ruleset.chain_of(guest.kind, waiting=guest.waiting, limited=guest.limited)
    entries = [Entry(PORTS, (guest.ifname,), 9, guest.ifindex, chain)]
    if guest.mac is not None and guest.kind != TRUSTED:
        entries += _owned(guest, guest.mac)
        if guest.kind == LAN:
            entries += _checked(guest, guest.mac)
    return entries


def _owned(guest: Guest, mac: str) -> list[Entry]:
    """The MAC and the addresses that frames from a port may bear."""
    ifname, index = guest.ifname, guest.ifindex
    set4, set6 = ("limited4", "limited6") if guest.limited else ("guests", "guests6")
    entries = [Entry("macs", (ifname, mac), 1, index)]
    if guest.ipv4 is not None:
        entries.append(Entry(set4, (ifname, guest.ipv4), 9, index))
    if guest.ipv6 is not None:
        entries.append(Entry(set6, (ifname, guest.ipv6), 1, index))
    # Also where the network has no IPv6: guests speak it among themselves.
    link_local = addresses.link_local(mac)
    entries.append(Entry(set6, (ifname, link_local), 1, index))
    entries.append(Entry(CLAIMED, (link_local,), 0))
    return entries


def _checked(guest: Guest, mac: str) -> list[Entry]:
    """Which addresses of a LAN port are checked, and whether leases count."""
    entries = []
    for name, address in (("checked4", guest.ipv4), ("checked6", guest.ipv6)):
        if address is not None or guest.strict:
            entries.append(Entry(name, (guest.ifname,), 9, guest.ifindex))
    if guest.learns:
        entries.append(Entry(LEARNERS, (mac,), 0))
    return entries


def keys(entries: Iterable[Entry]) -> list[nftelem.Element]:
    """The elements as the kernel takes them."""
    return [entry.element() for entry in entries]


def added(entries: Iterable[Entry]) -> str:
    """The statements, for nft, that add the elements."""
    return "".join(
        f"add element {BRIDGE_TABLE} {entry.set} {{ {entry.text()} }}\n"
        for entry in entries
    )


class Network(NamedTuple):
    """What the rules for routed packets know of a network of ours."""

    bridge: str
    subnet4: IPv4Network
    subnet6: IPv6Network | None
    routed: bool  # guests get outside, by masquerade
    internet_only: bool  # and there to the Internet alone
    isolating: bool  # guests do not reach one another
    host_access: tuple[Port, ...]  # ports of the host that guests reach


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
    """The statements that delete a network of ours."""
    return _statements("delete", _of_network(net))


def change_network(old: Network, new: Network) -> str:
    """The statements that make one network the other. Only what differs is touched."""
    before, after = _of_network(old), _of_network(new)
    return _statements("delete", [e for e in before if e not in after]) + _statements(
        "add", [e for e in after if e not in before]
    )


def _statements(verb: str, entries: Iterable[tuple[str, str]]) -> str:
    return "".join(
        f"{verb} element {INET_TABLE} {name} {{ {value} }}\n" for name, value in entries
    )


def forward(verb: str, rule: Forward, ipv4: str | None, ipv6: str | None) -> str:
    """The statements that add a forwarded port, or delete it.

    :param verb: "add" or "delete".
    :param rule: the port.
    :param ipv4: the guest's address; None: it has none.
    :param ipv6: its other address; None: it has none.
    """
    key = f"{rule.port.protocol} . {rule.port.first}"
    text = ""
    for family, address in ((4, ipv4), (6, ipv6)):
        if address is not None:
            value = f" : {address} . {rule.guest_port}" if verb == "add" else ""
            text += f"{verb} element {INET_TABLE} forwards{family} {{ {key}{value} }}\n"
    return text
