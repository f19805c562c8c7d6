# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a rule logs is what was sent, by whom and to whom; and so is learned
what a DHCP server of the LAN, dnsmasq here, gives to a guest."""

from __future__ import annotations

import errno
import os
import secrets
import select
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from lab import Lab, Space, until
from support import frames
from support.frames import IPV4, IPV6, Station, Tap, Wire
from support.host import in_network, tool
from tapster.kernel import namespaces, nflog, tun
from tapster.kernel.netlink import NetlinkError
from tapster.kernel.nflog import NflogSocket, Packet
from tapster.networks import elements, leases, ruleset
from tapster.networks.elements import Guest
from tapster.networks.leases import Lease

BRIDGE, UPLINK = "br-lan", "lan0"
MACS = {"tapsterl0": "02:00:00:00:00:01", "tapsterl1": "02:00:00:00:00:02"}
TRUSTED, TRUSTED_MAC = "tapstert0", "02:00:00:00:00:03"
SUBNET, SUBNET6 = "203.0.113.", "2001:db8:1::"
EVERYBODY = "255.255.255.255"
ACK, NAK = 5, 6
ONE, OTHER = 5, 6  # groups


class Lan:
    """A bridge on the lab's host with two guests' ports, a trusted one, and an
    uplink to the world. `close()` ends what is in this process."""

    def __init__(self, lab: Lab) -> None:
        self.host, self.world = lab.host, lab.world
        self.world.run("ip", "link", "add", UPLINK, "type", "veth", "peer", "name",
                       UPLINK, "netns", str(self.host.pid))  # fmt: skip
        self.host.run("ip", "link", "add", BRIDGE, "type", "bridge")
        self.fds = {
            name: in_network(self.host, lambda n=name: tun.create(n, vnet_hdr=False))
            for name in (*MACS, TRUSTED)
        }
        for name in (UPLINK, *self.fds):
            self.host.run("ip", "link", "set", name, "master", BRIDGE, "up")
        for name, mac in (*MACS.items(), (TRUSTED, TRUSTED_MAC)):
            self.host.run("bridge", "link", "set", "dev", name, "flood", "off")
            self.host.run("bridge", "fdb", "add", mac, "dev", name, "master", "static")
        self.host.run("ip", "link", "set", BRIDGE, "up")
        self.world.run("ip", "link", "set", UPLINK, "up")
        self.one, self.two = (Tap(self.fds[name], MACS[name]) for name in MACS)
        self.trusted = Tap(self.fds[TRUSTED], TRUSTED_MAC)
        self.station = Station(self.world, UPLINK)
        links = tool(self.host, "ip", "-j", "link")
        self.index = {link["ifname"]: link["ifindex"] for link in links}

    def close(self) -> None:
        self.station.close()
        for fd in self.fds.values():
            os.close(fd)
        self.host.run("ip", "link", "del", UPLINK)
        self.host.run("ip", "link", "del", BRIDGE)

    def listen(self, group: int, **how: int) -> NflogSocket:
        made = in_network(self.host, lambda: NflogSocket(group, **how))
        assert isinstance(made, NflogSocket)
        return made

    @contextmanager
    def rules(self, text: str) -> Iterator[None]:
        self.host.run("nft", "-f", "-", input=text)
        try:
            yield
        finally:
            self.host.run("nft", "flush", "ruleset")

    @contextmanager
    def learning(self) -> Iterator[NflogSocket]:
        """The rules of leases.py for the guests, and who listens to them."""
        with in_network(self.host, nflog.open_free_group) as socket:
            text = ruleset.tables(leases.chains(socket.group))
            for name, mac in MACS.items():
                guest = Guest(name, self.index[name], ruleset.LAN, mac, learns=True)
                text += elements.added(elements.of_port(guest))
            text += elements.added(
                elements.of_port(
                    Guest(TRUSTED, self.index[TRUSTED], ruleset.TRUSTED, TRUSTED_MAC)
                )
            )
            with self.rules(text):
                yield socket


@pytest.fixture(scope="module")
def lan(lab: Lab) -> Iterator[Lan]:
    made = Lan(lab)
    yield made
    made.close()


def logged(socket: NflogSocket, seconds: float = 5) -> Iterator[Packet]:
    """What comes, until the time is over."""
    deadline = time.monotonic() + seconds
    poll = select.poll()
    poll.register(socket.fileno(), select.POLLIN)
    while True:
        yield from socket.read() or ()
        if not poll.poll(max(deadline - time.monotonic(), 0) * 1000):
            return


def learned(lan: Lan, socket: NflogSocket) -> list[tuple[Packet, Lease]]:
    """All that was to be learned so far: what is before a last, good answer."""
    last = IPv4Address(SUBNET + "200")
    lan.station.send(answer(lan.two.mac, str(last), lan.station.mac))
    found: list[tuple[Packet, Lease]] = []
    for packet in logged(socket):
        assert packet.prefix == leases.LOG_PREFIX
        for lease in leases.parse_logged(
            packet.protocol, packet.ethernet, packet.payload
        ):
            if lease.address == last:
                return found
            found.append((packet, lease))
    raise AssertionError("not even the last answer was logged")


def logging(*rules: str) -> str:
    lines = "\n".join(rules)
    return f"""table bridge other {{
        chain forward {{
            type filter hook forward priority -200; policy accept;
            {lines}
        }}
    }}
    """


def datagram(payload: bytes, port: int = 9) -> bytes:
    """A frame from the world to the first guest."""
    packet = frames.ipv4("192.0.2.9", "192.0.2.10", 17, frames.udp(7, port, payload))
    return frames.ethernet("02:00:00:00:00:99", MACS["tapsterl0"], IPV4, packet)


class TestGroups:
    @pytest.mark.own_network
    def test_of_another_is_refused_by_name_until_it_is_closed(self) -> None:
        with NflogSocket(ONE) as first:
            with pytest.raises(NetlinkError) as raised:
                NflogSocket(ONE)
            assert raised.value.errno == errno.EPERM
            assert str(raised.value).startswith("listen to log group 5: ")
            with NflogSocket(OTHER) as second:
                assert (first.group, second.group) == (ONE, OTHER)
        NflogSocket(ONE).close()

    @pytest.mark.own_network
    def test_first_free_one_is_found(self) -> None:
        groups = list(nflog.GROUPS)
        with NflogSocket(groups[1]):
            with nflog.open_free_group() as first, nflog.open_free_group() as second:
                assert [first.group, second.group] == [groups[0], groups[2]]
            with nflog.open_free_group() as again:
                assert again.group == groups[0]

    @pytest.mark.own_network
    def test_all_of_them_taken_is_an_error(self) -> None:
        taken = [NflogSocket(group) for group in nflog.GROUPS]
        with pytest.raises(NetlinkError, match=str(nflog.GROUPS[-1])):
            nflog.open_free_group()
        for socket in taken:
            socket.close()

    @pytest.mark.own_network
    def test_of_another_namespace_are_others(self) -> None:
        with NflogSocket(ONE):
            namespaces.unshare(namespaces.CLONE_NEWNET)
            NflogSocket(ONE).close()

    def test_capability_to_administer_the_network_is_enough(self, lab: Lab) -> None:
        code = """if True:
            from tapster.kernel.netlink import NetlinkError
            from tapster.kernel.nflog import open_free_group
            for line in open("/proc/self/status"):
                if line.startswith("CapEff"):
                    print(int(line.split()[1], 16))
            try:
                with open_free_group() as socket:
                    print(socket.group)
            except NetlinkError as error:
                print(error.errno)
        """
        nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
        keep = ("--inh-caps=-all,+net_admin", "--ambient-caps=-all,+net_admin")
        start = (lab.python, "-c", code)
        output = lab.host.run(*nobody, *keep, *start).stdout.split()
        assert output == [str(1 << 12), str(nflog.GROUPS[0])]
        output = lab.host.run(*nobody, *start).stdout.split()
        assert output == ["0", str(errno.EPERM)]


class TestPackets:
    @pytest.mark.parametrize("size", [0, 1, 2, 3, 18, 19, 500, 1472])
    def test_are_what_was_sent(self, lan: Lan, size: int) -> None:
        text = logging(f'udp dport 9 log prefix "some words" group {ONE}')
        with lan.rules(text), lan.listen(ONE) as socket:
            frame = datagram(secrets.token_bytes(size))
            lan.station.send(frame)
            packet = next(logged(socket))
            # br_netfilter, where it is on, cuts the frame's padding off.
            assert packet.payload[: 28 + size] == frame[14 : 42 + size]
            assert packet.payload[28 + size :].strip(b"\0") == b""
            assert packet == Packet(
                lan.index[UPLINK], lan.index["tapsterl0"], lan.index[BRIDGE], IPV4,
                "some words", frame[:14], packet.payload,
            )  # fmt: skip

    def test_come_at_once_and_one_by_one(self, lan: Lan) -> None:
        """Left alone, the kernel would wait a second for more of them."""
        text = logging(f"udp dport 9 log group {ONE}")
        with lan.rules(text), lan.listen(ONE) as socket:
            shown = lan.host.run("cat", "/proc/net/netfilter/nfnetlink_log").stdout
            group, _, queued, mode, _, _, references = shown.split()
            assert (int(group), int(queued), int(mode)) == (ONE, 0, 2)
            assert int(references) >= 1
            for number in range(3):
                lan.station.send(datagram(bytes((number,)) * 20))
                seen = next(logged(socket, 0.8))
                assert seen.payload[28:] == bytes((number,)) * 20
                assert seen.prefix == ""

    def test_of_another_group_do_not_come(self, lan: Lan) -> None:
        text = logging(
            f"udp dport 9 log group {ONE}", f"udp dport 10 log group {OTHER}"
        )
        with (
            lan.rules(text),
            lan.listen(ONE) as one,
            lan.listen(OTHER) as other,
        ):
            with frames.one_processor():
                for port in (10, 9, 10, 9, 11, 10):
                    lan.station.send(datagram(b"x" * 20, port))
            ports = {
                socket: [packet.payload[22:24] for packet in logged(socket, 0.2)]
                for socket in (one, other)
            }
            assert ports == {one: [b"\0\x09"] * 2, other: [b"\0\x0a"] * 3}
            assert one.read() is None

    def test_that_find_no_room_are_told_of_and_later_ones_come(self, lan: Lan) -> None:
        text = logging(f"udp dport 9 log group {ONE}")
        with lan.rules(text), lan.listen(ONE, receive_buffer=1 << 16) as socket:
            for _ in range(300):
                lan.station.send(datagram(b"x" * 1000))
            lost, read = 0, 0
            while True:
                try:
                    packets = socket.read()
                except OSError as error:
                    assert error.errno == errno.ENOBUFS
                    lost += 1
                    continue
                if packets is None:
                    break
                read += len(packets)
            assert lost and 0 < read < 300
            lan.station.send(datagram(b"later" * 5))
            assert next(logged(socket)).payload[28:] == b"later" * 5

    def test_before_an_acknowledgement_are_not_taken_for_it(self, lan: Lan) -> None:
        """As when rules of a broker before us log to the group already."""
        text = logging(f"udp dport 9 log group {ONE}")
        with lan.rules(text), lan.listen(ONE) as socket:
            lan.station.send(datagram(b"x" * 20))
            poll = select.poll()
            poll.register(socket.fileno(), select.POLLIN)
            assert poll.poll(5000)
            with pytest.raises(NetlinkError) as raised:
                socket._bind()
            assert raised.value.errno == errno.EBUSY  # it is ours


# DHCP


def bootp(kind: int, mac: str, address: str, *, operation: int = 2, number: int = 0,
          flags: int = 0, options: bytes = b"") -> bytes:  # fmt: skip
    body = struct.pack("!4BIHH", operation, 1, 6, 0, number, 0, flags) + bytes(4)
    body += IPv4Address(address).packed + bytes(8) + frames.mac(mac).ljust(16, b"\0")
    return (
        body + bytes(192) + b"\x63\x82\x53\x63" + bytes((53, 1, kind)) + options
    ) + b"\xff"


def answer(mac: str, address: str, src: str, dst: str = frames.BROADCAST) -> bytes:
    """A frame from `src`: an acknowledgement for the client `mac`."""
    body = bootp(ACK, mac, address, options=b"\x33\x04\0\0\x0e\x10")
    to = EVERYBODY if dst == frames.BROADCAST else address
    packet = frames.ipv4(SUBNET + "9", to, 17, frames.udp(67, 68, body))
    return frames.ethernet(src, dst, IPV4, packet)


def dhcp(
    guest: Tap, kind: int, requested: str = "", flags: int = 0
) -> dict[int, bytes]:
    """One exchange; the answer's options, 0 is the address and -1 the Ethernet
    destination. A client asks again when it hears nothing, and so does this."""
    options = b"\x32\x04" + IPv4Address(requested).packed if requested else b""
    number = secrets.randbits(32)
    body = bootp(kind, guest.mac, "0.0.0.0", operation=1, number=number, flags=flags,
                 options=options)  # fmt: skip
    packet = frames.ipv4("0.0.0.0", EVERYBODY, 17, frames.udp(68, 67, body))
    for _ in range(20):
        guest.send(frames.ethernet(guest.mac, frames.BROADCAST, IPV4, packet))
        for frame in guest.frames(0.25):
            if frame[34:38] == b"\0\x43\0\x44" and frame[46:50] == number.to_bytes(4):
                found, rest = {-1: frame[:6], 0: frame[58:62]}, frame[282:]
                while rest and rest[0] != 255:
                    found[rest[0]] = rest[2 : 2 + rest[1]]
                    rest = rest[2 + rest[1] :]
                return found
    raise AssertionError("no answer of the DHCP server")


def with_checksum(src: str, dst: str, payload: bytes) -> bytes:
    """A datagram of DHCPv6 to a server; IPv6 wants its checksum."""
    datagram = frames.udp(546, 547, payload)
    pseudo = IPv6Address(src).packed + IPv6Address(dst).packed
    pseudo += struct.pack("!II", len(datagram), 17)
    check = frames.checksum(pseudo + datagram) or 0xFFFF
    return datagram[:6] + struct.pack("!H", check) + datagram[8:]


def dhcp6(guest: Tap, local: str) -> bytes:
    """Solicit with rapid commit (RFC 8415, 18.2.1), and answer to neighbour
    solicitations, until there is a reply; its message."""
    everybody = "ff02::1:2"
    duid = struct.pack("!HH", 3, 1) + frames.mac(guest.mac)
    number = secrets.token_bytes(3)
    message = b"\x01" + number + struct.pack("!HH", 1, len(duid)) + duid
    message += struct.pack("!HHH", 8, 2, 0) + struct.pack("!HH", 14, 0)
    message += struct.pack("!HHIII", 3, 12, 1, 0, 0)
    packet = frames.ipv6(local, everybody, 17, with_checksum(local, everybody, message))
    me = IPv6Address(local).packed
    for _ in range(40):
        guest.send(frames.ethernet(guest.mac, "33:33:00:01:00:02", IPV6, packet))
        for frame in guest.frames(0.25):
            if frame[12:14] != b"\x86\xdd":
                continue
            if frame[20] == 58 and frame[54] == 135 and frame[62:78] == me:
                asker = str(IPv6Address(frame[22:38]))
                rest = b"\x60\0\0\0" + me + b"\2\1" + frames.mac(guest.mac)
                advert = frames.icmpv6(local, asker, 136, rest)
                to = frame[6:12].hex(":")
                guest.send(frames.ethernet(guest.mac, to, IPV6, advert))
            elif frame[54:58] == b"\x02\x23\x02\x22" and frame[63:66] == number:
                return frame[62:]
    raise AssertionError("no answer of the DHCPv6 server")


@contextmanager
def dnsmasq(space: Space, device: str, directory: Path) -> Iterator[None]:
    """A DHCP server on that device, which has addresses as long as it runs."""
    own = [f"{SUBNET}1/24", f"{SUBNET6}1/64"]
    for address in own:
        nodad = ["nodad"] if ":" in address else []
        space.run("ip", "address", "add", address, "dev", device, *nodad)
    log = directory / "log"
    with log.open("w") as output:
        process = space.popen(
            "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0",
            "--pid-file=", "--user=root", "--group=root", "--log-facility=-",
            "--bind-interfaces", f"--interface={device}", "--except-interface=lo",
            "--no-ping", "--dhcp-authoritative", f"--dhcp-leasefile={directory}/leases",
            f"--dhcp-range={SUBNET}50,{SUBNET}99,255.255.255.0,1h",
            f"--dhcp-range={SUBNET6}50,{SUBNET6}99,64,2h",
            stdout=output, stderr=output,
        )  # fmt: skip
    try:
        until("dnsmasq", lambda: "started" in log.read_text() or process.poll())
        assert process.poll() is None, log.read_text()
        yield
    finally:
        process.kill()
        process.wait()
        for address in own:
            space.run("ip", "address", "del", address, "dev", device)


@pytest.fixture(params=["beyond the uplink", "on the host"])
def server(request: pytest.FixtureRequest, lan: Lan, tmp_path: Path) -> Iterator[str]:
    """A real server, at each place where one can be; the port it comes in by."""
    if request.param == "on the host":
        with dnsmasq(lan.host, BRIDGE, tmp_path):
            yield ""
    else:
        with dnsmasq(lan.world, UPLINK, tmp_path):
            yield UPLINK


class TestLeases:
    @pytest.mark.parametrize("flags", [0, 0x8000], ids=["unicast", "broadcast"])
    def test_are_learned_for_the_right_port(
        self, lan: Lan, server: str, flags: int
    ) -> None:
        source = lan.index.get(server, 0)
        with lan.learning() as socket:
            for guest in (lan.one, lan.two):
                offered = dhcp(guest, 1, flags=flags)[0]
                address = IPv4Address(offered)
                told = dhcp(guest, 3, str(address), flags)
                assert (told[53], told[0]) == (bytes((ACK,)), offered)
                to = frames.BROADCAST if flags else guest.mac
                assert told[-1] == frames.mac(to)
                found = learned(lan, socket)
                assert found  # more than one if the client had to ask again
                for packet, lease in found:
                    assert lease == Lease(4, guest.mac, address, 3600, "ack")
                    assert (packet.input, packet.bridge) == (source, lan.index[BRIDGE])

    def test_refused_are_told(self, lan: Lan, server: str) -> None:
        with lan.learning() as socket:
            assert dhcp(lan.one, 3, "198.51.100.7")[53] == bytes((NAK,))
            found = learned(lan, socket)
            assert found
            for packet, lease in found:
                assert lease == Lease(4, lan.one.mac, None, None, "nak")
                assert packet.bridge == lan.index[BRIDGE]

    def test_of_ipv6_are_learned(self, lan: Lan, server: str) -> None:
        with lan.learning() as socket:
            message = dhcp6(lan.two, "fe80::1:2")
            assert message[:1] == b"\x07"
            found = learned(lan, socket)
            assert found
            for packet, lease in found:
                assert packet.bridge == lan.index[BRIDGE]
                assert packet.input == lan.index.get(server, 0)
                assert (lease.family, lease.mac) == (6, lan.two.mac)
                assert (lease.seconds, lease.kind) == (7200, "ack")
                assert lease.address is not None
                assert lease.address.packed in message
                low, high = (IPv6Address(f"{SUBNET6}{n}") for n in ("50", "99"))
                assert low <= IPv6Address(str(lease.address)) <= high


def learned_from(
    lan: Lan, socket: NflogSocket, sender: Wire, frame: bytes
) -> list[tuple[Packet, Lease]]:
    with frames.one_processor():
        sender.send(frame)
        return learned(lan, socket)


class TestForgeries:
    def test_answer_of_a_station_is_taken_for_a_servers(self, lan: Lan) -> None:
        """Nothing tells them apart; the tests below are about something."""
        with lan.learning() as socket:
            for to in (frames.BROADCAST, lan.one.mac):
                frame = answer(lan.one.mac, SUBNET + "66", lan.station.mac, to)
                ((packet, lease),) = learned_from(lan, socket, lan.station, frame)
                assert lease.mac == lan.one.mac
                assert packet.bridge == lan.index[BRIDGE]

    def test_guest_teaches_nothing(self, lan: Lan) -> None:
        """Not even one that is trusted, whose answers get through."""
        for to in (frames.BROADCAST, lan.one.mac, lan.two.mac):
            for mac in (lan.one.mac, lan.two.mac):
                with lan.learning() as socket:
                    for guest in (lan.two, lan.trusted):
                        frame = answer(mac, SUBNET + "66", guest.mac, to)
                        assert learned_from(lan, socket, guest, frame) == []

    def test_answer_for_another_client_is_not_logged(self, lan: Lan) -> None:
        with lan.learning() as socket:
            for mac in (TRUSTED_MAC, "02:00:00:00:00:77"):
                frame = answer(mac, SUBNET + "66", lan.station.mac)
                assert learned_from(lan, socket, lan.station, frame) == []

    def test_what_is_sent_to_the_guests_own_address_teaches_no_other(
        self, lan: Lan
    ) -> None:
        """As a far away friend of the guest's can."""
        body = bootp(ACK, lan.one.mac, SUBNET + "66", options=b"\x33\x04\0\0\x0e\x10")
        packet = frames.ipv4("198.51.100.1", SUBNET + "50", 17,
                             frames.udp(67, 68, body))  # fmt: skip
        frame = frames.ethernet(lan.station.mac, lan.one.mac, IPV4, packet)
        with lan.learning() as socket:
            assert learned_from(lan, socket, lan.station, frame) == []
            lan.station.send(frame)
            assert next(logged(socket)).payload == packet  # it was logged

    def test_flood_of_one_port_leaves_the_other_heard(self, lan: Lan) -> None:
        with lan.learning() as socket:
            frame = answer(lan.one.mac, SUBNET + "66", lan.station.mac, lan.one.mac)
            begin = time.monotonic()
            for _ in range(2000):
                lan.station.send(frame)
            seconds = time.monotonic() - begin
            found = learned_from(lan, socket, lan.station, frame)
            assert 20 <= len(found) <= 21 + 10 * (seconds + 1)
            assert {lease.mac for _, lease in found} == {lan.one.mac}


def test_rules_are_as_nft_shows_them(lan: Lan) -> None:
    """Nothing of the text got lost, and the chains are at the hooks."""
    with lan.learning() as socket:
        shown = lan.host.run("nft", "list", "table", "bridge", "tapster").stdout
        log = f'log prefix "{leases.LOG_PREFIX}" group {socket.group}'
        assert shown.count(log) == 2
        # -200 is what nft calls "filter" in the bridge family.
        for hook in ("prerouting", "output"):
            assert shown.count(f"type filter hook {hook} priority ") == 1
