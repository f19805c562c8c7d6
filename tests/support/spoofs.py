# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a guest may send and what not: the promise, frame by frame.

A case says when its frame passes; what a network knows of its guest's addresses
is the scene's. Here are Ethernet, ARP and IPv4; spoofs6.py has IPv6.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address
from typing import NamedTuple

from support import frames
from support.frames import ARP, BROADCAST, IPV4, QINQ, VLAN, Wire, ethernet

STRANGER = "02:5a:00:00:00:99"
OUTSIDE = "198.51.100.7"  # RFC 5737
UNSPECIFIED = "0.0.0.0"
LLDP_GROUP, STP_GROUP = "01:80:c2:00:00:0e", "01:80:c2:00:00:00"
EAPOL_GROUP, PAUSE_GROUP = "01:80:c2:00:00:03", "01:80:c2:00:00:01"


class Party(NamedTuple):
    """A station and its addresses; `local` is the link-local one of its MAC."""

    mac: str
    ipv4: str
    ipv6: str
    local: str


@dataclass(frozen=True)
class Scene:
    """Who sends what to whom, and how the sender's port is checked.

    `held4`: the guest is held to its IPv4 address; `owns4`: it has one. Without
    one, that of `me` is any. The same for IPv6.
    """

    me: Party
    other: Party  # another guest of the network
    gateway: Party
    to: str  # the MAC at the far side
    sender: Wire
    receiver: Wire
    held4: bool = True
    owns4: bool = True
    held6: bool = True
    owns6: bool = True
    trusted: bool = False

    @property
    def known_good(self) -> bytes:
        """Passes everywhere: is my own link-local address free?"""
        from support.spoofs6 import solicit

        return solicit(self, self.me.local)

    def passes(self, frame: bytes) -> bool:
        return frames.arrives(frame, self.sender, self.receiver, self.known_good)


class Passes(Enum):
    """When a frame gets through."""

    ALWAYS = "allowed"
    NEVER = "dropped"
    OF_OWN_IPV4 = "allowed, with an own IPv4 address"
    OF_OWN_IPV6 = "allowed, with an own IPv6 address"
    UNHELD_IPV4 = "dropped, unless IPv4 is not checked"
    UNHELD_IPV6 = "dropped, unless IPv6 is not checked"


class Case(NamedTuple):
    """One frame. `bridged`: a Linux bridge without any rules forwards it."""

    name: str
    when: Passes
    frame: Callable[[Scene], bytes]
    bridged: bool = True

    def passes(self, scene: Scene) -> bool:
        if scene.trusted:
            return self.bridged
        return {
            Passes.ALWAYS: True,
            Passes.NEVER: False,
            Passes.OF_OWN_IPV4: scene.owns4 or not scene.held4,
            Passes.OF_OWN_IPV6: scene.owns6 or not scene.held6,
            Passes.UNHELD_IPV4: not scene.held4,
            Passes.UNHELD_IPV6: not scene.held6,
        }[self.when]


def always(name: str, frame: Callable[[Scene], bytes]) -> Case:
    return Case(name, Passes.ALWAYS, frame)


def never(name: str, frame: Callable[[Scene], bytes], *, bridged: bool = True) -> Case:
    return Case(name, Passes.NEVER, frame, bridged)


def own4(name: str, frame: Callable[[Scene], bytes]) -> Case:
    return Case(name, Passes.OF_OWN_IPV4, frame)


def others4(name: str, frame: Callable[[Scene], bytes]) -> Case:
    return Case(name, Passes.UNHELD_IPV4, frame)


def request(s: Scene, source: str = "") -> bytes:
    """An ARP request as the guest's own system sends it, but for the MAC."""
    return frames.arp(source or s.me.mac, s.me.mac, s.me.ipv4, s.gateway.ipv4)


def says(s: Scene, mac: str, ip: str, target: str = "", **more: object) -> bytes:
    """An ARP message in the guest's own frame."""
    return frames.arp(s.me.mac, mac, ip, target or ip, **more)  # type: ignore[arg-type]


def packet4(s: Scene, src: str, dst: str = "", *, protocol: int = 17,
            payload: bytes | None = None, source: str = "", to: str = "",
            fragment: int = 0, options: bytes = b"") -> bytes:  # fmt: skip
    """An IPv4 packet to the far side: UDP, between ports that mean nothing."""
    if payload is None:
        payload = frames.udp(5000, 5000, frames.HERE)
    packet = frames.ipv4(src, dst or OUTSIDE, protocol, payload, fragment=fragment,
                         options=options)  # fmt: skip
    return ethernet(source or s.me.mac, to or s.to, IPV4, packet)


def dhcp(s: Scene, chaddr: str, src: str = UNSPECIFIED, dst: str = "255.255.255.255",
         *, ports: tuple[int, int] = (68, 67), **more: object) -> bytes:  # fmt: skip
    payload = frames.udp(*ports, frames.dhcp(chaddr))
    to = BROADCAST if dst == "255.255.255.255" else s.to
    return packet4(s, src, dst, payload=payload, to=to, **more)  # type: ignore[arg-type]


def kind(s: Scene, number: int, dst: str = "", payload: bytes = b"") -> bytes:
    """A frame of another ethertype, or, below 0x600, of IEEE 802.3."""
    return ethernet(s.me.mac, dst or s.to, number, payload)


def redirect4(s: Scene, src: str) -> bytes:
    """ICMP redirect: to OUTSIDE, by way of me."""
    about = frames.ipv4(s.other.ipv4, OUTSIDE, 17, bytes(8))
    body = struct.pack("!BBH", 5, 1, 0) + IPv4Address(s.me.ipv4).packed + about
    return packet4(s, src, s.other.ipv4, protocol=1, payload=body)


def nobody(s: Scene) -> str:
    """An address of the subnet that none of them has."""
    taken = {s.me.ipv4, s.other.ipv4}
    start = IPv4Address(s.gateway.ipv4)
    return next(str(start + n) for n in range(1, 9) if str(start + n) not in taken)


MORE, SECOND = 0x2000, 0x0001  # IPv4: more fragments follow; 8 bytes from the start
NOP_OPTIONS = b"\1\1\1\0"
SNAP = b"\xaa\xaa\x03\0\0\0"
BPDU = b"\x42\x42\x03" + bytes(35)

LINK = (
    own4("own source MAC", request),
    never("source MAC of another guest", lambda s: request(s, s.other.mac)),
    never("source MAC of the gateway", lambda s: request(s, s.gateway.mac)),
    never("source MAC of nobody", lambda s: request(s, STRANGER)),
    never("source MAC of another guest, IPv4",
          lambda s: packet4(s, s.me.ipv4, source=s.other.mac, to=BROADCAST)),
    never("source MAC that is a group",
          lambda s: request(s, "03:5a:00:00:00:99"), bridged=False),
    never("source MAC of zeros", lambda s: request(s, "00:00:00:00:00:00"),
          bridged=False),
    *(
        never(f"802.1Q, VLAN {vlan & 0xFFF}, priority {vlan >> 13}",
              lambda s, vlan=vlan: frames.tagged(request(s), vlan))
        for vlan in (0, 0xE000, 1, 7, 4094)
    ),
    never("802.1Q, IPv4", lambda s: frames.tagged(packet4(s, s.me.ipv4), 0)),
    *(
        never(f"802.1ad, VLAN {vlan}",
              lambda s, vlan=vlan: frames.tagged(request(s), vlan, QINQ))
        for vlan in (0, 7)
    ),
    never("Q-in-Q", lambda s: frames.tagged(frames.tagged(request(s), 7), 9, QINQ)),
    never("Q-in-Q with 802.1Q twice",
          lambda s: frames.tagged(frames.tagged(request(s), 0), 0)),
    never("Q-in-Q with ethertype 0x9100",
          lambda s: frames.tagged(request(s), 7, 0x9100)),
    *(
        never(f"ethertype {number:#06x}, {what}",
              lambda s, number=number: kind(s, number))
        for number, what in (
            (0x8035, "RARP"), (0x88CC, "LLDP"), (0x888E, "EAPOL"), (0x8847, "MPLS"),
            (0x8863, "PPPoE"), (0x88E5, "MACsec"), (0x0842, "wake on LAN"),
            (0x88B5, "local experiments"), (0x88F7, "PTP"), (0xFFFF, "none"),
        )
    ),
    never("RARP, broadcast",
          lambda s: ethernet(s.me.mac, BROADCAST, 0x8035, request(s)[14:])),
    never("LLDP to its group", lambda s: kind(s, 0x88CC, LLDP_GROUP)),
    never("EAPOL to its group", lambda s: kind(s, 0x888E, EAPOL_GROUP)),
    never("pause frame", lambda s: kind(s, 0x8808, PAUSE_GROUP), bridged=False),
    never("spanning tree", lambda s: kind(s, len(BPDU), STP_GROUP, BPDU)),
    never("spanning tree of Cisco", lambda s: kind(
        s, 46, "01:00:0c:cc:cc:cd", b"\xaa\xaa\x03\0\0\x0c\x01\x0b" + bytes(38))),
    never("802.3 with LLC", lambda s: kind(s, 46, "", b"\xe0\xe0\x03")),
    never("802.3 with IPv4 by SNAP", lambda s: kind(
        s, 60, "", SNAP + b"\x08\x00" + packet4(s, s.me.ipv4)[14:])),
    never("802.3 with ARP by SNAP", lambda s: kind(
        s, 46, BROADCAST, SNAP + b"\x08\x06" + request(s)[14:])),
    never("802.3 of length 0", lambda s: kind(s, 0)),
)  # fmt: skip

ARPS = (
    own4("request", request),
    own4("answer", lambda s: says(s, s.me.mac, s.me.ipv4, s.gateway.ipv4,
                                  dst=s.to, operation=2)),
    *(
        case
        for operation, what in ((1, "request"), (2, "answer"))
        for case in (
            own4(f"gratuitous {what}, own address", lambda s, n=operation: says(
                s, s.me.mac, s.me.ipv4, operation=n)),
            others4(f"gratuitous {what}, another guest's", lambda s, n=operation: says(
                s, s.me.mac, s.other.ipv4, operation=n)),
            others4(f"gratuitous {what}, the gateway's", lambda s, n=operation: says(
                s, s.me.mac, s.gateway.ipv4, operation=n)),
            never(f"{what} with sender MAC of another guest", lambda s, n=operation:
                  says(s, s.other.mac, s.me.ipv4, operation=n)),
            never(f"{what} with sender MAC of the gateway", lambda s, n=operation:
                  says(s, s.gateway.mac, s.me.ipv4, operation=n)),
            never(f"{what} in another's name", lambda s, n=operation: says(
                s, s.other.mac, s.other.ipv4, s.gateway.ipv4, operation=n)),
            others4(f"{what} with another's address", lambda s, n=operation: says(
                s, s.me.mac, s.other.ipv4, s.gateway.ipv4, dst=s.to, operation=n)),
            others4(f"{what} with an address of outside", lambda s, n=operation: says(
                s, s.me.mac, OUTSIDE, s.gateway.ipv4, operation=n)),
        )
    ),
    never("sender MAC of zeros",
          lambda s: says(s, "00:00:00:00:00:00", s.me.ipv4, s.gateway.ipv4)),
    own4("probe for the own address",
         lambda s: says(s, s.me.mac, UNSPECIFIED, s.me.ipv4)),
    others4("probe for another guest's",
            lambda s: says(s, s.me.mac, UNSPECIFIED, s.other.ipv4)),
    others4("probe for the gateway's",
            lambda s: says(s, s.me.mac, UNSPECIFIED, s.gateway.ipv4)),
    never("probe for the own address by another's MAC",
          lambda s: says(s, s.other.mac, UNSPECIFIED, s.me.ipv4)),
    *(
        others4(f"own address, {what}", lambda s, kinds=kinds: says(
            s, s.me.mac, s.me.ipv4, s.gateway.ipv4, kinds=kinds))
        for what, kinds in (
            ("htype of IEEE 802", (6, IPV4, 6, 4)), ("ptype of ARP", (1, ARP, 6, 4)),
            ("ptype of 802.1Q", (1, VLAN, 6, 4)), ("hlen 0", (1, IPV4, 0, 4)),
            ("hlen 8", (1, IPV4, 8, 4)), ("plen 0", (1, IPV4, 6, 0)),
            ("plen 16", (1, IPV4, 6, 16)),
        )
    ),
)  # fmt: skip

IPV4S = (
    own4("own source", lambda s: packet4(s, s.me.ipv4)),
    own4("own source, broadcast",
         lambda s: packet4(s, s.me.ipv4, "255.255.255.255", to=BROADCAST)),
    own4("own source, multicast",
         lambda s: packet4(s, s.me.ipv4, "224.0.0.251", to="01:00:5e:00:00:fb")),
    own4("own source, with options",
         lambda s: packet4(s, s.me.ipv4, options=NOP_OPTIONS)),
    own4("own source, fragment", lambda s: packet4(s, s.me.ipv4, fragment=MORE)),
    own4("own source, later fragment",
         lambda s: packet4(s, s.me.ipv4, fragment=SECOND)),
    *(
        others4(f"source of {what}", lambda s, source=source: packet4(s, source(s)))
        for what, source in (
            ("another guest", lambda s: s.other.ipv4),
            ("the gateway", lambda s: s.gateway.ipv4), ("outside", lambda _: OUTSIDE),
            ("nobody in the subnet", nobody),
            ("the subnet's broadcast",
             lambda s: str(IPv4Address(s.gateway.ipv4) + 254)),
            ("loopback", lambda _: "127.0.0.1"), ("all", lambda _: "255.255.255.255"),
            ("a group", lambda _: "224.0.0.1"),
            ("0.0.0.0, unicast", lambda _: UNSPECIFIED),
        )
    ),
    others4("source of another guest, with options",
            lambda s: packet4(s, s.other.ipv4, options=NOP_OPTIONS)),
    others4("source of another guest, fragment",
            lambda s: packet4(s, s.other.ipv4, fragment=MORE)),
    others4("source of another guest, later fragment",
            lambda s: packet4(s, s.other.ipv4, fragment=SECOND)),
    others4("0.0.0.0 to broadcast, not DHCP", lambda s: packet4(
        s, UNSPECIFIED, "255.255.255.255", to=BROADCAST)),
    others4("0.0.0.0 to broadcast, DHCP from another port",
            lambda s: dhcp(s, s.me.mac, ports=(5000, 67))),
    others4("0.0.0.0 to broadcast, IGMP", lambda s: packet4(
        s, UNSPECIFIED, "255.255.255.255", protocol=2, payload=bytes(8),
        to=BROADCAST)),
    own4("ICMP redirect, own source", lambda s: redirect4(s, s.me.ipv4)),
    others4("ICMP redirect of the gateway", lambda s: redirect4(s, s.gateway.ipv4)),
)  # fmt: skip

DHCPS = (
    always("DISCOVER", lambda s: dhcp(s, s.me.mac)),
    own4("renewal", lambda s: dhcp(s, s.me.mac, s.me.ipv4, s.gateway.ipv4)),
    others4("renewal from another guest's address",
            lambda s: dhcp(s, s.me.mac, s.other.ipv4, s.gateway.ipv4)),
    never("DISCOVER with another guest's chaddr", lambda s: dhcp(s, s.other.mac)),
    never("DISCOVER with a chaddr of nobody", lambda s: dhcp(s, STRANGER)),
    never("renewal with another guest's chaddr",
          lambda s: dhcp(s, s.other.mac, s.me.ipv4, s.gateway.ipv4)),
    never("renewal with another guest's chaddr and IP options", lambda s: dhcp(
        s, s.other.mac, s.me.ipv4, s.gateway.ipv4, options=NOP_OPTIONS)),
    *(
        never(f"DISCOVER of {what} in fragments, the first",
              lambda s, who=who: dhcp(s, who(s).mac, fragment=MORE))
        for what, who in (("another", lambda s: s.other), ("own", lambda s: s.me))
    ),
    others4("DISCOVER in fragments, the second", lambda s: packet4(
        s, UNSPECIFIED, "255.255.255.255", to=BROADCAST, fragment=SECOND,
        payload=frames.dhcp(s.other.mac))),
    *(
        never(f"server's answer, {what}", lambda s, more=more: dhcp(
            s, s.other.mac, s.me.ipv4, **more))
        for what, more in (
            ("broadcast", {"ports": (67, 68)}),
            ("to a port of no client", {"ports": (67, 5000)}),
            ("as of a relay", {"ports": (67, 67)}),
            ("first fragment", {"ports": (67, 68), "fragment": MORE}),
            ("with IP options", {"ports": (67, 68), "options": NOP_OPTIONS}),
        )
    ),
    never("server's answer, unicast",
          lambda s: dhcp(s, s.other.mac, s.me.ipv4, s.other.ipv4, ports=(67, 68))),
    never("server's answer in the gateway's name",
          lambda s: dhcp(s, s.other.mac, s.gateway.ipv4, ports=(67, 68))),
)  # fmt: skip
