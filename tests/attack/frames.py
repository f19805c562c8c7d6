# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a guest may put on its segment, in nobody's name but its own.

The frames are those of support/spoofs.py, which tests/kernel/test_spoof.py sends
one by one on each kind of port. Here they are what somebody would do with them.
For each the control is that it gets to the victim from a guest whose rule says
`trusted = true`, on the same kind of network.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from contextlib import suppress

from attack import acts
from attack.registry import attack, control
from attack.site import LAN, Card, Site, arrives, drain
from support import frames, host, spoofs, spoofs6
from support.frames import BROADCAST, PLAIN
from support.spoofs import Case, Scene

CASES = {
    case.name: case
    for group in (
        spoofs.LINK, spoofs.ARPS, spoofs.IPV4S, spoofs.DHCPS, spoofs6.SOURCES,
        spoofs6.NEIGHBOURS, spoofs6.ROUTERS, spoofs6.DHCPS6,
    )
    for case in group
}  # fmt: skip


def pick(*words: str) -> list[Case]:
    """The cases whose names begin so."""
    found = [case for name, case in CASES.items() if name.startswith(words)]
    for word in words:
        if not any(case.name.startswith(word) for case in found):
            raise ValueError(f"no frame is called {word!r}")
    return found


def got_through(scene: Scene, cases: list[Case]) -> list[str]:
    return [case.name for case in cases if scene.passes(case.frame(scene))]


def spoof(site: Site, *words: str) -> str | None:
    """Send these to the victim, on each ground; nothing may arrive."""
    cases = [case for case in pick(*words) if case.bridged]
    for name in site.grounds:
        if site.name == "tapster":
            trusted = site.scene(name, trusted=True)
            passed = [case for case in cases if sent_trusted(trusted, case)]
            control(len(passed) == len(cases), f"{name}: {len(passed)} of {len(cases)}"
                    " frames get there from a trusted guest")  # fmt: skip
        scene = site.scene(name)
        passing = got_through(scene, cases)
        if passing:
            return (
                f"{name}: {len(passing)} of {len(cases)} kinds of frames got to the"
                f" victim: {passing[0]}"
            )
    return None


def sent_trusted(scene: Scene, case: Case) -> bool:
    """Whether the bridge carries it. A frame with another's source MAC makes the
    bridge learn that MAC here; the other says where it is before the next."""
    hello = frames.ethernet(scene.to, BROADCAST, PLAIN, b"")
    control(frames.arrives(hello, scene.receiver, scene.sender, hello), "the way back")
    return scene.passes(case.frame(scene))


def spoofing(name: str, would: str, *words: str) -> None:
    attack(name, would)(Spoof(words))  # type: ignore[arg-type]


class Spoof:
    """An attack that is a list of frames."""

    __module__ = __name__

    def __init__(self, words: tuple[str, ...]) -> None:
        self.words = words
        self.__name__ = words[0]

    def __call__(self, site: Site) -> str | None:
        return spoof(site, *self.words)


spoofing(
    "source MAC of another guest",
    "its traffic comes to the attacker",
    "source MAC of another guest",
)
spoofing(
    "source MAC of the gateway",
    "all traffic for the gateway comes to the attacker",
    "source MAC of the gateway",
)
spoofing(
    "ARP in another's name",
    "a neighbour's table says that the victim is the attacker",
    "request in another's name",
    "answer in another's name",
    "request with another's address",
    "answer with another's address",
    "probe for the own address by another's MAC",
)
spoofing(
    "ARP as the gateway",
    "the attacker is in the middle of all that leaves",
    "gratuitous request, the gateway's",
    "gratuitous answer, the gateway's",
    "request with sender MAC of the gateway",
    "answer with sender MAC of the gateway",
)
spoofing(
    "ARP that denies an address",
    "the victim gives its address up (RFC 5227)",
    "probe for another guest's",
    "probe for the gateway's",
    "gratuitous request, another guest's",
    "gratuitous answer, another guest's",
)
spoofing(
    "ARP of other kinds and lengths",
    "what checks ARP for Ethernet passes it, what receives it does not mind",
    "own address, ",
)
spoofing(
    "IPv4 with another guest's address",
    "requests in another's name",
    "source of another guest",
    "source of the gateway",
)
spoofing(
    "IPv4 with an address of outside",
    "floods that nobody can trace",
    "source of outside",
    "source of loopback",
    "source of a group",
    "source of nobody in the subnet",
    "source of all",
)
spoofing(
    "IPv4 fragments and options in another's name",
    "a filter that looks at whole packets passes pieces",
    "source of another guest, with options",
    "source of another guest, fragment",
    "source of another guest, later",
)
spoofing(
    "DHCP server",
    "guests get the attacker for gateway and name server",
    "server's answer",
)
spoofing(
    "DHCP server in fragments",
    "the ports that a filter looks for are in another piece",
    "server's answer, first fragment",
    "DISCOVER of another in fragments",
    "DISCOVER in fragments, the second",
)
spoofing(
    "DHCP client in another's name",
    "another's lease is released or taken",
    "DISCOVER with another guest's chaddr",
    "DISCOVER with a chaddr of nobody",
    "renewal with another guest's chaddr",
    "renewal from another",
)
spoofing(
    "ICMP redirect as the gateway",
    "the victim sends what it has elsewhere",
    "ICMP redirect of the gateway",
)
spoofing(
    "IPv6 with another guest's address",
    "requests in another's name",
    "source: link-local of another guest",
    "source: another guest's",
    "source: link-local of the gateway",
    "source: the gateway's",
    "source: of outside",
    "source: nobody's in the prefix",
)
spoofing(
    "neighbour advertisement of another's address",
    "the attacker is in the middle, by IPv6",
    "advert of another guest's",
    "advert of the gateway's",
    "advert at the gateway's MAC",
    "advert at another's MAC",
)
spoofing(
    "duplicate address detection answered for all",
    "nobody gets an IPv6 address",
    "DAD for another guest's",
    "DAD for the gateway's",
    "advert of nobody's",
)
spoofing(
    "router advertisement",
    "all guests take the attacker for their router",
    "router advertisement, plain",
    "router advertisement from",
)
spoofing(
    "router advertisement behind extension headers and in fragments",
    "RA guard that looks at the first header passes it (RFC 7113)",
    "router advertisement, behind",
    "router advertisement, in",
    "router advertisement in the second fragment",
)
spoofing("ICMPv6 redirect", "the victim sends what it has elsewhere", "redirect")
spoofing(
    "DHCPv6 server",
    "guests get the attacker for name server",
    "DHCPv6 server",
    "DHCPv6 relay",
)
spoofing(
    "multicast listener report in another's name",
    "groups that another left, or wants, change",
    "MLD report from another's",
)
spoofing(
    "spanning tree",
    "the attacker becomes root of the LAN's tree, or a loop"
    " guard shuts the host's uplink",
    "spanning tree",
)
spoofing(
    "802.1Q and priority tags", "another VLAN behind the bridge is reached", "802.1Q"
)
spoofing(
    "802.1ad and Q-in-Q",
    "a filter sees a tag, what is behind it takes the inner one",
    "802.1ad",
    "Q-in-Q",
)
spoofing(
    "ARP and IPv4 in 802.3 frames", "what looks for ethertypes passes them", "802.3"
)
spoofing(
    "other protocols: PPPoE, MPLS, RARP, wake on LAN",
    "servers for protocols that nobody filters",
    "ethertype",
    "RARP",
)


@attack(
    "LLDP and EAPOL to the host's own daemons",
    "the host's neighbour tables and port authentication say what a guest likes",
)
def to_listeners(site: Site) -> str | None:
    for name in site.grounds:
        kinds = [name]
        if site.name == "tapster":
            kinds = [{"lan": "lanrouters", "open": "routers"}[name], name]
        for ground in kinds:
            card = site.card(site.user, ground)
            heard = host_hears(site, card)
            if ground != name:
                control(heard, f"{ground}: the host hears a trusted guest")
            elif heard:
                return f"{name}: the host's listener heard {', '.join(heard)}"
    return None


def host_hears(site: Site, card: Card) -> list[str]:
    """What a listener on the tap itself hears, as lldpd listens on each device."""
    found = []
    control_frame = card.hello()
    for what, kind, group in (
        ("LLDP", 0x88CC, spoofs.LLDP_GROUP), ("EAPOL", 0x888E, spoofs.EAPOL_GROUP)
    ):  # fmt: skip
        with host.in_network(
            site.lab.host, socket.socket, socket.AF_PACKET, socket.SOCK_RAW,
            socket.htons(kind),
        ) as listener, frames.Station(site.lab.host, card.bridge) as end:  # fmt: skip
            listener.bind((card.ifname, kind))
            listener.setblocking(False)
            frame = frames.ethernet(card.mac, group, kind, b"\2\7\4" + bytes(6))
            card.wire.send(frame)
            control(arrives(control_frame, card.wire, end, control_frame), "in order")
            with suppress(BlockingIOError):
                while True:
                    if listener.recv(2000)[:12] == frame[:12]:
                        found.append(what)
    return found


@attack(
    "flood of 4,000 source MACs",
    "the bridge's table is full of them, and all else is flooded to everybody",
)
def fdb_flood(site: Site) -> str | None:
    for ground in site.all_grounds():
        card = ground.attacker
        before = known(site, card.bridge)
        flood = [
            frames.arp(mac, mac, card.ipv4, card.ipv4)
            for mac in ("02:" + os.urandom(5).hex(":") for _ in range(4000))
        ]
        card.agent(acts.send_all, card.number, flood)
        control(arrives(card.hello(), card.wire, ground.station, card.hello()),
                "what it may send passes")  # fmt: skip
        more = known(site, card.bridge) - before
        if more > 8:
            return f"{ground.name}: the bridge has {more} more entries"
        if harm := ground.harm():
            return harm
    return None


def known(site: Site, bridge: str) -> int:
    """Entries of a bridge's forwarding table."""
    rows = host.tool(site.lab.host, "bridge", "-j", "fdb", "show", "br", bridge)
    return len(rows)


@attack(
    "listening to frames for others and for nobody",
    "what is for a station that the bridge has forgotten is heard by all",
)
def listening(site: Site) -> str | None:
    for ground in site.all_grounds():
        card, end = ground.attacker, ground.station
        good = frames.ethernet(end.mac, BROADCAST, PLAIN, b"")
        own = frames.ethernet(end.mac, card.mac, PLAIN, b"")
        card.wire.send(card.hello())
        control(arrives(own, end, card.wire, good), "its own frames get to it")
        for what, to in (
            ("another guest", ground.victim.mac),
            ("a station that is not known", "02:5a:00:00:00:98"),
        ):
            frame = frames.ethernet(end.mac, to, PLAIN, b"")
            if arrives(frame, end, card.wire, good):
                return f"{ground.name}: it hears what is for {what}"
    return None


@attack(
    "frames for nobody, to be flooded to all",
    "each frame costs every guest of the segment one, at the attacker's will",
)
def unknown_unicast(site: Site) -> str | None:
    for ground in site.all_grounds():
        card, victim = ground.attacker, ground.victim
        frame = card.hello("02:5a:00:00:00:98")
        if arrives(frame, card.wire, victim.wire, card.hello()):
            return f"{ground.name}: the victim got what was for nobody"
    return None


@attack(
    "frames that are too long",
    "a neighbour's card or driver gets what it never expected",
)
def oversize(site: Site) -> str | None:
    for ground in site.all_grounds():
        card, victim = ground.attacker, ground.victim
        fits = card.hello() + bytes(1514 - len(card.hello()) - 16)
        control(arrives(fits, card.wire, victim.wire, card.hello()), "1514 bytes pass")
        for size in (1519, 2000, 9000, 65535):
            frame = card.hello() + bytes(size - len(card.hello()))
            with suppress(OSError):  # too long for the tap itself
                card.wire.send(frame)
        card.wire.send(fits)
        longest = max((len(f) for f in victim.wire.frames(0.1)), default=0)
        control(longest, "something arrived")
        if longest > 1518:
            return f"{ground.name}: a frame of {longest} bytes got to the victim"
    return None


@attack(
    "frames that end in the middle of a header",
    "what checks an address reads beyond the frame, or passes it unchecked",
)
def runts(site: Site) -> str | None:
    """ARP up to the sender's address, IP up to the source's. Where only what comes
    after is missing, all has been checked, and the receiver drops it."""
    for name in site.grounds:
        scene = site.scene(name)
        whole = {
            "ARP": spoofs.request(scene),
            "IPv4": spoofs.packet4(scene, scene.me.ipv4),
            "IPv6": spoofs6.echo(scene, scene.me.ipv6),
        }
        for what, frame in whole.items():
            control(scene.passes(frame), f"{name}: whole {what} passes")
            lengths = {"ARP": 32, "IPv4": 30, "IPv6": 38}[what]
            for length in range(lengths):
                with suppress(OSError):  # shorter than Ethernet's header
                    scene.sender.send(frame[:length])
            scene.sender.send(scene.known_good + b"last")
            short = [
                len(seen)
                for seen in until_seen(scene, b"last")
                if seen[6:12] == frames.mac(scene.me.mac) and len(seen) < lengths
                and seen[12:14] == frame[12:14]
            ]  # fmt: skip
            if short:
                return f"{name}: {what} of {min(short)} bytes got to the victim"
    return None


def until_seen(scene: Scene, last: bytes) -> list[bytes]:
    found = []
    for seen in scene.receiver.frames():
        if last in seen:
            return found
        found.append(seen)
    raise AssertionError("not even the frame that is known to pass arrived")


@attack(
    "broadcast storm, against another user's guests",
    "each frame costs every guest and the host one; others' guests stand still",
)
def storm(site: Site) -> str | None:
    """On the networks that users have without asking for another."""
    default = "default" if site.name == "tapster" else LAN
    mine = site.card(site.user, default, 60)
    own = site.card(site.user, default, 61)
    hers = site.card(site.other, default, 62)
    drain(hers.wire)
    sent = mine.agent(acts.send_all, mine.number, [mine.hello()] * 100, 50)
    control(count(own, mine) > 0, "a guest of the same user's hears it")
    heard = count(hers, mine)
    return f"{heard} of {sent} got to another user's guest" if heard else None


@attack(
    "broadcast storm where a rate is set",
    "one guest takes all of a segment that users share",
    not_for_peer="it has no rates",
)
def limited_storm(site: Site) -> str | None:
    mine = site.card(site.user, "limited", 60)
    hers = site.card(site.other, "limited", 61)
    drain(hers.wire)
    frame = mine.hello() + bytes(1000)
    start = time.monotonic()
    for _ in range(10):
        mine.agent(acts.send_all, mine.number, [frame] * 100)
        hers.wire.send(hers.hello())
    heard = count(hers, mine)
    seconds = time.monotonic() - start
    control(heard, "what is within the rate gets there")
    allowed = 1_000_000 / 8 * (1 + seconds) / 1000
    if heard > 1.5 * allowed:
        return f"{heard} frames of 1 kB in {seconds:.1f} s, at 1 Mbit/s"
    return None


def count(card: Card, sender: Card) -> int:
    """Frames of the sender's that wait at a card."""
    source = frames.mac(sender.mac)
    return sum(1 for seen in card.wire.frames(0.3) if seen[6:12] == source)


@attack(
    "first frame with another guest's MAC",
    "a port that takes the first MAC it sees is opened for the victim's",
    not_for_peer="it locks no port; see the source MACs above",
)
def first_mac(site: Site) -> str | None:
    for name, where in (("lan", {"network": "lan"}), ("open", {"network": "open"})):
        ground = site.ground(name)
        asked = {"for_parent": True, **where}
        for mac, works in ((ground.victim.mac, False), (ground.station.mac, False),
                           ("52:54:00:0f:0f:0f", True)):  # fmt: skip
            fd, _ = site.user(acts.attach, **asked)
            wire = Raw(site, fd)
            frame = discover(mac)
            passed = False
            for _ in range(20):
                wire.send(frame)
                passed = any(frame[:12] == seen[:12] and seen[12:14] == b"\x08\x00"
                             for seen in ground.station.frames(0.02))  # fmt: skip
                if passed:
                    break
            if works:
                control(passed, f"{name}: a MAC of nobody's opens the port")
            elif passed:
                return f"{name}: the port was opened for {mac}"
        if harm := ground.harm():
            return harm
    return None


class Raw:
    """A descriptor of the attacker's that only sends."""

    def __init__(self, site: Site, number: int) -> None:
        self._site, self._number = site, number

    def send(self, frame: bytes) -> None:
        self._site.user(acts.send, self._number, frame)


def discover(mac: str) -> bytes:
    packet = frames.ipv4(
        "0.0.0.0", "255.255.255.255", 17, frames.udp(68, 67, frames.dhcp(mac))
    )
    return frames.ethernet(mac, BROADCAST, frames.IPV4, packet)


@attack(
    "checksum put elsewhere by the virtio header",
    "two bytes of a frame that was checked are written after the checks",
    known="the kernel sums after the last rule, and nftables has no word for it;"
    " guests that share a segment, where the receiver takes no checksum offload",
)
def moved_checksum(site: Site) -> str | None:
    for name in site.grounds:
        ground = site.ground(name)
        what = {"vnet": True} if site.name == "peer" else {"vnet_hdr": True}
        card = site.card(site.user, name, 62, **what)
        frame = frames.arp(card.mac, card.mac, card.ipv4, ground.victim.ipv4)
        # Sum from byte 28 on, written into the sender's address there.
        header = struct.pack("<BBHHHH", 1, 0, 0, 0, 28, 2)
        card.agent(acts.send, card.number, header + frame)
        drain(ground.station)
        for seen in ground.victim.wire.frames(0.2):
            same = seen[6:12] == frames.mac(card.mac) and seen[12:14] == b"\x08\x06"
            if same and seen[14:42] != frame[14:42]:
                return f"{name}: an ARP message got to the victim in another's name"
    return None
