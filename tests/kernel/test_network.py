# SPDX-License-Identifier: LGPL-2.1-or-later
"""A user's own network: addresses, names, the way out, and its end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network
from pathlib import Path

import pytest

from lab import OTHER, USER, Daemon, Lab, until
from support import frames
from support.guest import Guest
from support.host import (
    RUNTIME,
    attach,
    commands,
    dnsmasqs,
    elements,
    files,
    inside,
    link,
    links,
    sysctl,
    tool,
    until_nothing_is_left,
)
from support.serving import serving
from tapster import errors
from tapster.networks.addresses import POOLS

GRACE = 0.3  # seconds

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture(scope="module")
def daemon(lab: Lab) -> Iterator[Daemon]:
    with serving(lab, f"[broker]\nnetwork_grace_seconds = {GRACE}\n") as running:
        yield running


class TestAddresses:
    def test_one_that_cannot_be_kept_is_given_all_the_same(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        """A full disk, say. With the next that is new, all are kept."""
        kept = inside(lab, "/run/state/networks")
        with attach(lab, USER, name="first"):
            os.rename(kept, f"{kept}.away")
            try:
                with attach(lab, USER, name="unkept") as nic:
                    address = nic.ipv4
                assert address is not None
                assert f"{address} is not kept" in daemon.log
            finally:
                os.rename(f"{kept}.away", kept)
            with attach(lab, USER, name="after"):
                text = Path(kept, f"default-{USER}.json").read_text()
        assert address in text

    def test_dhcp_gives_the_address_that_was_told(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        with attach(lab, USER, name="web", vnet_hdr=False) as nic:
            guest = Guest(nic)
            offer = guest.dhcp(1)
            assert offer[53] == b"\x02"
            assert str(IPv4Address(offer[0])) == nic.ipv4
            answer = guest.dhcp(3, nic.ipv4)
            assert answer[53] == b"\x05"
            assert str(IPv4Address(answer[0])) == nic.ipv4
            assert answer[1] == IPv4Address("255.255.255.0").packed
            assert answer[3] == answer[6] == IPv4Address(guest.gateway).packed
            assert answer[15] == b"default.internal"
            assert int.from_bytes(answer[26], "big") == nic.mtu

    def test_dhcp_gives_no_address_of_another_guest(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        with (
            attach(lab, USER, name="a", vnet_hdr=False) as one,
            attach(lab, USER, name="b", vnet_hdr=False) as two,
        ):
            guest = Guest(one)
            guest.dhcp(1)
            answer = guest.dhcp(3, two.ipv4)
            assert answer[53] == b"\x06"  # DHCPNAK

    def test_are_the_same_next_time(self, lab: Lab, daemon: Daemon) -> None:
        def given() -> list[tuple[str | None, ...]]:
            with (
                attach(lab, USER, name="web") as one,
                attach(lab, USER, name="db") as two,
                attach(lab, OTHER, name="web") as three,
            ):
                return [(n.mac, n.ipv4, n.ipv6, n.bridge) for n in (one, two, three)]

        first = given()
        assert given() == first
        until_nothing_is_left(lab, networks=True)
        assert given() == first
        until_nothing_is_left(lab, networks=True)
        assert len({n[1] for n in first}) == 3

    def test_are_those_of_the_guests_subnet(self, lab: Lab, daemon: Daemon) -> None:
        with attach(lab, USER) as nic:
            (bridge,) = tool(lab.host, "ip", "-j", "address", "show", nic.bridge)
            own = {a["local"]: a["prefixlen"] for a in bridge["addr_info"]}
            gateway = str(ip_network(f"{nic.ipv4}/24", strict=False)[1])
            assert own.pop(gateway) == 24
            assert own.pop("fe80::1") == 64
            ((address6, length),) = own.items()
            assert length == 64
            assert ip_address(str(nic.ipv6)) in ip_network(
                f"{address6}/64", strict=False
            )
            assert link(lab.host, nic.bridge)["ifalias"] == (
                f"tapster network default-{USER}"
            )


class TestNames:
    def test_of_guests_are_answered_until_they_go(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        with attach(lab, USER, name="a", vnet_hdr=False) as one:
            guest = Guest(one)
            guest.find_router()
            with attach(lab, USER, name="web") as web:
                wanted = ip_address(str(web.ipv4)).packed
                for name in ("web", "web.default.internal", "WEB"):
                    until("its name", lambda n=name: guest.resolve(n)[1] == [wanted])
                wanted6 = ip_address(str(web.ipv6)).packed
                assert guest.resolve("web.default.internal", 28)[1] == [wanted6]
            until("no name", lambda: guest.resolve("web.default.internal")[0] == 3)

    def test_of_another_users_guests_are_not(self, lab: Lab, daemon: Daemon) -> None:
        with (
            attach(lab, USER, name="a", vnet_hdr=False) as one,
            attach(lab, OTHER, name="secret", vnet_hdr=False) as other,
        ):
            guest, stranger = Guest(one), Guest(other)
            guest.find_router()
            stranger.find_router()
            until("its name", lambda: stranger.resolve("secret.default.internal")[1])
            assert guest.resolve("secret.default.internal") == (3, [])


class TestIsolation:
    def test_users_have_networks_of_their_own(self, lab: Lab, daemon: Daemon) -> None:
        with attach(lab, USER) as one, attach(lab, OTHER) as two:
            assert one.bridge != two.bridge
            subnets = {ip_network(f"{n.ipv4}/24", strict=False) for n in (one, two)}
            assert len(subnets) == 2
            assert len(dnsmasqs(lab)) == 2
            assert sorted(elements(lab.host)["bridges"]) == sorted(
                [one.bridge, two.bridge]
            )
            assert links(lab.host, "tapbr") == sorted([one.bridge, two.bridge])

    def test_guests_of_one_user_reach_each_other_and_the_outside(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        with (
            attach(lab, USER, name="a", vnet_hdr=False) as one,
            attach(lab, USER, name="b", vnet_hdr=False) as two,
        ):
            guest, other = Guest(one), Guest(two)
            guest.find_router()
            assert guest.pings(guest.gateway)
            assert guest.pings("192.0.2.1")  # the world
            guest.send(str(two.ipv4), 1, frames.echo(8, 9), other.tap.mac)
            assert any(p[9] == 1 and p[20] == 8 for p in other.packets())

    def test_guests_of_two_users_do_not(self, lab: Lab, daemon: Daemon) -> None:
        """Neither through the host, nor to the other's gateway, nor in one's own
        segment."""
        with (
            attach(lab, USER, vnet_hdr=False) as one,
            attach(lab, OTHER, vnet_hdr=False) as two,
        ):
            guest, other = Guest(one), Guest(two)
            guest.find_router()
            other.find_router()
            assert guest.pings("192.0.2.1") and other.pings("192.0.2.1")
            other.tap.drain()
            assert not guest.pings(str(two.ipv4), seconds=0.3)
            assert not guest.pings(other.gateway, seconds=0.3)
            guest.send(str(two.ipv4), 1, frames.echo(8, 9), other.tap.mac)
            assert other.pings(other.gateway)  # all that was sent before is over
            assert not any(
                frame[26:30] == ip_address(str(one.ipv4)).packed
                for frame in other.tap.frames(0.05)
            )

    def test_host_is_reached_for_nothing_but_its_services(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        with attach(lab, USER, vnet_hdr=False) as nic:
            guest = Guest(nic)
            guest.find_router()
            assert not guest.pings("192.0.2.2", seconds=0.3)  # the host's uplink
            assert guest.pings(guest.gateway)

    def test_outside_reaches_no_guest_unasked(self, lab: Lab, daemon: Daemon) -> None:
        with attach(lab, USER, vnet_hdr=False) as nic:
            guest = Guest(nic)
            guest.find_router()
            subnet = str(ip_network(f"{nic.ipv4}/24", strict=False))
            lab.world.run("ip", "route", "add", subnet, "via", "192.0.2.2")
            try:
                lab.world.run("bash", "-c", f"echo hello > /dev/udp/{nic.ipv4}/9")
                assert guest.pings("192.0.2.1")
                assert not any(
                    frame[23] == 17 and frame[36:38] == b"\0\x09"
                    for frame in guest.tap.frames(0.05)
                    if frame[12:14] == b"\x08\x00"
                )
            finally:
                lab.world.run("ip", "route", "del", subnet)

    def test_source_ports_outside_are_unprivileged(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        """What a guest sends from port 700 arrives from 1024 or above."""
        import socket

        from support.host import in_network

        with (
            attach(lab, USER, vnet_hdr=False) as nic,
            in_network(
                lab.world, socket.socket, socket.AF_INET, socket.SOCK_DGRAM
            ) as s,
        ):
            guest = Guest(nic)
            guest.find_router()
            s.bind(("192.0.2.1", 2049))
            s.settimeout(5)
            for port in (1, 111, 700, 1023):
                guest.send("192.0.2.1", 17, frames.udp(port, 2049, b"mount"))
                data, (host, seen) = s.recvfrom(100)
                assert data == b"mount" and host == "192.0.2.2"
                assert seen >= 1024


class TestSubnets:
    def test_avoid_all_that_the_host_uses(self, lab: Lab, daemon: Daemon) -> None:
        """Everything but one /24 of the pool is in use, one way or another."""
        pool, free = IPv4Network("10.64.0.0/10"), IPv4Network("10.99.7.0/24")
        used = sorted(pool.address_exclude(free))
        forms = [
            "route add {} via 192.0.2.1",
            "route add {} via 192.0.2.1 table 77",
            "route add blackhole {}",
            "route add unreachable {}",
            "route add prohibit {} table 78",
        ]
        added = []
        try:
            for number, net in enumerate(used):
                text = forms[number % len(forms)].format(net)
                lab.host.run("ip", *text.split())
                added.append(text.replace("add", "del", 1))
            for other in POOLS[1:]:  # what follows the first pool
                lab.host.run("ip", "route", "add", "blackhole", str(other))
                added.append(f"route del blackhole {other}")
            lab.host.run("sh", "-c", "rm -f /run/state/networks/*")
            with attach(lab, USER) as nic:
                assert ip_address(str(nic.ipv4)) in free
                with pytest.raises(errors.AddressesExhausted):
                    attach(lab, OTHER)
            until_nothing_is_left(lab, networks=True)
        finally:
            for text in added:
                lab.host.run("ip", *text.split())
        with attach(lab, OTHER):
            pass

    def test_move_away_from_one_that_came_into_use(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        with attach(lab, USER) as nic:
            before = ip_network(f"{nic.ipv4}/24", strict=False)
        until_nothing_is_left(lab, networks=True)
        lab.host.run("ip", "route", "add", str(before), "via", "192.0.2.1")
        try:
            with attach(lab, USER) as nic:
                assert ip_address(str(nic.ipv4)) not in before
        finally:
            lab.host.run("ip", "route", "del", str(before))


class TestLife:
    KEYS = ("ipv4/ip_forward", "ipv6/conf/all/forwarding",
            "ipv6/conf/eth0/accept_ra")  # fmt: skip

    def test_forwards_only_while_it_is_up(self, lab: Lab, daemon: Daemon) -> None:
        before = [sysctl(lab.host, key) for key in self.KEYS]
        assert before == ["0", "0", "1"]
        with attach(lab, USER), attach(lab, OTHER):
            assert [sysctl(lab.host, key) for key in self.KEYS] == ["1", "1", "2"]
        until_nothing_is_left(lab, networks=True)
        assert [sysctl(lab.host, key) for key in self.KEYS] == before

    def test_forwards_as_long_as_any_is_up(self, lab: Lab, daemon: Daemon) -> None:
        """One user's network goes while another's comes."""
        for round_ in range(4):
            attach(lab, USER).close()
            time.sleep(GRACE - 0.03 + round_ * 0.02)  # to be there as it goes
            with attach(lab, OTHER):
                until("the other's end", lambda: len(links(lab.host, "tapbr")) == 1)
                assert sysctl(lab.host, "ipv4/ip_forward") == "1"
                assert sysctl(lab.host, "ipv6/conf/all/forwarding") == "1"
            until_nothing_is_left(lab, networks=True)
            assert sysctl(lab.host, "ipv4/ip_forward") == "0"

    def test_failing_leaves_nothing(self, lab: Lab, daemon: Daemon) -> None:
        """dnsmasq can't start, as somebody has its port."""
        with attach(lab, USER) as nic:
            gateway = str(ip_network(f"{nic.ipv4}/24", strict=False)[1])
        until_nothing_is_left(lab, networks=True)
        lab.host.run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_nonlocal_bind")
        squatter = lab.host.popen(
            lab.python, "-c",
            "import socket, time; s = socket.socket(); "
            f"s.bind(('{gateway}', 53)); s.listen(); print(1, flush=True); "
            "time.sleep(600)", stdout=-1,
        )  # fmt: skip
        try:
            assert squatter.stdout is not None
            squatter.stdout.readline()
            with pytest.raises(errors.BrokerFailure, match="dnsmasq did not start"):
                attach(lab, USER)
            until_nothing_is_left(lab, networks=True)
            assert [sysctl(lab.host, key) for key in self.KEYS] == ["0", "0", "1"]
        finally:
            squatter.kill()
            squatter.wait()
            if squatter.stdout is not None:
                squatter.stdout.close()
            lab.host.run("sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_nonlocal_bind")
        with attach(lab, USER):
            pass

    def test_killed_dnsmasq_is_started_again(self, lab: Lab, daemon: Daemon) -> None:
        with attach(lab, USER, name="web", vnet_hdr=False) as nic:
            guest = Guest(nic)
            (first,) = dnsmasqs(lab)
            os.kill(first, signal.SIGKILL)
            until("another", lambda: set(dnsmasqs(lab)) - {first})
            until("its pid", lambda: dnsmasqs(lab) != [first])
            guest.find_router()
            until("service", lambda: answers(guest))
        until_nothing_is_left(lab, networks=True)
        assert [c for c in commands(lab.host).values() if "dnsmasq" in c] == []

    def test_dnsmasq_is_not_root_and_its_files_are_closed_to_users(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        with attach(lab, USER):
            (pid,) = dnsmasqs(lab)
            status = Path(f"/proc/{pid}/status").read_text()
            assert "Uid:\t0\t" not in status
            for path in (f"{RUNTIME}/networks", f"{RUNTIME}/nics"):
                done = lab.host.run("find", path, "-type", "f", user=OTHER, check=False)
                assert done.stdout == ""
            assert files(lab, "networks")

    def test_reservation_goes_with_its_guest(self, lab: Lab, daemon: Daemon) -> None:
        with attach(lab, USER, name="a"):
            with attach(lab, USER, name="b", vnet_hdr=False) as nic:
                guest = Guest(nic)
                assert guest.dhcp(1)[53] == b"\x02"
                assert guest.dhcp(3, nic.ipv4)[53] == b"\x05"
                address = nic.ipv4
            until("one guest", lambda: len(reservations(lab)) == 1)
            with attach(lab, USER, name="b", mac="52:54:00:00:00:77",
                        vnet_hdr=False) as again:  # fmt: skip
                assert again.ipv4 == address
                guest = Guest(again)
                until("its address", lambda: guest.dhcp(1)[0] == ip_address(
                    str(address)).packed)  # fmt: skip
                assert guest.dhcp(3, address)[53] == b"\x05"


def answers(guest: Guest) -> bool:
    try:
        return guest.resolve("web")[1] != []
    except AssertionError:
        return False


def reservations(lab: Lab) -> list[str]:
    return [name for name in files(lab, "networks") if "/dhcp/" in name]


def test_state_that_is_damaged_is_put_aside(lab: Lab, daemon: Daemon) -> None:
    path = Path(inside(lab, f"/run/state/networks/default-{USER}.json"))
    for text in ("", "{", "[]", '{"subnet4": "x", "guests": {}}', '{"guests": 1}'):
        path.write_text(text)
        with attach(lab, USER) as nic:
            assert nic.ipv4
        until_nothing_is_left(lab, networks=True)


@pytest.mark.parametrize(
    "guests", [{"web": "x"}, {"web": "8.8.8.8"}, {"web": "10.64.0.1\nx"}], ids=repr
)
def test_remembered_address_that_is_none_is_not_given(
    lab: Lab, daemon: Daemon, guests: dict[str, str]
) -> None:
    import json

    path = Path(inside(lab, f"/run/state/networks/default-{USER}.json"))
    with attach(lab, USER) as nic:
        subnet = ip_network(f"{nic.ipv4}/24", strict=False)
    until_nothing_is_left(lab, networks=True)
    path.write_text(json.dumps({"subnet4": str(subnet), "guests": guests}))
    with attach(lab, USER, name="web") as nic:
        assert ip_address(str(nic.ipv4)) in subnet
