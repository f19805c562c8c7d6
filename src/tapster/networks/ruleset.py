# SPDX-License-Identifier: LGPL-2.1-or-later
"""The rules that tapster has in nftables. Pure text; nothing here talks to the kernel.

There are two tables, both wholly ours. `bridge tapster` sees each frame that comes in
through a port of ours; `inet tapster` sees what the host routes for networks of ours.
Rules are made once; NICs and networks are elements of sets (elements.py), so that an
attach costs the same with ten ports as with a thousand. Protocols are numbers: their
names are in /etc/protocols, which a minimal system lacks.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network

from ..model import BRIDGE_PREFIX

BRIDGE_TABLE = "bridge tapster"
INET_TABLE = "inet tapster"
# The kind of a port: the first character after TAP_PREFIX in its tap's name.
LAN, NAT, TRUSTED = "l", "n", "t"
# The chain that the frames of each kind go to; with a rate, "_limited" follows.
_CHAINS = {LAN: "lan", NAT: "nat", TRUSTED: "trusted"}

# Which chain a port's frames go to is an element of `ports`. The frames of a port of
# ours without an element are dropped.
#
# These chains do not check the source MAC of frames; the bridge does. A locked port
# drops every frame whose source is not its static forwarding entry, after these chains
# and before anything is forwarded. So a port stands for its MAC here, and what is
# checked is what the frame says inside. A waiting port is locked and has no entry yet:
# the bridge drops all that it sends. The rules only leave the MAC of the first frame in
# `first`, never more than one for a port (daemon/watch/first_mac.py).
#
# On costs: each rule costs every frame that gets to it. A lookup in a set costs five
# times what a comparison does, less where the key has four bytes and the set a size.
# Therefore the rules for most frames come first, exceptions are asked for only behind
# the protocol that they are about, and a port is its index, not its name. Of TCP only
# the source address is checked. The addresses of ports with a rate are in sets of their
# own (limited4, limited6): their frames must not be accepted before the limit.
#
# Raw offsets stand for what nft has no word for, or none that it takes in a set's key:
# * @nh,64,48 is the sender's MAC in ARP, after 8 bytes;
# * @nh,64,128 is the source address of IPv6;
# * @th,64,128 is the target in neighbour discovery, after type, code, checksum and
#   flags (RFC 4861, 4.3 and 4.4), and @th,208,48 the MAC in the option behind it;
# * @th,288,48 is the client's MAC in DHCP: 8 bytes of UDP, then chaddr at 28 (RFC 2131).
#
# A guest may have any link-local address, for privacy (RFC 7217), except those that are
# made from other guests' MACs (claimed6), and the gateway's.
#
# A neighbour advertisement has a target and at most that one option, 32 bytes in all,
# and its header must say so: behind extension headers, Linux takes a length of 0 for
# "all there is".
#
# Fragments could hide a router advertisement from these rules (RFC 7113). Its source
# has to be link-local, and nothing else from there is long enough for fragments, which
# have no meaning in neighbour discovery (RFC 6980): all of them are dropped. A DHCP
# server's answer may come from any address. So the first fragment of anything has to
# say what it is a fragment of (RFC 7112), without further extension headers.
_BRIDGE = """
table bridge tapster {
    map ports { type iface_index : verdict; size 8192; }
    map first { type ifname : ether_addr; size 4096; flags dynamic; }
    set macs { typeof iif . @nh,64,48; }
    set guests { typeof iif . ip saddr; }
    set guests6 { typeof iif . @nh,64,128; }
    set limited4 { typeof iif . ip saddr; }
    set limited6 { typeof iif . @nh,64,128; }
    set claimed6 { typeof @nh,64,128; }
    set checked4 { type iface_index; size 8192; }
    set checked6 { type iface_index; size 8192; }
    set learners { typeof @th,288,48; }
    map egress_limits { type ifname : limit; }

    chain own_arp {
        arp htype != 1 drop
        arp ptype != ip drop
        arp hlen != 6 drop
        arp plen != 4 drop
        iif . @nh,64,48 != @macs drop
        iif . arp saddr ip @guests accept
        iif . arp saddr ip @limited4 accept
        arp saddr ip 0.0.0.0 iif . arp daddr ip @guests accept
        arp saddr ip 0.0.0.0 iif . arp daddr ip @limited4 accept
        drop
    }
    chain own_ipv4 {
        iif . ip saddr @guests accept
        iif . ip saddr @limited4 accept
        ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept
        drop
    }
    chain own_target {
        iif . @th,64,128 @guests6 return
        iif . @th,64,128 @limited6 return
        @th,64,128 @claimed6 drop
        @th,64,128 0xfe800000000000000000000000000001 drop
        @th,64,10 0x3fa return
        drop
    }
    chain own_ipv6 {
        iif . @nh,64,128 @guests6 accept
        iif . @nh,64,128 @limited6 accept
        ip6 saddr :: icmpv6 type { nd-neighbor-solicit, nd-router-solicit, mld-listener-report, mld-listener-done, mld2-listener-report } accept
        @nh,64,128 @claimed6 drop
        ip6 saddr fe80::1 drop
        ip6 saddr fe80::/10 accept
        drop
    }

    chain udp4 {
        udp sport 67 drop
        udp dport != 67 return
        ip frag-off & 0x3fff != 0 drop
        iif . @th,288,48 != @macs drop
    }
    chain icmp6 {
        icmpv6 type { nd-router-advert, nd-redirect } drop
        icmpv6 type != nd-neighbor-advert return
        ip6 nexthdr . ip6 length != { 58 . 24, 58 . 32 } drop
        ip6 length > 24 iif . @th,208,48 != @macs drop
    }
    chain icmp6_own {
        jump icmp6
        icmpv6 type nd-neighbor-advert jump own_target
        ip6 saddr :: icmpv6 type nd-neighbor-solicit jump own_target
    }
    chain others6 {
        udp sport 547 drop
        ip6 nexthdr { 0, 43, 44, 51, 60 } ip6 saddr fe80::/10 exthdr frag exists drop
        ip6 nexthdr { 0, 43, 44, 51, 60 } frag nexthdr { 0, 43, 44, 60 } drop
    }

    chain nat4 {
        ip protocol 17 jump udp4
        goto own_ipv4
    }
    chain nat6 {
        ip6 nexthdr 6 goto own_ipv6
        meta l4proto 58 jump icmp6_own
        jump others6
        goto own_ipv6
    }
    chain nat {
        ether type ip goto nat4
        ether type ip6 goto nat6
        ether type arp goto own_arp
        drop
    }

    chain lan_arp {
        iif @checked4 goto own_arp
        iif . @nh,64,48 != @macs drop
        accept
    }
    chain lan4 {
        ip protocol 17 jump udp4
        iif @checked4 goto own_ipv4
        accept
    }
    chain lan6 {
        ip6 nexthdr 6 iif != @checked6 accept
        meta l4proto 58 jump icmp6
        jump others6
        iif != @checked6 accept
        meta l4proto 58 jump icmp6_own
        goto own_ipv6
    }
    chain lan {
        ether type ip goto lan4
        ether type ip6 goto lan6
        ether type arp goto lan_arp
        drop
    }

    chain nat_limited {
        limit name iifname map @egress_limits drop
        goto nat
    }
    chain lan_limited {
        limit name iifname map @egress_limits drop
        goto lan
    }
    chain trusted_limited {
        limit name iifname map @egress_limits drop
        accept
    }
    chain waiting {
        add @first { iifname : ether saddr }
        accept
    }

    chain of_server {
    }
    chain of_others {
        udp sport { 67, 547 } jump of_server
        accept
    }
    chain prerouting {
        type filter hook prerouting priority -200; policy accept;
        iifname != "tapster*" goto of_others
        ether type ip ip protocol 6 iif . ip saddr @guests accept
        ether type ip6 ip6 nexthdr 6 iif . @nh,64,128 @guests6 accept
        iif vmap @ports
        drop
    }
}
"""

# Where guests with egress "internet" do not get: addresses that are not on the Internet
# (RFC 6890). The host's own networks are in the sets hosts4 and hosts6.
_CLOSED4 = (
    "0.0.0.0/8, 10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 169.254.0.0/16,"
    " 172.16.0.0/12, 192.0.0.0/24, 192.168.0.0/16, 198.18.0.0/15, 224.0.0.0/3"
)
_CLOSED6 = "::/96, ::ffff:0:0/96, 64:ff9b:1::/48, fc00::/7, fe80::/10, ff00::/8"

# Guests of one network never reach those of another. Nothing outside reaches a guest
# unasked, except on a forwarded port. Of the host, a guest reaches DHCP, DNS, neighbour
# discovery, ping of its gateway, and what `host_access` names there.
#
# Masquerade takes source ports from 1024 up: with one below, a guest would pass for a
# privileged process of the host (NFS "secure", NIS). Where bridge-nf-call-iptables is
# on, as it is by default, frames between guests of one network come through `forward`,
# too, in and out of the same bridge. The host's own programs reach a forwarded port as
# others do, at 127.0.0.1 as well: such a packet leaves with the gateway's address.
_INET = f"""
table inet tapster {{
    set bridges {{ type ifname; }}
    set within {{ type ifname . ifname; }}
    set internet {{ type ifname; }}
    set nat4 {{ type ipv4_addr; flags interval; }}
    set nat6 {{ type ipv6_addr; flags interval; }}
    set hosts4 {{ type ipv4_addr; flags interval; auto-merge; }}
    set hosts6 {{ type ipv6_addr; flags interval; auto-merge; }}
    set gateways4 {{ type ifname . ipv4_addr; }}
    set gateways6 {{ type ifname . ipv6_addr; }}
    set host_access {{ type ifname . inet_proto . inet_service; flags interval; }}
    map forwards4 {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
    map forwards6 {{ type inet_proto . inet_service : ipv6_addr . inet_service; }}

    chain from_guest {{
        ct state established,related accept
        ip daddr 255.255.255.255 udp dport 67 accept
        iifname . ip daddr @gateways4 udp dport 67 accept
        meta l4proto 17 udp dport 547 ip6 daddr {{ ff02::1:2, fe80::1 }} accept
        icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit }} accept
        iifname . ip daddr @gateways4 meta l4proto {{ 6, 17 }} th dport 53 accept
        iifname . ip6 daddr @gateways6 meta l4proto {{ 6, 17 }} th dport 53 accept
        iifname . ip daddr @gateways4 icmp type echo-request accept
        iifname . ip6 daddr @gateways6 icmpv6 type echo-request accept
        iifname . ip daddr @gateways4 iifname . meta l4proto . th dport @host_access accept
        iifname . ip6 daddr @gateways6 iifname . meta l4proto . th dport @host_access accept
        drop
    }}
    chain input {{
        type filter hook input priority filter; policy accept;
        iifname "{BRIDGE_PREFIX}*" goto from_guest
    }}
    chain closed {{
        ip daddr {{ {_CLOSED4} }} drop
        ip6 daddr {{ {_CLOSED6} }} drop
        ip daddr @hosts4 drop
        ip6 daddr @hosts6 drop
    }}
    chain between_guests {{
        iifname . oifname @within accept
        drop
    }}
    chain from_bridge {{
        oifname "{BRIDGE_PREFIX}*" goto between_guests
        ct direction reply ct status dnat accept
        iifname @internet jump closed
        ip saddr @nat4 accept
        ip6 saddr @nat6 accept
        drop
    }}
    chain to_bridge {{
        ct state established,related accept
        ct status dnat accept
        drop
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        iifname "{BRIDGE_PREFIX}*" goto from_bridge
        oifname "{BRIDGE_PREFIX}*" goto to_bridge
    }}
    chain to_guest {{
        dnat ip to meta l4proto . th dport map @forwards4
        dnat ip6 to meta l4proto . th dport map @forwards6
    }}
    chain prerouting {{
        type nat hook prerouting priority dstnat; policy accept;
        iifname != @bridges fib daddr type local meta l4proto {{ 6, 17 }} jump to_guest
    }}
    chain output {{
        type nat hook output priority -100; policy accept;
        fib daddr type local meta l4proto {{ 6, 17 }} jump to_guest
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr 127.0.0.0/8 oifname @bridges masquerade
        ip saddr @nat4 oifname != @bridges meta l4proto {{ 6, 17 }} masquerade to :1024-65535
        ip saddr @nat4 oifname != @bridges masquerade
        ip6 saddr @nat6 oifname != @bridges meta l4proto {{ 6, 17 }} masquerade to :1024-65535
        ip6 saddr @nat6 oifname != @bridges masquerade
    }}
}}
"""


def chain_of(kind: str, *, waiting: bool, limited: bool) -> str | None:
    """The chain that a port's frames go to; None: they are accepted.

    :param kind: LAN, NAT or TRUSTED.
    :param waiting: whether the port waits for its guest's first MAC.
    :param limited: whether what its guest sends is held to a rate.
    """
    if waiting:
        return "waiting"
    if limited:
        return f"{_CHAINS[kind]}_limited"
    return None if kind == TRUSTED else _CHAINS[kind]


def tables(more_of_bridge: str = "", *, routing: bool = True) -> str:
    """The statements that make the tables anew, without elements.

    :param more_of_bridge: a statement that adds to the bridge table.
    :param routing: whether there are networks that the host routes for. Without any
        there is no inet table: where there is one, the kernel tracks the connections
        of all programs of the host.
    """
    text = no_tables() + _BRIDGE + more_of_bridge
    return text + _INET if routing else text


def routing() -> str:
    """The statement that makes the inet table, for the first network that needs it."""
    return _INET


def no_routing() -> str:
    """The statements that delete the inet table, whether it is there or not."""
    return f"add table {INET_TABLE}\ndelete table {INET_TABLE}\n"


def no_tables() -> str:
    """The statements that delete both tables, whether they are there or not."""
    return "".join(
        f"add table {table}\ndelete table {table}\n"
        for table in (BRIDGE_TABLE, INET_TABLE)
    )


def host_networks(networks: Iterable[IPv4Network | IPv6Network]) -> str:
    """The statements that keep guests with egress "internet" from these networks, in
    place of those before."""
    text = f"flush set {INET_TABLE} hosts4\nflush set {INET_TABLE} hosts6\n"
    for net in sorted(set(networks), key=str):
        text += f"add element {INET_TABLE} hosts{net.version} {{ {net} }}\n"
    return text
