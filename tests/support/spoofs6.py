# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a guest may send of IPv6 and what not; see spoofs.py."""

from __future__ import annotations

import struct
from collections.abc import Callable
from ipaddress import IPv6Address

from support import frames
from support.frames import IPV6, ethernet
from support.spoofs import Case, Passes, Scene, always, never

UNSPECIFIED = "::"
PRIVATE = "fe80::5a:1234:abcd:77"  # RFC 7217: no MAC is in it
OUTSIDE = "2001:db8:9::9"
ROUTER = "fe80::1"
ALL_NODES, ALL_ROUTERS, ALL_MLD = "ff02::1", "ff02::2", "ff02::16"
DHCP_SERVERS = "ff02::1:2"
HOP_BY_HOP, ROUTING, FRAGMENT, OPTIONS, NOTHING = 0, 43, 44, 60, 59
UDP, ICMP = 17, 58
ECHO, MLD_DONE, MLD2_REPORT = 128, 132, 143
SOLICIT_ROUTER, ADVERTISE_ROUTER, SOLICIT, ADVERTISE, REDIRECT = range(133, 138)


def own6(name: str, frame: Callable[[Scene], bytes]) -> Case:
    return Case(name, Passes.OF_OWN_IPV6, frame)


def others6(name: str, frame: Callable[[Scene], bytes]) -> Case:
    return Case(name, Passes.UNHELD_IPV6, frame)


Header = tuple[int, bytes]  # what kind it is, and all but its first byte


def padding(kind: int, length: int = 8) -> Header:
    """Hop-by-hop or destination options that say nothing."""
    return kind, struct.pack("!BBB", length // 8 - 1, 1, length - 4).ljust(
        length - 1, b"\0"
    )


def fragment(offset: int = 0, more: bool = False) -> Header:
    return FRAGMENT, struct.pack("!BHI", 0, offset | more, 0x1234)


ALERT: Header = HOP_BY_HOP, bytes((0, 5, 2, 0, 0, 1, 0))  # MLD, RFC 2711
ROUTE: Header = ROUTING, bytes((0, 253, 0, 0, 0, 0, 0))  # no segments left


def packet6(s: Scene, src: str, dst: str, inner: int, payload: bytes,
            *headers: Header, to: str = "") -> bytes:  # fmt: skip
    """An IPv6 packet with extension headers before what is in it."""
    kinds = [number for number, _ in headers] + [inner]
    chain = b"".join(
        bytes((after,)) + rest
        for after, (_, rest) in zip(kinds[1:], headers, strict=True)
    )
    packet = frames.ipv6(src, dst, kinds[0], chain + payload)
    if not to:
        group = IPv6Address(dst)
        to = "33:33:" + group.packed[12:].hex(":") if group.is_multicast else s.to
    return ethernet(s.me.mac, to, IPV6, packet)


def icmp6(s: Scene, src: str, dst: str, kind: int, rest: bytes,
          *headers: Header) -> bytes:  # fmt: skip
    message = frames.icmpv6(src, dst, kind, rest)[40:]
    return packet6(s, src, dst, ICMP, message, *headers)


def echo(s: Scene, src: str, dst: str = ALL_NODES, *headers: Header) -> bytes:
    return icmp6(s, src, dst, ECHO, bytes(4) + frames.HERE, *headers)


def solicited(target: str) -> str:
    return f"ff02::1:ff{IPv6Address(target).packed[13:14].hex()}:" + (
        IPv6Address(target).packed[14:].hex()
    )


def solicit(s: Scene, target: str, src: str = UNSPECIFIED) -> bytes:
    """Neighbour solicitation: who has it? From `::`: does anyone?"""
    rest = bytes(4) + IPv6Address(target).packed
    if src != UNSPECIFIED:
        rest += b"\1\1" + frames.mac(s.me.mac)
    return icmp6(s, src, solicited(target), SOLICIT, rest)


def advert(s: Scene, target: str, *macs: str, src: str = "", headers:
           tuple[Header, ...] = (), option: int = 2) -> bytes:  # fmt: skip
    """Neighbour advertisement: it is at that MAC. For everybody, overriding."""
    rest = b"\x20\0\0\0" + IPv6Address(target).packed
    for mac in macs:
        rest += bytes((option, 1)) + frames.mac(mac)
    return icmp6(s, src or s.me.local, ALL_NODES, ADVERTISE, rest, *headers)


def router(s: Scene, src: str, *headers: Header) -> bytes:
    """A router advertisement for everybody."""
    rest = frames.router_advertisement(src)[44:]
    return icmp6(s, src, ALL_NODES, ADVERTISE_ROUTER, rest, *headers)


def hidden(s: Scene, src: str, dst: str, inner: int, second: bool) -> bytes:
    """What is in ICMPv6 or UDP comes in the second fragment; before it there are
    only destination options (RFC 7113, 2)."""
    if not second:
        after = bytes((inner,)) + padding(OPTIONS)[1]
        return packet6(s, src, dst, OPTIONS, after, fragment(more=True))
    return packet6(s, src, dst, OPTIONS, WHAT[inner], fragment(8))


WHAT = {
    ICMP: frames.router_advertisement()[40:],
    UDP: frames.udp(547, 546, frames.HERE),
}


def redirect(s: Scene, src: str, *headers: Header) -> bytes:
    targets = IPv6Address(s.me.local).packed + IPv6Address(OUTSIDE).packed
    return icmp6(s, src, s.other.local, REDIRECT, bytes(4) + targets, *headers)


def datagram(s: Scene, src: str, dst: str, ports: tuple[int, int],
             *headers: Header) -> bytes:  # fmt: skip
    return packet6(s, src, dst, UDP, frames.udp(*ports, frames.HERE), *headers)


def listens(s: Scene, src: str) -> bytes:
    """MLDv2 report, as every IPv6 stack sends it."""
    record = bytes((4, 0, 0, 0)) + IPv6Address(solicited(s.me.local)).packed
    return icmp6(s, src, ALL_MLD, MLD2_REPORT, b"\0\0\0\1" + record, ALERT)


SOURCES = (
    own6("source: assigned", lambda s: echo(s, s.me.ipv6)),
    own6("source: assigned, unicast", lambda s: echo(s, s.me.ipv6, s.other.ipv6)),
    own6("source: assigned, behind hop-by-hop options",
         lambda s: echo(s, s.me.ipv6, ALL_NODES, padding(HOP_BY_HOP))),
    own6("source: assigned, first fragment",
         lambda s: echo(s, s.me.ipv6, OUTSIDE, fragment(more=True))),
    own6("source: assigned, later fragment",
         lambda s: echo(s, s.me.ipv6, OUTSIDE, fragment(8))),
    own6("source: assigned, UDP in fragments",
         lambda s: datagram(s, s.me.ipv6, OUTSIDE, (5000, 5000), fragment(more=True))),
    always("source: link-local of the MAC", lambda s: echo(s, s.me.local)),
    always("source: another link-local, for privacy", lambda s: echo(s, PRIVATE)),
    *(
        others6(f"source: {what}", lambda s, source=source: echo(s, source(s)))
        for what, source in (
            ("link-local of another guest", lambda s: s.other.local),
            ("link-local of the gateway", lambda _: ROUTER),
            ("another guest's", lambda s: s.other.ipv6),
            ("the gateway's", lambda s: s.gateway.ipv6),
            ("nobody's in the prefix",
             lambda s: str(IPv6Address(s.gateway.ipv6) + 0x5A0000)),
            ("of outside", lambda _: OUTSIDE), ("loopback", lambda _: "::1"),
            ("mapped IPv4", lambda s: f"::ffff:{s.me.ipv4}"),
            ("a group", lambda _: ALL_NODES), (":: for echo", lambda _: UNSPECIFIED),
        )
    ),
    others6("source: another guest's, behind hop-by-hop options",
            lambda s: echo(s, s.other.ipv6, ALL_NODES, padding(HOP_BY_HOP))),
    others6("source: another guest's, later fragment",
            lambda s: echo(s, s.other.ipv6, OUTSIDE, fragment(8))),
    others6("source: ::, UDP",
            lambda s: datagram(s, UNSPECIFIED, ALL_NODES, (5000, 5000))),
    always("router solicitation from ::", lambda s: icmp6(
        s, UNSPECIFIED, ALL_ROUTERS, SOLICIT_ROUTER, bytes(4))),
    always("MLD report from ::", lambda s: listens(s, UNSPECIFIED)),
    always("MLD report from the link-local address", lambda s: listens(s, s.me.local)),
    others6("MLD report from another's", lambda s: listens(s, s.other.local)),
    always("MLD done", lambda s: icmp6(
        s, s.me.local, ALL_ROUTERS, MLD_DONE, bytes(4) + frames.HERE)),
)  # fmt: skip

# Whose an address is, by its owner.
OWNED = (
    (own6, "the assigned one", lambda s: s.me.ipv6),
    (always, "link-local of the MAC", lambda s: s.me.local),
    (always, "another link-local", lambda _: PRIVATE),
    (others6, "another guest's", lambda s: s.other.ipv6),
    (others6, "another guest's link-local", lambda s: s.other.local),
    (others6, "the gateway's", lambda s: s.gateway.ipv6),
    (others6, "the gateway's link-local", lambda _: ROUTER),
    (others6, "nobody's", lambda _: OUTSIDE),
)

NEIGHBOURS = (
    *(
        case
        for when, what, of in OWNED
        for case in (
            when(f"DAD for {what}", lambda s, of=of: solicit(s, of(s))),
            when(f"advert of {what}", lambda s, of=of: advert(s, of(s), s.me.mac)),
            when(f"advert of {what}, no MAC", lambda s, of=of: advert(s, of(s))),
            never(f"advert of {what}, behind hop-by-hop options",
                  lambda s, of=of: advert(s, of(s), headers=(padding(HOP_BY_HOP),))),
            never(f"advert of {what} in a fragment", lambda s, of=of: advert(
                s, of(s), headers=(fragment(),))),
            never(f"advert of {what} at another's MAC",
                  lambda s, of=of: advert(s, of(s), s.other.mac)),
        )
    ),
    *(
        always(f"solicitation of {what}, from the link-local address",
               lambda s, of=of: solicit(s, of(s), s.me.local))
        for _, what, of in OWNED
    ),
    own6("solicitation of another's, from the assigned address",
         lambda s: solicit(s, s.other.ipv6, s.me.ipv6)),
    others6("solicitation from another's address",
            lambda s: solicit(s, s.gateway.ipv6, s.other.ipv6)),
    others6("solicitation from another's link-local address",
            lambda s: solicit(s, s.gateway.ipv6, s.other.local)),
    own6("advert from the assigned address",
         lambda s: advert(s, s.me.ipv6, s.me.mac, src=s.me.ipv6)),
    never("advert from the assigned address, in a fragment",
          lambda s: advert(s, s.me.ipv6, src=s.me.ipv6, headers=(fragment(),))),
    never("advert at the gateway's MAC",
          lambda s: advert(s, s.me.local, s.gateway.mac)),
    never("advert at another's MAC by the other option",
          lambda s: advert(s, s.me.local, s.other.mac, option=1)),
    never("advert with two options",
          lambda s: advert(s, s.me.local, s.me.mac, s.other.mac)),
    never("advert with two options, both its own",
          lambda s: advert(s, s.me.local, s.me.mac, s.me.mac)),
    never("advert at another's MAC behind hop-by-hop options", lambda s: advert(
        s, s.me.local, s.other.mac, headers=(padding(HOP_BY_HOP),))),
    never("advert at another's MAC behind hop-by-hop options, of unsaid length",
          lambda s: unsaid(advert(s, s.me.local, s.other.mac,
                                  headers=(padding(HOP_BY_HOP),)))),
)  # fmt: skip


def unsaid(frame: bytes) -> bytes:
    """Payload length 0, as with a jumbogram (RFC 2675); Linux then takes all there
    is, if hop-by-hop options come first."""
    return frame[:18] + bytes(2) + frame[20:]


BEFORE: tuple[tuple[str, tuple[Header, ...]], ...] = (
    ("plain", ()),
    ("behind hop-by-hop options", (padding(HOP_BY_HOP),)),
    ("behind a router alert", (ALERT,)),
    ("behind destination options", (padding(OPTIONS),)),
    ("behind long destination options", (padding(OPTIONS, 256),)),
    ("behind a routing header", (ROUTE,)),
    ("behind all of these", (padding(HOP_BY_HOP), padding(OPTIONS), ROUTE)),
    ("in a fragment", (fragment(),)),
    ("in a first fragment", (fragment(more=True),)),
    ("in two fragment headers", (fragment(), fragment())),
    ("in a fragment, behind hop-by-hop options", (padding(HOP_BY_HOP), fragment())),
    ("in a fragment, with destination options", (fragment(), padding(OPTIONS))),
)

ROUTERS = (
    *(
        never(f"router advertisement, {what}",
              lambda s, headers=headers: router(s, s.me.local, *headers))
        for what, headers in BEFORE
    ),
    *(
        never(f"router advertisement from {what}",
              lambda s, source=source: router(s, source(s)))
        for what, source in (
            ("the gateway", lambda _: ROUTER),
            ("another link-local", lambda _: PRIVATE),
            ("the assigned address", lambda s: s.me.ipv6),
            ("::", lambda _: UNSPECIFIED),
        )
    ),
    *(
        never(f"redirect, {what}",
              lambda s, headers=headers: redirect(s, s.me.local, *headers))
        for what, headers in BEFORE
    ),
    never("redirect of the gateway", lambda s: redirect(s, ROUTER)),
    *(
        never(f"{what} in the second fragment, {part} one, from {whose}",
              lambda s, dst=dst, inner=inner, source=source, second=part != "first":
              hidden(s, source(s), dst(s), inner, second))
        for what, inner, dst in (
            ("router advertisement", ICMP, lambda _: ALL_NODES),
            ("DHCPv6 server", UDP, lambda s: s.other.local),
        )
        for part in ("first", "second")
        for whose, source in (
            ("link-local", lambda s: s.me.local), ("assigned", lambda s: s.me.ipv6)
        )
    ),
)  # fmt: skip

DHCPS6 = (
    always("DHCPv6 client",
           lambda s: datagram(s, s.me.local, DHCP_SERVERS, (546, 547))),
    others6("DHCPv6 client in another's name",
            lambda s: datagram(s, s.other.local, DHCP_SERVERS, (546, 547))),
    *(
        never(f"DHCPv6 server, {what}", lambda s, headers=headers: datagram(
            s, s.me.local, s.other.local, (547, 546), *headers))
        for what, headers in BEFORE
    ),
    never("DHCPv6 server from the assigned address",
          lambda s: datagram(s, s.me.ipv6, s.other.ipv6, (547, 546))),
    never("DHCPv6 server from the assigned address, in a fragment", lambda s: datagram(
        s, s.me.ipv6, s.other.ipv6, (547, 546), fragment(more=True))),
    never("DHCPv6 server from the gateway's address",
          lambda s: datagram(s, ROUTER, s.other.local, (547, 546))),
    never("DHCPv6 relay", lambda s: datagram(
        s, s.me.local, DHCP_SERVERS, (547, 547))),
)  # fmt: skip
