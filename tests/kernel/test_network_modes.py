# SPDX-License-Identifier: LGPL-2.1-or-later
"""What networks of each mode and scope let their guests reach, and as whom.

What must not arrive is never waited for: something that does is sent after it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import IPv4Network, ip_address, ip_network
from itertools import permutations
from pathlib import Path

import pytest

from lab import OTHER, USER, Daemon, Lab, Space, until
from support import frames
from support.guest import Guest
from support.host import (
    RUNTIME,
    Watcher,
    attach,
    broker,
    inside,
    links,
    nics,
    port,
    ruleset,
    sysctl,
    tool,
    until_nothing_is_left,
)
from support.managing import by, network
from support.pump import CARD, FAMILIES, TCP, UDP, V4, V6, Stack, bound, connected
from support.serving import serving
from tapster import errors
from tapster.client import manage

DENIED = 23009  # a user who may use no network but the default one
HOST: dict[int, str] = {V4: "192.0.2.2", V6: "2001:db8::2"}
pytestmark = pytest.mark.usefixtures("nothing_left")

# Addresses of the world: the host's own network, somebody's private one, and
# what everybody can have.
NEAR: dict[int, str] = {V4: "192.0.2.1", V6: "2001:db8::1"}
PRIVATE: dict[int, str] = {V4: "10.222.0.1", V6: "fd99::5"}
PUBLIC: dict[int, str] = {V4: "203.0.113.5", V6: "2001:db8:ffff::5"}
CONFIG = f"""
[broker]
network_grace_seconds = 0.2

[networks.closed]
mode = "isolated"

[networks.office]
scope = "shared"
[networks.lounge]
scope = "shared"
isolation = false

[networks.tiny]
scope = "shared"
subnet = "10.201.0.0/29"
subnet6 = "fd42:1:2:3::/64"
[networks.tiny.reservations]
one = {{ ipv4 = "10.201.0.4", ipv6 = "fd42:1:2:3::44", mac = "02:00:00:00:44:44" }}
two = {{ ipv4 = "10.201.0.5", user = {OTHER} }}

[networks.internet]
egress = "internet"
[networks.mute]
egress = "none"
[networks.door]
host_access = ["tcp/2222", "udp/5000-5010"]

[networks.lan]
mode = "bridge"
bridge = "br-lan"
[networks.lan.reservations]
printer = {{ mac = "02:00:00:00:55:55", user = {USER} }}

[[rules]]
users = [{DENIED}]
networks = ["lan"]
effect = "deny"
[[rules]]
networks = ["default", "closed", "office", "lounge", "tiny", "internet", "mute",
            "door", "lan"]
"""


def has(space: Space, addresses: dict[int, str]) -> None:
    """Give the far side of the uplink these addresses, too."""
    run = space.run
    run("ip", "address", "add", f"{addresses[V4]}/32", "dev", CARD)
    run("ip", "address", "add", f"{addresses[V6]}/128", "dev", CARD, "nodad")


@pytest.fixture(scope="module")
def daemon(lab: Lab) -> Iterator[Daemon]:
    has(lab.world, PRIVATE)
    has(lab.world, PUBLIC)
    with serving(lab, CONFIG) as running:
        yield running


@pytest.fixture
def held() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def guest(lab: Lab, held: ExitStack, uid: int = USER, **what: str) -> Stack:
    """A guest for the rest of the test."""
    nic = held.enter_context(attach(lab, uid, vnet_hdr=False, **what))
    return held.enter_context(Stack(nic))


def send(sock: socket.socket, address: str, number: int, text: str) -> None:
    """A datagram. An ICMP error of one before is no answer to this one."""
    for _ in range(9):
        try:
            sock.sendto(text.encode(), (address, number))
        except OSError as err:
            if err.errno not in (
                errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.EACCES, errno.EPERM,
                errno.ENETUNREACH,
            ):  # fmt: skip
                raise
        else:
            return
    raise AssertionError(f"nothing can be sent to {address}")


def heard(sock: socket.socket, last: str = "last") -> list[str]:
    """All datagrams until the one that is known to arrive."""
    found: list[str] = []
    while not found or found[-1] != last:
        found.append(sock.recv(100).decode())
    return found[:-1]


def reached(
    sender: Stack, space: Space, wanted: dict[int, list[str]], last: dict[int, str],
    number: int = 9,
) -> list[str]:  # fmt: skip
    """Those of these addresses of a space that a guest's datagrams reach; at
    `last` they do for certain."""
    found = []
    for family in FAMILIES:
        with bound(space, UDP, number, family) as receiver:
            sock = sender.bound(UDP, 0, family)
            for address in wanted[family]:
                send(sock, address, number, address)
            send(sock, last[family], number, "last")
            found += heard(receiver)
    return found


class TestIsolated:
    def test_an_isolated_network_tells_its_guests_no_way_out(
        self, lab: Lab, daemon: Daemon, held: ExitStack
    ) -> None:
        nic = held.enter_context(
            attach(lab, USER, network="closed", name="a", vnet_hdr=False)
        )
        by_hand = Guest(nic)
        offer = by_hand.dhcp(1)
        assert offer[53] == b"\x02" and offer[0] == ip_address(str(nic.ipv4)).packed
        assert 3 not in offer  # option "router"
        assert offer[6] == ip_address(by_hand.gateway).packed
        with Stack(nic, slaac=True) as stack:
            space = stack.space

            def own() -> set[str]:
                (card,) = tool(space, "ip", "-j", "-6", "address", "show", CARD)
                return {a["local"] for a in card["addr_info"] if a["scope"] == "global"}

            until("a router advertisement", own)
            assert own() == {nic.ipv6}
            routes = tool(space, "ip", "-j", "-6", "route")
            assert not [r for r in routes if r["dst"] == "default"]

    def test_a_nat_network_tells_its_guests_a_way_out(
        self, lab: Lab, daemon: Daemon, held: ExitStack
    ) -> None:
        """So that the test above can fail."""
        nic = held.enter_context(attach(lab, USER, vnet_hdr=False))
        by_hand = Guest(nic)
        assert by_hand.dhcp(1)[3] == ip_address(by_hand.gateway).packed
        stack = held.enter_context(Stack(nic, slaac=True))

        def ways() -> list[str]:
            routes = tool(stack.space, "ip", "-j", "-6", "route")
            return [r["gateway"] for r in routes if r["dst"] == "default"]

        until("a router advertisement", ways)
        assert ways() == ["fe80::1"]

    def test_an_isolated_network_has_no_way_out_and_none_in(
        self, lab: Lab, daemon: Daemon, held: ExitStack
    ) -> None:
        """Also for guests that help themselves to a route. The host is not even
        made to forward."""
        closed = guest(lab, held, network="closed")
        assert sysctl(lab.host, "ipv4/ip_forward") == "0"
        other = guest(lab, held)  # forwards, as a neighbour may
        assert sysctl(lab.host, "ipv4/ip_forward") == "1"
        for family in FAMILIES:
            receiver = held.enter_context(bound(lab.world, UDP, 9, family))
            for address in (NEAR[family], PRIVATE[family], PUBLIC[family]):
                send(closed.bound(UDP, 0, family), address, 9, "closed")
            closed.settle()
            send(other.bound(UDP, 0, family), NEAR[family], 9, "last")
            assert heard(receiver) == []
            length = 24 if family == V4 else 64
            address = f"{closed.address(family)}/{length}"
            subnet = str(ip_network(address, strict=False))
            lab.world.run("ip", "route", "add", subnet, "via", HOST[family])
            receiver = closed.bound(UDP, 9, family)
            with bound(lab.world, UDP, 0, family) as sender:
                send(sender, closed.address(family), 9, "from outside")
            with bound(lab.host, UDP, 0, family) as sender:
                send(sender, closed.address(family), 9, "last")
            assert heard(receiver) == []
            lab.world.run("ip", "route", "del", subnet)

    def test_isolated_guests_reach_each_other_and_the_gateway_by_name(
        self, lab: Lab, daemon: Daemon, held: ExitStack
    ) -> None:
        one = held.enter_context(
            attach(lab, USER, network="closed", name="a", vnet_hdr=False)
        )
        two = guest(lab, held, network="closed", name="b")
        by_hand = Guest(one)
        by_hand.find_router()
        assert by_hand.pings(by_hand.gateway)
        name = "b.closed.internal"
        address = ip_address(str(two.nic.ipv4)).packed
        until("its name", lambda: by_hand.resolve(name)[1] == [address])
        stack = held.enter_context(Stack(one))
        receiver = two.bound(UDP, 9)
        send(stack.bound(UDP), str(two.nic.ipv4), 9, "last")
        assert heard(receiver) == []


class TestOutsideNames:
    @pytest.mark.parametrize("name", ["closed", "mute"])
    def test_outside_names_are_not_asked_for(
        self, lab: Lab, daemon: Daemon, held: ExitStack, name: str
    ) -> None:
        """What is asked for outside leads there, too."""
        resolver = held.enter_context(bound(lab.world, UDP, 53, V4, NEAR[V4]))
        nic = held.enter_context(attach(lab, USER, network=name, vnet_hdr=False))
        shut = Guest(nic)
        shut.find_router()
        code, found = shut.resolve("secret.example.org")
        assert code != 0 and found == []
        open_ = held.enter_context(attach(lab, USER, vnet_hdr=False))
        other = Guest(open_)
        other.find_router()
        query = b"\x12\x34\x01\x00\x00\x01" + bytes(6) + b"\x05asked\x07example\x03org"
        other.send(other.gateway, 17, frames.udp(40000, 53, query + b"\0\0\1\0\1"))
        asked = resolver.recv(500)
        assert b"\x05asked" in asked  # and nothing before


class TestShared:
    def test_a_shared_network_is_one_bridge_for_all_users(
        self, lab: Lab, daemon: Daemon, held: ExitStack
    ) -> None:
        one = held.enter_context(attach(lab, USER, network="office", name="a"))
        two = held.enter_context(attach(lab, OTHER, network="office", name="b"))
        assert one.bridge == two.bridge
        assert links(lab.host, "tapbr") == [one.bridge]
        assert ip_address(str(two.ipv4)) in ip_network(f"{one.ipv4}/24", strict=False)
        told = network(lab, USER, "office")
        assert (told["scope"], told["uid"], told["nics"]) == ("shared", None, 1)
        assert network(lab, 0, "office")["nics"] == 2

    @pytest.mark.parametrize(("name", "apart"), [("office", True), ("lounge", False)])
    def test_guests_of_a_shared_network_meet_only_without_isolation(
        self, lab: Lab, daemon: Daemon, held: ExitStack, name: str, apart: bool
    ) -> None:
        one = guest(lab, held, network=name, name="a")
        two = guest(lab, held, OTHER, network=name, name="b")
        mine = guest(lab, held, USER, network=name, name="c")
        for stack in (one, two, mine):
            assert port(lab.host, stack.nic.ifname)["isolated"] is apart
        for sender, receiver in ((one, two), (two, one), (one, mine)):
            # A neighbour's MAC that is known is no way to it either, nor is the
            # gateway as a detour.
            for family in FAMILIES:
                there = [receiver.address(family), "lladdr", str(receiver.nic.mac)]
                sender.space.run("ip", "neigh", "replace", *there, "dev", CARD)
                inbox = held.enter_context(
                    bound(receiver.space, UDP, 9, family, receiver.address(family))
                )
                sock = sender.bound(UDP, 0, family)
                send(sock, receiver.address(family), 9, "direct")
                if apart:
                    sender.settle()
                    with bound(lab.host, UDP, 0, family) as host:
                        send(host, receiver.address(family), 9, "last")
                    assert heard(inbox) == []
                else:
                    assert inbox.recv(100) == b"direct"
                inbox.close()
        if apart:
            gateway = one.gateway()
            one.space.run("ip", "route", "add", str(two.nic.ipv4), "via", gateway)
            inbox = two.bound(UDP, 9)
            send(one.bound(UDP), str(two.nic.ipv4), 9, "through the gateway")
            one.settle()
            with bound(lab.host, UDP) as host:
                send(host, str(two.nic.ipv4), 9, "last")
            assert heard(inbox) == []

    def test_names_of_a_shared_network_are_unique_across_users(
        self, lab: Lab, daemon: Daemon, held: ExitStack
    ) -> None:
        first = attach(lab, USER, network="office", name="web")
        with first, pytest.raises(errors.NameInUse, match="web is attached already"):
            attach(lab, OTHER, network="office", name="WEB")
        with attach(lab, OTHER, network="office", name="web") as theirs:
            # The name is the other user's now; what is given with it is not.
            assert theirs.ipv4 != first.ipv4 and theirs.mac != first.mac
        with attach(lab, USER, network="office", name="web") as again:
            assert (again.mac, again.ipv4, again.ipv6) == (
                first.mac, first.ipv4, first.ipv6,
            )  # fmt: skip
        held.enter_context(attach(lab, USER, network="lounge", name="web"))
        held.enter_context(attach(lab, OTHER, name="web"))
        held.enter_context(attach(lab, USER, name="web"))  # other networks


class TestBridge:
    def test_a_missing_bridge_is_told_to_those_who_may_use_it(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        with pytest.raises(errors.BrokerFailure) as raised:
            attach(lab, USER, network="lan")
        assert str(raised.value) == "the bridge of network lan is not there"
        told = network(lab, USER, "lan")
        assert (told["state"], told["notes"]) == ("down", ["there is no bridge br-lan"])

    def test_a_bridge_is_told_to_others_as_what_does_not_exist(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        def answers() -> set[tuple[str, str | None]]:
            found = set()
            for name in ("lan", "nowhere"):
                with pytest.raises(errors.NotAuthorized) as raised:
                    attach(lab, DENIED, network=name)
                err = raised.value
                found.add((str(err).replace(name, "*"), err.hint))
            return found

        missing = answers()
        assert len(missing) == 1
        lab.host.run("ip", "link", "add", "br-lan", "up", "type", "bridge")
        try:
            assert answers() == missing
        finally:
            lab.host.run("ip", "link", "del", "br-lan")
        assert "lan" not in {n["name"] for n in by(lab, DENIED, manage.list_networks)}

    def test_a_bridge_is_left_as_it_was_found(self, lab: Lab, daemon: Daemon) -> None:
        """The bridge's MAC stays set to what it was, so that it does not take over that
        of a port: that alone is left."""
        host = lab.host
        host.run("ip", "link", "add", "br-lan", "mtu", "1400", "type", "bridge",
                 "ageing_time", "12345")  # fmt: skip
        host.run("ip", "link", "add", "lan0", "mtu", "1400", "type", "veth",
                 "peer", "lan1", "mtu", "1400")  # fmt: skip
        host.run("ip", "link", "set", "lan1", "up")
        host.run("ip", "link", "set", "lan0", "master", "br-lan", "up")
        host.run("ip", "link", "set", "br-lan", "up")
        host.run("ip", "address", "add", "198.51.100.1/24", "dev", "br-lan")

        def state() -> str:
            names = ("br-lan", "lan0")
            found = [
                [tool(host, "ip", "-j", "-d", "address", "show", n) for n in names],
                tool(host, "bridge", "-j", "-d", "link"),
                tool(host, "bridge", "-j", "fdb"),
                tool(host, "ip", "-j", "route"),
                ruleset(host),
                sysctl(host, "ipv4/ip_forward"),
                sysctl(host, "ipv4/conf/br-lan/route_localnet"),
            ]
            text = json.dumps(found, sort_keys=True, indent=1)
            # What runs by itself, and states that take the kernel a moment.
            return re.sub(r'"[a-z_]*(timer|lft)[a-z_]*": [\d.]+,?', "", text)

        def set_by() -> str:
            return host.run("cat", "/sys/class/net/br-lan/addr_assign_type").stdout

        try:
            until("the bridge", lambda: "tentative" not in state())
            before, mac = state(), set_by()
            with (
                attach(lab, USER, network="lan") as one,
                attach(lab, OTHER, network="lan") as two,
            ):
                assert (one.bridge, one.network, one.mtu) == ("br-lan", "lan", 1400)
                assert one.ipv4 is None and two.mac != one.mac
                assert network(lab, USER, "lan")["state"] == "up"
                assert state() != before
            until_nothing_is_left(lab)
            # The tables stay as long as the broker runs: they are none of its.
            assert state() == before
            assert (mac.strip(), set_by().strip()) == ("1", "3")
        finally:
            host.run("ip", "link", "del", "lan0")
            host.run("ip", "link", "del", "br-lan")


class TestIdentity:
    def test_every_guest_has_a_mac_of_its_own(
        self, lab: Lab, daemon: Daemon, held: ExitStack
    ) -> None:
        def given() -> list[str]:
            with ExitStack() as nics:
                made = [
                    nics.enter_context(attach(lab, uid, network=net, name=name))
                    for net in ("default", "closed", "internet")
                    for uid in (USER, OTHER)
                    for name in ("web", "db")
                ]
                return [str(nic.mac) for nic in made]  # fmt: skip

        macs = given()
        assert len(set(macs)) == len(macs) == 12
        for mac in macs:
            assert int(mac[:2], 16) & 3 == 2
            assert not mac.startswith(("52:54:00", "fe"))
        assert given() == macs

    def test_a_mac_that_another_guest_has_is_passed_over(
        self, lab: Lab, daemon: Daemon, held: ExitStack
    ) -> None:
        """On another network, too: guests may be moved, and bridges joined."""
        with attach(lab, USER, name="web") as nic:
            mac = str(nic.mac)
        held.enter_context(attach(lab, OTHER, network="closed", mac=mac))
        with attach(lab, USER, name="web") as nic:
            assert nic.mac != mac
        # Who asks for one by himself gets it, where it is free on its bridge.
        with attach(lab, USER, mac=mac) as nic:
            assert nic.mac == mac
            with pytest.raises(errors.MacInUse):
                attach(lab, USER, mac=mac)

    def test_what_is_reserved_is_given_to_the_name(
        self, lab: Lab, daemon: Daemon, held: ExitStack
    ) -> None:
        nic = held.enter_context(
            attach(lab, USER, network="tiny", name="one", vnet_hdr=False)
        )
        assert (nic.ipv4, nic.ipv6, nic.mac) == (
            "10.201.0.4", "fd42:1:2:3::44", "02:00:00:00:44:44",
        )  # fmt: skip
        by_hand = Guest(nic, 29)
        offer = by_hand.dhcp(1)
        assert offer[0] == ip_address("10.201.0.4").packed
        assert offer[1] == ip_address("255.255.255.248").packed
        # It is one user's name, and another's guest of that name is another.
        with attach(lab, USER, network="tiny", name="two") as mine:
            assert mine.ipv4 != "10.201.0.5"
        with attach(lab, OTHER, network="tiny", name="two") as theirs:
            assert theirs.ipv4 == "10.201.0.5"

    @pytest.mark.parametrize(
        ("where", "name", "mac"),
        [({"network": "tiny"}, "one", "02:00:00:00:44:44"),
         ({"network": "lan"}, "printer", "02:00:00:00:55:55"),
         ({"bridge": "br-lan"}, "printer", "02:00:00:00:55:55")],
        ids=["ours", "lan", "bridge"],
    )  # fmt: skip
    def test_a_reserved_mac_is_given_to_nobody_else(
        self, lab: Lab, daemon: Daemon, held: ExitStack,
        where: dict[str, str], name: str, mac: str,
    ) -> None:  # fmt: skip
        """Nor, with it, the address that a LAN's server keeps for it."""
        run = lab.host.run
        run("ip", "link", "add", "br-lan", "up", "type", "bridge")
        held.callback(run, "ip", "link", "del", "br-lan")
        lab.bridge_conf("allow br-lan\n")
        held.callback(lab.bridge_conf, "")
        others = ["other", "printer"] if name == "printer" else ["other"]
        for other in others:
            with pytest.raises(errors.MacInUse, match="is reserved"):
                attach(lab, OTHER, name=other, mac=mac, **where)
        with attach(lab, USER, name=name, mac=mac, **where) as nic:
            assert nic.mac == mac
        until("its end", lambda: nics(lab) == [])
        with broker(lab, OTHER) as wire:  # one whose MAC is what it shows
            what = {"for_parent": True, "vnet_hdr": False, **where}
            _, (tap,) = wire.call("Attach", what, fds=True)
        held.callback(os.close, tap)
        frames.Tap(tap, mac).send(frames.arp(mac, mac, "0.0.0.0", "10.201.0.1"))
        until("an answer", lambda: nics(lab)[0]["state"] != "waiting")
        assert "reserved" in str(nics(lab)[0]["reason"])

    def test_a_small_subnet_runs_out_of_addresses(
        self, lab: Lab, daemon: Daemon, held: ExitStack
    ) -> None:
        """Three of eight addresses are nobody's, and two are reserved."""
        given = [
            held.enter_context(attach(lab, uid, network="tiny", name=name)).ipv4
            for uid, name in ((USER, "a"), (OTHER, "b"), (USER, "c"))
        ]
        assert set(given) == {"10.201.0.2", "10.201.0.3", "10.201.0.6"}
        for uid in (USER, OTHER):
            with pytest.raises(errors.AddressesExhausted) as raised:
                attach(lab, uid, network="tiny", name="d")
            assert str(raised.value) == "network tiny has no free address"
            assert raised.value.hint == "end a guest, or ask for a larger subnet"
        with attach(lab, OTHER, network="tiny", name="two") as nic:
            assert nic.ipv4 == "10.201.0.5"

    def test_dns_answers_names_and_addresses(
        self, lab: Lab, daemon: Daemon, held: ExitStack
    ) -> None:
        nic = held.enter_context(attach(lab, USER, name="a", vnet_hdr=False))
        web = held.enter_context(attach(lab, USER, name="web"))
        asking = Guest(nic)
        asking.find_router()
        v4, v6 = ip_address(str(web.ipv4)), ip_address(str(web.ipv6))
        for name in ("web", "web.default.internal"):
            until("its name", lambda n=name: asking.resolve(n)[1] == [v4.packed])
            assert asking.resolve(name, 28) == (0, [v6.packed])
        labels = (b"web", b"default", b"internal", b"")
        wanted = b"".join(bytes((len(label),)) + label for label in labels)
        for address in (v4, v6):
            assert asking.resolve(address.reverse_pointer, 12) == (0, [wanted])
        web.close()
        until("no name", lambda: asking.resolve("web.default.internal")[0] == 3)
        assert asking.resolve(v4.reverse_pointer, 12) == (3, [])


class TestSubnets:
    def test_a_subnet_is_kept_in_the_state_directory(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        with attach(lab, USER, network="office", name="kept") as nic:
            subnet = ip_network(f"{nic.ipv4}/24", strict=False)
            told = network(lab, USER, "office")
            assert told["subnet4"] == str(subnet) and told["gateway4"] == str(subnet[1])
            path = Path(inside(lab, "/run/state/networks/office.shared.json"))
            data = json.loads(path.read_text())
            assert data["subnet4"] == str(subnet)
            assert data["guests"][f"kept.{USER}"] == nic.ipv4
            assert path.stat().st_mode & 0o077 == 0

    def test_a_fixed_subnet_that_the_host_uses_is_refused(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        for text in ("10.201.0.0/30", "10.201.0.0/16", "10.201.0.7/32"):
            lab.host.run("ip", "route", "add", text, "via", "192.0.2.1")
            try:
                with pytest.raises(errors.BrokerFailure) as raised:
                    attach(lab, USER, network="tiny")
                assert "its subnet is in use" in str(raised.value)
                rival = str(IPv4Network(text))
                assert f"10.201.0.0/29 overlaps {rival}" in str(raised.value.hint)
            finally:
                lab.host.run("ip", "route", "del", text)
        with attach(lab, USER, network="tiny", name="one") as nic:
            assert nic.ipv4 == "10.201.0.4"

    @pytest.mark.parametrize("how", ["address", "route"])
    def test_a_later_collision_is_told_until_it_is_gone(
        self, lab: Lab, daemon: Daemon, how: str
    ) -> None:
        host = lab.host
        host.run("ip", "link", "add", "vpn0", "up", "type", "veth", "peer", "vpn1")
        try:
            with (
                attach(lab, USER) as nic,
                attach(lab, OTHER),
                Watcher(lab, USER) as mine,
                Watcher(lab, OTHER) as theirs,
            ):
                subnet = str(ip_network(f"{nic.ipv4}/24", strict=False))
                address = f"{ip_network(subnet)[77]}/32"
                what = address if how == "address" else address.replace("/32", "")
                host.run("ip", how, "add", what, "dev", "vpn0")
                event = mine.wait("network")
                assert event["network"] == "default" and event["bridge"] == nic.bridge
                assert f"{subnet} is now also {address}" in event["reason"]
                (note,) = network(lab, USER, "default")["notes"]
                assert f"{subnet} is now also {address}" in note
                assert network(lab, OTHER, "default")["notes"] == []
                findings = by(lab, USER, manage.diagnose)
                (found,) = (f for f in findings if f["code"] == "subnet-collision")
                assert nic.bridge in found["message"] and address in found["message"]
                host.run("ip", how, "del", what, "dev", "vpn0")
                event = mine.wait("network")
                assert "is its own again" in event["reason"]
                assert network(lab, USER, "default")["notes"] == []
                codes = {f["code"] for f in by(lab, USER, manage.diagnose)}
                assert "subnet-collision" not in codes
                attach(lab, OTHER, name="last").close()
                assert theirs.wait("attached")["name"] == "last"
                assert "network" not in {e["event"] for e in theirs.seen}
        finally:
            host.run("ip", "link", "del", "vpn0")


def addresses(*kinds: dict[int, str]) -> dict[int, list[str]]:
    return {family: [kind[family] for kind in kinds] for family in FAMILIES}


class TestEgress:
    def test_egress_any_reaches_everything(
        self, lab: Lab, daemon: Daemon, held: ExitStack
    ) -> None:
        everywhere = addresses(NEAR, PRIVATE, PUBLIC)
        found = reached(guest(lab, held), lab.world, everywhere, PUBLIC)
        assert sorted(found) == sorted(everywhere[V4] + everywhere[V6])

    def test_egress_internet_reaches_nothing_private_or_of_the_host(
        self, lab: Lab, daemon: Daemon, held: ExitStack
    ) -> None:
        sender = guest(lab, held, network="internet")
        closed = addresses(NEAR, PRIVATE)
        # The host's own networks are told to nftables a moment after it came up.
        until("the host's networks", lambda: not reached(
            sender, lab.world, closed, PUBLIC))  # fmt: skip

    def test_egress_internet_closes_a_network_that_the_host_gets_later(
        self, lab: Lab, daemon: Daemon, held: ExitStack
    ) -> None:
        sender = guest(lab, held, network="internet")
        asked = addresses(PUBLIC, PUBLIC)
        last: dict[int, str] = {V4: "203.0.114.5", V6: "2001:db8:fffe::5"}
        has(lab.world, last)
        assert len(reached(sender, lab.world, asked, last)) == 4
        lab.host.run("ip", "route", "add", "203.0.113.0/24", "via", NEAR[V4], "dev",
                     CARD)  # fmt: skip
        try:
            until("the host's networks", lambda: PUBLIC[V4] not in reached(
                sender, lab.world, asked, last))  # fmt: skip
        finally:
            lab.host.run("ip", "route", "del", "203.0.113.0/24")

    def test_egress_none_reaches_nothing(
        self, lab: Lab, daemon: Daemon, held: ExitStack
    ) -> None:
        mute, other = guest(lab, held, network="mute"), guest(lab, held)
        for family in FAMILIES:
            receiver = held.enter_context(bound(lab.world, UDP, 9, family))
            sock = mute.bound(UDP, 0, family)
            for kind in (NEAR, PRIVATE, PUBLIC):
                send(sock, kind[family], 9, "mute")
            mute.settle()
            send(other.bound(UDP, 0, family), PUBLIC[family], 9, "last")
            assert heard(receiver) == []


class TestHost:
    def test_the_host_has_only_its_services_for_guests(
        self, lab: Lab, daemon: Daemon, held: ExitStack
    ) -> None:
        """Neither at the gateway's address nor at another; and its other
        networks' gateways are others."""
        other = guest(lab, held, network="door")
        for name in ("default", "closed", "internet", "mute", "office"):
            sender = guest(lab, held, network=name)
            for family in FAMILIES:
                receiver = held.enter_context(bound(lab.host, UDP, 5000, family))
                sock = sender.bound(UDP, 0, family)
                for address in (sender.gateway(family), HOST[family],
                                other.gateway(family)):  # fmt: skip
                    send(sock, address, 5000, name)
                sender.settle()
                send(other.bound(UDP, 0, family), other.gateway(family), 5000, "last")
                assert heard(receiver) == []
                receiver.close()
            sender.close()
            sender.nic.close()

    @pytest.mark.parametrize("family", FAMILIES, ids=["ipv4", "ipv6"])
    def test_host_access_opens_its_ports_at_the_gateway(
        self, lab: Lab, daemon: Daemon, held: ExitStack, family: int
    ) -> None:
        door = guest(lab, held, network="door")
        mine = guest(lab, held)
        numbers = (4999, 5000, 5005, 5010, 5011)
        inboxes = [
            held.enter_context(bound(lab.host, UDP, number, family))
            for number in numbers
        ]
        sock = door.bound(UDP, 0, family)
        for number in numbers:
            for address in (HOST[family], mine.gateway(family)):
                send(sock, address, number, "another address")
            send(sock, door.gateway(family), number, "gateway")
        door.settle()
        found = []
        for number, inbox in zip(numbers, inboxes, strict=True):
            # The host itself reaches all of them; what came before has arrived.
            with bound(lab.host, UDP, 0, family) as host:
                send(host, HOST[family], number, "last")
            found.append(heard(inbox))
        assert found == [[], ["gateway"], ["gateway"], ["gateway"], []]
        server = held.enter_context(bound(lab.host, TCP, 2222, family))
        closed = held.enter_context(bound(lab.host, TCP, 2223, family))
        with connected(door.space, door.gateway(family), 2222):
            server.accept()[0].close()
        for address, number in ((door.gateway(family), 2223), (HOST[family], 2222)):
            with pytest.raises(OSError, match="timed out"):
                connected(door.space, address, number, 0.15)
        closed.setblocking(False)
        with pytest.raises(BlockingIOError):
            closed.accept()

    def test_guests_do_not_reach_the_hosts_loopback(
        self, lab: Lab, daemon: Daemon, held: ExitStack
    ) -> None:
        """Though its packets may leave for a bridge of ours, for forwarded
        ports (route_localnet)."""
        door = held.enter_context(
            attach(lab, USER, network="door", vnet_hdr=False)
        )  # fmt: skip
        assert sysctl(lab.host, f"ipv4/conf/{door.bridge}/route_localnet") == "1"
        by_hand = Guest(door)
        by_hand.find_router()
        receiver = held.enter_context(bound(lab.host, UDP, 5000))
        for address in ("127.0.0.1", "127.1.2.3"):
            by_hand.send(address, 17, frames.udp(40000, 5000, b"loopback"))
        by_hand.send(by_hand.gateway, 17, frames.udp(40000, 5000, b"last"))
        assert heard(receiver) == []


def test_guests_of_different_users_or_networks_are_apart(
    lab: Lab, daemon: Daemon, held: ExitStack
) -> None:
    """In every combination, by every address that could lead there."""
    everyone = [
        guest(lab, held, uid, network=name, name=f"g{uid}")
        for uid, name in (
            (USER, "default"), (OTHER, "default"), (USER, "closed"),
            (OTHER, "closed"), (USER, "office"), (OTHER, "office"),
            (USER, "mute"), (OTHER, "door"),
        )
    ]  # fmt: skip
    for family in FAMILIES:
        inboxes = [stack.bound(UDP, 9, family) for stack in everyone]
        outboxes = [stack.bound(UDP, 0, family) for stack in everyone]
        for one, other in permutations(range(len(everyone)), 2):
            send(outboxes[one], everyone[other].address(family), 9, f"from {one}")
        for stack in everyone:
            stack.settle()
        with bound(lab.host, UDP, 0, family) as host:
            for stack, inbox in zip(everyone, inboxes, strict=True):
                send(host, stack.address(family), 9, "last")
                assert heard(inbox) == []


class TestTeardown:
    def test_nothing_is_left_of_the_last_network(
        self, lab: Lab, daemon: Daemon, held: ExitStack
    ) -> None:
        def state() -> str:
            found = [
                tool(lab.host, "ip", "-j", "address"),
                tool(lab.host, "ip", "-j", "route", "show", "table", "all"),
                lab.host.run("sh", "-c", "cd /proc/sys/net; grep -r . ipv4/conf "
                             "ipv6/conf ipv4/ip_forward bridge 2>/dev/null | "
                             "grep -v stable_secret | sort").stdout,
                ruleset(lab.host),
                sorted(lab.host.processes()),
            ]  # fmt: skip
            return re.sub(r'"[a-z_]*lft": \d+,?', "", json.dumps(found, indent=1))

        before = state()
        for name in ("default", "closed", "office", "internet", "mute", "door", "tiny"):
            held.enter_context(attach(lab, USER, network=name))
        assert state() != before
        assert len(links(lab.host, "tapbr")) == 7
        held.close()
        until_nothing_is_left(lab, networks=True)
        until("all as before", lambda: state() == before)
        assert not Path(inside(lab, f"{RUNTIME}/sysctl.json")).exists()
