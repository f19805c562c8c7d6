# SPDX-License-Identifier: LGPL-2.1-or-later
"""What tapster says to nftables. Pure text; nothing here talks to the kernel.

Two tables, both wholly ours. `bridge tapster` sees each frame that comes in
through a port of ours; `inet tapster` sees what the host routes for networks
of ours. Rules are laid once; NICs and networks are elements of sets, so that
an attach costs the same with ten ports as with a thousand.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network

BRIDGE_TABLE = "bridge tapster"
INET_TABLE = "inet tapster"
TAP_PREFIX = "tapster"
# The first digit of a tap's name says which of the chains below it is for.
LAN, NAT = "l", "n"

# The source MAC is the bridge's own business: a locked port drops every frame
# whose source is not its static forwarding entry, after this chain and before
# anything is forwarded. What else a guest may say depends on the kind of its
# network, which is in the device's name: a port is never without these checks,
# and only what a NATed guest's address is has to be an element. A waiting port
# is locked and has no entry yet, so the bridge drops all it sends: it only
# leaves one MAC in `first`, and never more than one, whatever its guest sends
# (daemon/first_mac.py).
_BRIDGE = """
table bridge tapster {
    set waiting { type ifname; }
    map first { type ifname : ether_addr; size 4096; flags dynamic; }
    set guests { type ifname . ether_addr . ipv4_addr; }

    chain lan {
        ether type != { arp, ip, ip6 } drop
        udp sport { 67, 547 } drop
        icmpv6 type { nd-router-advert, nd-redirect } drop
        accept
    }
    chain nat {
        ether type arp iifname . arp saddr ether . arp saddr ip @guests accept
        arp saddr ip 0.0.0.0 accept
        udp sport { 67, 547 } drop
        ether type ip iifname . ether saddr . ip saddr @guests accept
        ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept
        icmpv6 type { nd-router-advert, nd-redirect } drop
        ether type ip6 accept
        drop
    }
    chain prerouting {
        type filter hook prerouting priority -200; policy accept;
        iifname @waiting add @first { iifname : ether saddr } accept
        iifname "tapstern*" jump nat
        iifname "tapster*" jump lan
    }
}
"""

# Guests of one network never reach another's, nothing outside reaches a guest
# unasked, and a guest sees of the host no more than DHCP, DNS, neighbour
# discovery and ping of its gateway. Source ports below 1024 would let a guest
# pass for a privileged process of the host (NFS "secure", NIS). Where
# bridge-nf-call-iptables is on, as it is by default, frames between guests of
# one network come through `forward` too, in and out of the same bridge.
_INET = """
table inet tapster {
    set bridges { type ifname; }
    set within { type ifname . ifname; }
    set nat4 { type ipv4_addr; flags interval; }
    set nat6 { type ipv6_addr; flags interval; }
    set gateways4 { type ifname . ipv4_addr; }
    set gateways6 { type ifname . ipv6_addr; }

    chain from_guest {
        meta l4proto udp udp dport 67 accept
        meta l4proto udp udp dport 547 ip6 daddr { ff02::1:2, fe80::1 } accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit } accept
        iifname . ip daddr @gateways4 meta l4proto { tcp, udp } th dport 53 accept
        iifname . ip6 daddr @gateways6 meta l4proto { tcp, udp } th dport 53 accept
        iifname . ip daddr @gateways4 icmp type echo-request accept
        iifname . ip6 daddr @gateways6 icmpv6 type echo-request accept
        ct state established,related accept
        drop
    }
    chain input {
        type filter hook input priority filter; policy accept;
        iifname @bridges jump from_guest
    }
    chain forward {
        type filter hook forward priority filter; policy accept;
        iifname . oifname @within accept
        iifname @bridges oifname @bridges drop
        iifname @bridges ip saddr @nat4 accept
        iifname @bridges ip6 saddr @nat6 accept
        iifname @bridges drop
        oifname @bridges ct state established,related accept
        oifname @bridges drop
    }
    chain postrouting {
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr @nat4 oifname != @bridges meta l4proto { tcp, udp } masquerade to :1024-65535
        ip saddr @nat4 oifname != @bridges masquerade
        ip6 saddr @nat6 oifname != @bridges meta l4proto { tcp, udp } masquerade to :1024-65535
        ip6 saddr @nat6 oifname != @bridges masquerade
    }
}
"""


def tables() -> str:
    """Both tables, made anew without their elements."""
    return no_tables() + _BRIDGE + _INET


def no_tables() -> str:
    """Neither table, whether they were there or not."""
    return "".join(
        f"add table {table}\ndelete table {table}\n"
        for table in (BRIDGE_TABLE, INET_TABLE)
    )


def _elements(verb: str, table: str, entries: Iterable[tuple[str, str]]) -> str:
    return "".join(
        f"{verb} element {table} {name} {{ {value} }}\n" for name, value in entries
    )


def add_port(
    ifname: str, mac: str | None, ipv4: str | None, *, refused: bool = False
) -> str:
    """A port of ours; empty if it needs no element.

    One without a MAC waits for its first, unless refused.
    """
    if mac is None:
        return "" if refused else _elements("add", BRIDGE_TABLE, [("waiting", ifname)])
    if ipv4 is None:
        return ""
    return _elements("add", BRIDGE_TABLE, [("guests", f"{ifname} . {mac} . {ipv4}")])


def first_mac(ifname: str, mac: str, ipv4: str | None) -> str:
    """The waiting port `ifname` has been given its MAC."""
    text = _elements("delete", BRIDGE_TABLE, [("waiting", ifname)])
    if ipv4 is not None:
        text += _elements(
            "add", BRIDGE_TABLE, [("guests", f"{ifname} . {mac} . {ipv4}")]
        )
    return text


def delete_elements(found: Iterable[tuple[str, str]]) -> str:
    """Of the bridge table, (set, key) pairs that are known to be there."""
    return _elements("delete", BRIDGE_TABLE, found)


def _network_entries(
    bridge: str, subnet4: IPv4Network, subnet6: IPv6Network | None
) -> list[tuple[str, str]]:
    entries = [
        ("bridges", bridge),
        ("within", f"{bridge} . {bridge}"),
        ("nat4", str(subnet4)),
        ("gateways4", f"{bridge} . {subnet4[1]}"),
    ]
    if subnet6 is not None:
        entries += [
            ("nat6", str(subnet6)),
            ("gateways6", f"{bridge} . {subnet6[1]}"),
            ("gateways6", f"{bridge} . fe80::1"),
        ]
    return entries


def add_network(bridge: str, subnet4: IPv4Network, subnet6: IPv6Network | None) -> str:
    """A NATed network on a bridge of ours."""
    return _elements("add", INET_TABLE, _network_entries(bridge, subnet4, subnet6))


def delete_network(
    bridge: str, subnet4: IPv4Network, subnet6: IPv6Network | None
) -> str:
    return _elements("delete", INET_TABLE, _network_entries(bridge, subnet4, subnet6))
