# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the host routes, translates and serves for guests, and what it should not."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

from attack.registry import attack, control
from attack.site import LAN, LAN4, Card, Site, drain, eventually
from support import frames
from support.guest import Guest
from support.host import in_network
from support.pump import connected
from tapster import errors

WORLD, UPLINK = "192.0.2.1", "192.0.2.2"
SYN = 0x02
SHORT = 0.4  # seconds in which what should not come would have come


def default(site: Site) -> str:
    return "default" if site.name == "tapster" else LAN


def mine(site: Site, number: int = 60) -> Guest:
    """A guest of the attacker's, on the network that it gets unasked."""
    guest = site.card(site.user, default(site), number).guest()
    control(guest.pings(guest.gateway), "the guest reaches its gateway")
    control(guest.pings(WORLD), "the guest reaches the outside")
    return guest


@contextmanager
def listening(site: Site, port: int, family: int = socket.AF_INET) -> Iterator[None]:
    """A service of the host's, on all of its addresses. It does answer."""
    with in_network(site.lab.host, socket.socket, family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("", port))
        sock.listen()
        local = "::1" if family == socket.AF_INET6 else "127.0.0.1"
        try:
            connected(site.lab.host, local, port).close()
        except OSError:
            control(False, "the service answers the host itself")
        if site.name == "tapster" and family == socket.AF_INET:
            served = site.card(site.user, "served").guest()
            control(opens(served, served.gateway, port), "host_access opens it")
        yield


def opens(guest: Guest, address: str, port: int, mac: str = "") -> bool:
    """Whether a SYN from the guest is answered by a SYN and ACK."""
    head = struct.pack("!HHIIBBHHH", 40001, port, 1, 0, 5 << 4, SYN, 65535, 0, 0)
    pseudo = ip_address(str(guest.nic.ipv4)).packed + ip_address(address).packed
    check = frames.checksum(pseudo + struct.pack("!BBH", 0, 6, len(head)) + head)
    syn = head[:16] + struct.pack("!H", check) + head[18:]
    guest.send(address, 6, syn, mac)
    return any(
        packet[9] == 6 and packet[33] & 0x12 == 0x12 for packet in guest.packets(SHORT)
    )


@attack(
    "a low source port through the host's NAT",
    "servers that trust ports below 1024 (NFS, rsh) take a guest for the host's root",
)
def low_port(site: Site) -> str | None:
    guest = mine(site)
    with in_network(
        site.lab.world, socket.socket, socket.AF_INET, socket.SOCK_DGRAM
    ) as server:
        server.bind((WORLD, 2049))
        server.settimeout(5)
        for port in (1, 111, 700, 1023):
            guest.send(WORLD, 17, frames.udp(port, 2049, b"mount"))
            try:
                _, (host, seen) = server.recvfrom(100)
            except TimeoutError:
                control(False, "the server hears the guest")
            control(host == UPLINK, "the guest is translated")
            if seen < 1024:
                return f"the server saw {host}, port {seen}"
    return None


@attack(
    "the host's services, at the gateway's address",
    "each service that listens on all addresses is a guest's to attack",
)
def host_services(site: Site) -> str | None:
    guest = mine(site)
    with listening(site, 2222):
        if opens(guest, guest.gateway, 2222):
            return f"{guest.gateway} port 2222 answered"
    return None


@attack(
    "the host's services, at its other addresses",
    "a firewall that closes the bridge's address leaves the uplink's",
)
def other_addresses(site: Site) -> str | None:
    guest = mine(site)
    with listening(site, 2222):
        if opens(guest, UPLINK, 2222):
            return f"{UPLINK} port 2222 answered"
    return (
        "the host's uplink answers ping" if guest.pings(UPLINK, seconds=SHORT) else None
    )


@attack(
    "the host's loopback addresses",
    "what listens on 127.0.0.1 trusts who gets there",
)
def loopback(site: Site) -> str | None:
    guest = mine(site)
    with listening(site, 2222):
        for address in ("127.0.0.1", "127.0.0.53"):
            if opens(guest, address, 2222):
                return f"{address} port 2222 answered"
    return None


@attack(
    "the host's services, at its link-local IPv6 address",
    "a firewall for IPv4 alone leaves all of it open",
)
def services6(site: Site) -> str | None:
    guest = mine(site)
    card: Card = guest.nic  # type: ignore[assignment]
    router = "fe80::1"
    if site.name == "peer":
        done = site.lab.host.run("ip", "-6", "-o", "address", "show", "dev", LAN)
        router = next(w for w in done.stdout.split() if w.startswith("fe80")).split(
            "/"
        )[0]
    with listening(site, 2222, socket.AF_INET6):
        if site.name == "tapster":
            served = site.card(site.user, "served")
            other = served.guest().router
            control(opens6(served, other, router), "host_access opens it")
        if opens6(card, guest.router, router):
            return "port 2222 answered"
    return None


def opens6(card: Card, mac: str, router: str) -> bool:
    """Whether a SYN to the router's port 2222 is answered by a SYN and ACK."""
    source = card.party.local
    control(pings6(card, mac, source, router), "its address answers ping")
    head = struct.pack("!HHIIBBHHH", 40001, 2222, 1, 0, 5 << 4, SYN, 65535, 0, 0)
    pseudo = ip_address(source).packed + ip_address(router).packed
    pseudo += struct.pack("!II", len(head), 6)
    check = frames.checksum(pseudo + head)
    syn = head[:16] + struct.pack("!H", check) + head[18:]
    packet = frames.ipv6(source, router, 6, syn)
    card.wire.send(frames.ethernet(card.mac, mac, frames.IPV6, packet))
    return any(
        frame[20] == 6 and frame[14 + 40 + 13] & 0x12 == 0x12
        for frame in neighbourly(card, source, SHORT)
    )


def pings6(card: Card, mac: str, source: str, to: str) -> bool:
    packet = frames.icmpv6(source, to, 128, bytes(4) + b"tapster")
    for _ in range(20):
        card.wire.send(frames.ethernet(card.mac, mac, frames.IPV6, packet))
        for frame in neighbourly(card, source, 0.25):
            if frame[20] == 58 and frame[54] == 129:
                return True
    return False


def neighbourly(card: Card, address: str, seconds: float) -> Iterator[bytes]:
    """IPv6 frames; who asks for our link-local address is answered on the way."""
    raw = ip_address(address).packed
    for frame in card.wire.frames(seconds):
        if frame[12:14] != b"\x86\xdd":
            continue
        if frame[20] == 58 and frame[54] == 135 and frame[62:78] == raw:
            asker = str(ip_address(frame[22:38]))
            rest = b"\x60\0\0\0" + raw + b"\2\1" + frames.mac(card.mac)
            told = frames.icmpv6(address, asker, 136, rest)
            to = frame[6:12].hex(":")
            card.wire.send(frames.ethernet(card.mac, to, frames.IPV6, told))
        else:
            yield frame


@attack(
    "another user's guest, by its address",
    "guests are open to each other that belong to people who never agreed to it",
)
def others_guest(site: Site) -> str | None:
    guest = mine(site)
    hers = site.card(site.other, default(site), 61).guest()
    control(hers.pings(WORLD), "the victim reaches the outside")
    own = site.card(site.user, default(site), 62).guest()
    guest.send(str(own.nic.ipv4), 1, frames.echo(8, 9), own.tap.mac)
    control(any(p[9] == 1 for p in own.packets(2)), "guests of one user hear theirs")
    drain(hers.tap)
    for mac in ("", hers.tap.mac):
        guest.send(str(hers.nic.ipv4), 1, frames.echo(8, 9), mac)
    source = ip_address(str(guest.nic.ipv4)).packed
    for packet in hers.packets(SHORT):
        if packet[9] == 1 and packet[12:16] == source:
            return "a ping got to another user's guest"
    return None


@attack(
    "another user's gateway, and who lives there",
    "a map of other users' networks, and their name servers",
)
def others_gateway(site: Site) -> str | None:
    guest = mine(site)
    hers = site.card(site.other, default(site), 61).guest()
    if hers.gateway == guest.gateway:
        return "it is the attacker's own; all users are on one network"
    control(hers.pings(hers.gateway), "the victim's gateway answers the victim")
    return "it answers ping" if guest.pings(hers.gateway, seconds=SHORT) else None


@attack(
    "names of another user's guests",
    "what other users run, by asking the name server",
    not_for_peer="it serves no names",
)
def others_names(site: Site) -> str | None:
    guest = mine(site)
    hers = site.card(site.other, "default", 61, name="secret").guest()
    name = "secret.default.internal"
    known = eventually(lambda: bool(hers.resolve(name)[1]))
    control(known, "the victim's own name is answered to it")
    code, found = guest.resolve(name)
    reverse = ".".join(reversed(str(hers.nic.ipv4).split("."))) + ".in-addr.arpa"
    _, back = guest.resolve(reverse, 12)
    return f"answered: {found or back}" if found or back or not code else None


@attack(
    "another guest's name, by the host name in DHCP",
    "who looks the victim up gets to the attacker",
    not_for_peer="it serves no names",
)
def name_by_dhcp(site: Site) -> str | None:
    card = site.card(site.user, "open", 60, name="mallory")
    victim = site.card(site.other, "open", 61, name="db")
    claimer, asker = NameClaimer(card), victim.guest()  # type: ignore[arg-type]
    claimer.tap = card.wire
    for name in ("db", "www", "wpad"):
        claimer.claims = name
        control(claimer.dhcp(3, card.ipv4)[53] == b"\5", "the lease is given")
    mallory = ip_address(card.ipv4).packed
    for name in ("db", "www", "wpad"):
        for full in (name, f"{name}.open.internal"):
            if mallory in asker.resolve(full)[1]:
                return f"{full} is the attacker now"
    its = [ip_address(victim.ipv4).packed]
    named = eventually(lambda: asker.resolve("db.open.internal")[1] == its)
    control(named, "the victim's name is answered")
    return None


class NameClaimer(Guest):
    """A guest that tells the DHCP server what it wants to be called."""

    claims = ""

    def _dhcp(self, kind: int, requested: str | None) -> dict[int, bytes]:
        plain, tap = super()._dhcp, self.tap
        self.tap = Claiming(tap, self.claims)  # type: ignore[assignment]
        try:
            return plain(kind, requested)
        finally:
            self.tap = tap


class Claiming(frames.Wire):
    """Adds a host name and a FQDN to what a DHCP client sends."""

    def __init__(self, wire: Any, name: str) -> None:
        self._wire, self.mac = wire, wire.mac
        raw = name.encode()
        self._options = bytes((12, len(raw))) + raw
        fqdn = b"\1\xff\xff" + raw
        self._options += bytes((81, len(fqdn))) + fqdn + b"\xff"

    def send(self, frame: bytes) -> None:
        if frame[12:14] == b"\x08\x00" and frame[23] == 17:
            body = frame[42:-1] + self._options
            packet = frames.ipv4("0.0.0.0", "255.255.255.255", 17,
                                 frames.udp(68, 67, body))  # fmt: skip
            frame = frames.ethernet(self.mac, frames.BROADCAST, frames.IPV4, packet)
        self._wire.send(frame)

    def fileno(self) -> int:
        return int(self._wire.fileno())

    def _read(self) -> bytes:
        return bytes(self._wire._read())


@attack(
    "all addresses taken, by asking for them in many names",
    "no guest gets a lease any more",
    not_for_peer="it serves no addresses",
)
def starvation(site: Site) -> str | None:
    card = site.card(site.user, "open", 60)
    victim = site.card(site.other, "open", 61)
    wire = card.wire
    for number in range(400):
        body = frames.dhcp(f"02:00:00:00:{number // 256:02x}:{number % 256:02x}")
        packet = frames.ipv4("0.0.0.0", "255.255.255.255", 17, frames.udp(68, 67, body))
        wire.send(frames.ethernet(card.mac, frames.BROADCAST, frames.IPV4, packet))
    control(card.guest().dhcp(1)[53] == b"\2", "an honest request is answered")
    try:
        later = site.card(site.other, "open", 62).guest()
        given = later.dhcp(1), victim.guest().dhcp(1)
    except (AssertionError, errors.TapsterError) as error:
        return f"another user's guest gets no address: {error}"
    return None if all(answer[53] == b"\2" for answer in given) else "refused"


@attack(
    "another guest's address, asked of the DHCP server",
    "two guests with one address, of which one is cut off",
    not_for_peer="it serves no addresses",
)
def address_of_another(site: Site) -> str | None:
    card = site.card(site.user, "open", 60)
    victim = site.card(site.other, "open", 61)
    guest = card.guest()
    offer = guest.dhcp(1)
    control(str(ip_address(offer[0])) == card.ipv4, "it is offered its own")
    answer = guest.dhcp(3, victim.ipv4)
    return None if answer[53] == b"\6" else "the server agrees"


@attack(
    "source routes and redirects to the host",
    "the host sends what it routes to the attacker",
)
def redirect_host(site: Site) -> str | None:
    guest = mine(site)
    before = routes(site)
    for gateway in (guest.gateway, str(guest.nic.ipv4)):
        about = frames.ipv4(guest.gateway, WORLD, 17, bytes(8))
        body = struct.pack("!BBH", 5, 1, 0) + ip_address(str(guest.nic.ipv4)).packed
        body = body[:2] + struct.pack("!H", frames.checksum(body + about)) + body[4:]
        packet = frames.ipv4(gateway, guest.gateway, 1, body + about)
        mac = guest.tap.mac
        guest.tap.send(frames.ethernet(mac, guest.router, frames.IPV4, packet))
    control(guest.pings(WORLD), "what was sent before has been handled")
    return "the host's route to it changed" if routes(site) != before else None


def routes(site: Site) -> str:
    done = site.lab.host.run("ip", "-4", "route", "get", WORLD)
    return done.stdout.split("cache")[0]


@attack(
    "neighbours without end, to be resolved by the host",
    "the host's neighbour table is full, and nobody else's fits",
)
def neighbours(site: Site) -> str | None:
    guest = mine(site)
    hers = site.card(site.other, default(site), 61).guest()
    prefix = str(guest.nic.ipv4).rpartition(".")[0]
    for number in range(2, 255):
        for _ in range(2):
            guest.send(f"{prefix}.{number}", 1, frames.echo(8, 1))
            guest.send(f"{LAN4}{number}", 1, frames.echo(8, 1))
    hers_again = site.card(site.other, default(site), 62).guest()
    ok = hers.pings(WORLD) and hers_again.pings(WORLD)
    return None if ok else "another user's guest does not reach the outside"
