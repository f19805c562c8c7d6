# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a guest may do to its segment with frames of its own: fill tables and
queues, listen, and send what is malformed."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address

from attack import acts
from attack.registry import attack, control
from attack.site import LAN, Card, Site, arrives, drain
from support import frames, host, spoofs, spoofs6
from support.frames import BROADCAST, PLAIN
from support.spoofs import Scene


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
    found: list[bytes] = []
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
    "IGMP and MLD queries, and PIM",
    "the bridge sends all multicast to the attacker, whoever joined what",
)
def multicast_router(site: Site) -> str | None:
    for name in site.grounds:
        trusted = {"lan": "lanrouters", "open": "routers"}
        for ground in ([trusted[name]] if site.name == "tapster" else []) + [name]:
            card = site.card(site.user, ground, 60)
            with snooping(site, card.bridge):
                for frame in queries(card):
                    card.wire.send(frame)
                end = card.hello()
                with frames.Station(site.lab.host, card.bridge) as station:
                    control(arrives(end, card.wire, station, end), "it sends")
                routers = router_ports(site, card.bridge)
            if ground != name:
                control(card.ifname in routers, f"{ground}: a trusted guest's do it")
            elif card.ifname in routers:
                return f"{name}: its port is one that leads to a multicast router"
    return None


@attack(
    "5,000 multicast groups joined",
    "the bridge's table is full, and it stops looking at who joined what, for all",
    known="the kernel counts groups by the bridge (mcast_hash_max), and a port's limit"
    " does not keep them out; a LAN's bridge that snoops then floods multicast, as one"
    " without snooping does",
)
def many_groups(site: Site) -> str | None:
    for ground in site.all_grounds():
        card = ground.attacker
        with snooping(site, card.bridge):
            joins = [join(card, f"239.1.{n >> 8}.{n & 255}") for n in range(5000)]
            card.agent(acts.send_all, card.number, joins)
            drain(ground.station)
            control(arrives(card.hello(), card.wire, ground.station, card.hello()),
                    "what it may send passes")  # fmt: skip
            data = host.link(site.lab.host, card.bridge)["linkinfo"]["info_data"]
            if not data["mcast_snooping"]:
                return f"{ground.name}: the bridge has given snooping up"
            rows = site.lab.host.run("bridge", "mdb", "show", "dev", card.bridge)
            control("239.1.0.1" in rows.stdout, "a group may be joined")
    return None


def join(card: Card, group: str) -> bytes:
    """An IGMPv2 report."""
    body = bytes((0x16, 0, 0, 0)) + ip_address(group).packed
    body = body[:2] + frames.checksum(body).to_bytes(2, "big") + body[4:]
    raw = ip_address(group).packed
    mac = bytes((1, 0, 0x5E, raw[1] & 0x7F, raw[2], raw[3])).hex(":")
    packet = frames.ipv4(card.ipv4, group, 2, body, options=b"\x94\4\0\0")
    return frames.ethernet(card.mac, mac, frames.IPV4, packet)


@contextmanager
def snooping(site: Site, bridge: str) -> Iterator[None]:
    """The bridge looks at who joins what, as it does if nobody says otherwise."""
    change = site.lab.host.run
    before = host.link(site.lab.host, bridge)["linkinfo"]["info_data"]["mcast_snooping"]
    change("ip", "link", "set", bridge, "type", "bridge", "mcast_snooping", "1")
    try:
        yield
    finally:
        change("ip", "link", "set", bridge, "type", "bridge",
               "mcast_snooping", str(before))  # fmt: skip


def router_ports(site: Site, bridge: str) -> str:
    done = site.lab.host.run("bridge", "-d", "mdb", "show", "dev", bridge)
    return done.stdout.partition("router ports on")[2]


def queries(card: Card) -> list[bytes]:
    """What a multicast router says: IGMPv2 and MLD general queries, PIM hello."""
    igmp = bytes((0x11, 10, 0, 0)) + bytes(4)
    igmp = igmp[:2] + frames.checksum(igmp).to_bytes(2, "big") + igmp[4:]
    alert = b"\x94\4\0\0"
    local, everybody = card.party.local, "ff02::1"
    mld = frames.icmpv6(local, everybody, 130, bytes(20) + bytes(0))[40:]
    chain = bytes((58,)) + spoofs6.ALERT[1] + mld
    return [
        frames.ethernet(card.mac, "01:00:5e:00:00:01", frames.IPV4,
                        frames.ipv4(card.ipv4, "224.0.0.1", 2, igmp, options=alert)),
        frames.ethernet(card.mac, frames.ALL_NODES, frames.IPV6,
                        frames.ipv6(local, everybody, 0, chain, hops=1)),
        frames.ethernet(card.mac, "01:00:5e:00:00:0d", frames.IPV4,
                        frames.ipv4(card.ipv4, "224.0.0.13", 103, b"\x20\0\xdf\xff")),
    ]  # fmt: skip


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
