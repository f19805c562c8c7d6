# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a tap is when it is handed over, and where its frames go. What a guest may
send at all is in test_spoof.py.

Shows daemon/allocate, daemon/nics/port_filter.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from lab import OTHER, USER, Daemon, Lab, until
from support import frames
from support.frames import Station, Tap, arrives
from support.host import (
    attach,
    elements,
    fdb,
    files,
    link,
    nics,
    port,
    tool,
    until_nothing_is_left,
)
from tapster import errors
from tapster.client import attach as client
from tapster.kernel import tun

pytestmark = pytest.mark.usefixtures("clean")

STRANGER = "02:5a:00:00:00:99"


@pytest.fixture(scope="module")
def bridges(lab: Lab, daemon: Daemon) -> Iterator[None]:
    """br0 with a way out, lan0, whose other end is in the world; a large and a
    small one; one whose MAC somebody set."""
    lab.bridge_conf("allow br0\nallow br9000\nallow br1400\nallow brset\n")
    lab.host.run(
        "sh", "-ec",
        f"""
        for b in br0 br9000 br1400 brset; do
            ip link add $b type bridge mcast_snooping 0; ip link set $b up
        done
        ip link set br9000 mtu 9000
        ip link set br1400 mtu 1400
        ip link set brset address 02:5e:70:00:00:01
        ip link add lan0 type veth peer name lan0 netns {lab.world.pid}
        ip link set lan0 master br0 up
        sysctl -qw net.ipv6.conf.lan0.disable_ipv6=1
        """,
    )  # fmt: skip
    lab.world.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/lan0/disable_ipv6")
    lab.world.run("ip", "link", "set", "lan0", "up")
    yield
    for name in ("lan0", "br0", "br9000", "br1400", "brset"):
        lab.host.run("ip", "link", "del", name)


@pytest.fixture
def station(lab: Lab, bridges: None) -> Iterator[Station]:
    """Another machine of the LAN."""
    with Station(lab.world, "lan0") as made:
        yield made


def until_nothing_is_left_of(lab: Lab, ifname: str) -> None:
    until("its end", lambda: ifname not in json.dumps(elements(lab.host)))


def guest(nic: client.Nic) -> Tap:
    assert nic.mac is not None
    return Tap(nic.fd, nic.mac)


def addresses(lab: Lab, name: str) -> list[Any]:
    (shown,) = tool(lab.host, "ip", "-j", "address", "show", "dev", name)
    for address in shown["addr_info"]:
        address.pop("tentative", None)
    return list(shown["addr_info"])


WHERE = pytest.mark.parametrize("where", [{}, {"bridge": "br0"}], ids=["nat", "bridge"])


class TestTap:
    @WHERE
    def test_a_port_is_locked_down_and_up(
        self, lab: Lab, bridges: None, where: dict[str, str]
    ) -> None:
        with attach(lab, USER, name="web", **where) as nic:
            device, settings = link(lab.host, nic.ifname), port(lab.host, nic.ifname)
            assert "UP" in device["flags"]
            assert device["master"] == nic.bridge
            assert device["linkinfo"]["info_data"]["type"] == "tap"
            assert device["linkinfo"]["info_data"]["persist"] is False
            assert device["inet6_addr_gen_mode"] == "none"
            assert addresses(lab, nic.ifname) == []
            assert device["address"].startswith("fe:")
            assert device["address"][3:] == (nic.mac or "")[3:]
            assert settings["learning"] is False
            assert settings["flood"] is False
            assert settings["locked"] is True
            assert settings["guard"] is True
            assert settings["root_block"] is True
            assert settings["state"] == "forwarding"

    @WHERE
    def test_forwarding_entry_is_static_and_sticky(
        self, lab: Lab, bridges: None, where: dict[str, str]
    ) -> None:
        with attach(lab, USER, **where) as nic:
            entries = {e["mac"]: e for e in fdb(lab.host, nic.ifname)}
            own = entries.pop(str(nic.mac))
            assert own["state"] == "static" and "sticky" in own["flags"]
            assert own["master"] == nic.bridge
            # Besides its own there is only the host's end, and multicast.
            host_side = link(lab.host, nic.ifname)["address"]
            for mac, entry in entries.items():
                assert mac == host_side or int(mac[:2], 16) & 1, entry

    @WHERE
    def test_a_tap_tells_what_it_is_for(
        self, lab: Lab, bridges: None, where: dict[str, str]
    ) -> None:
        with attach(lab, USER, name="web", **where) as nic:
            device = link(lab.host, nic.ifname)
            what = nic.network or nic.bridge
            assert device["ifalias"] == (
                f"tapster nic network={what} user={USER} guest=web"
            )
            assert device["altnames"] == [f"tapster.{what}.{USER}.web"]
            assert nic.ifname.startswith("tapster") and len(nic.ifname) == 15

    @WHERE
    @pytest.mark.parametrize("asked", [False, True])
    def test_a_tap_has_a_vnet_header_when_asked_for(
        self, lab: Lab, bridges: None, where: dict[str, str], asked: bool
    ) -> None:
        with attach(lab, USER, vnet_hdr=asked, **where) as nic:
            data = link(lab.host, nic.ifname)["linkinfo"]["info_data"]
            assert bool(data["vnet_hdr"]) is asked
            name, flags = tun.name_and_flags(nic.fd)
            assert name == nic.ifname
            assert bool(flags & tun.IFF_VNET_HDR) is asked

    @pytest.mark.parametrize("mtu", [1400, 9000])
    def test_a_tap_has_the_mtu_of_its_bridge(
        self, lab: Lab, bridges: None, mtu: int
    ) -> None:
        with attach(lab, USER, bridge=f"br{mtu}") as nic:
            assert nic.mtu == mtu
            assert link(lab.host, nic.ifname)["mtu"] == mtu
            assert link(lab.host, f"br{mtu}")["mtu"] == mtu

    def test_a_tap_goes_with_its_descriptor(self, lab: Lab, daemon: Daemon) -> None:
        nic = attach(lab, USER)
        assert len(nics(lab)) == 1
        nic.close()
        until_nothing_is_left(lab)

    @WHERE
    def test_a_nic_is_told_and_listed_alike(
        self, lab: Lab, bridges: None, where: dict[str, str]
    ) -> None:
        with attach(lab, USER, name="web", **where) as nic:
            (listed,) = nics(lab, USER)
            for field in ("ifname", "mac", "ipv4", "ipv6", "mtu", "bridge", "network"):
                assert listed[field] == getattr(nic, field)
            assert (listed["uid"], listed["name"]) == (USER, "web")
            assert listed["state"] == "active" and listed["reason"] is None


class TestStartingAgain:
    @WHERE
    def test_a_guest_that_starts_again_at_once_is_the_same_guest(
        self, lab: Lab, bridges: None, where: dict[str, str]
    ) -> None:
        """Its name and MAC are its own, however soon it comes back."""
        macs = set()
        for _ in range(60):
            with attach(lab, USER, name="web", **where) as nic:
                macs.add(nic.mac)
        assert len(macs) == 1


class TestMac:
    def test_a_mac_that_is_asked_for_is_given(self, lab: Lab, bridges: None) -> None:
        for where in ({}, {"bridge": "br0"}):
            with attach(lab, USER, mac="52:54:00:AA:00:01", **where) as nic:
                assert nic.mac == "52:54:00:aa:00:01"

    def test_a_mac_of_the_hosts_kind_gets_another_host_side(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        with attach(lab, USER, mac="fe:54:00:aa:00:01") as nic:
            assert link(lab.host, nic.ifname)["address"] == "fe:ab:ff:55:ff:fe"

    def test_a_mac_of_another_guest_is_refused(self, lab: Lab, bridges: None) -> None:
        with (
            attach(lab, USER, bridge="br0", mac="52:54:00:aa:00:01"),
            pytest.raises(errors.MacInUse),
        ):
            attach(lab, OTHER, bridge="br0", mac="52:54:00:aa:00:01")

    def test_a_mac_of_a_guest_on_another_users_network_is_nobodys_business(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        """And what the one is known by stays when the other goes."""
        mac, local = "52:54:00:12:34:56", "0xfe80000000000000505400fffe123456"
        with attach(lab, OTHER, mac=mac) as two:
            with attach(lab, USER, mac=mac) as one:
                assert one.bridge != two.bridge
                assert local in elements(lab.host)["claimed6"]
            until_nothing_is_left_of(lab, one.ifname)
            assert local in elements(lab.host)["claimed6"]
        until_nothing_is_left(lab)
        assert "delete port" not in daemon.log

    def test_a_mac_of_another_station_or_the_bridge_is_refused(
        self, lab: Lab, bridges: None, station: Station
    ) -> None:
        with attach(lab, USER, bridge="br0", vnet_hdr=False) as nic:
            hello = frames.ethernet(STRANGER, frames.BROADCAST, frames.PLAIN, b"")
            good = frames.ethernet(station.mac, frames.BROADCAST, frames.PLAIN, b"")
            assert arrives(hello, station, guest(nic), good)
        for mac in (STRANGER, link(lab.host, "br0")["address"]):
            with pytest.raises(errors.MacInUse):
                attach(lab, USER, bridge="br0", mac=mac)
        until_nothing_is_left(lab)

    @pytest.mark.parametrize(
        "mac", ["01:00:5e:00:00:01", "00:00:00:00:00:00", "52:54:00", "x", "ff" * 6]
    )
    def test_a_mac_that_cannot_be_a_guests_is_refused(
        self, lab: Lab, daemon: Daemon, mac: str
    ) -> None:
        from support.host import broker

        with broker(lab, USER) as wire, pytest.raises(errors.InvalidRequest):
            wire.call("Attach", {"mac": mac})

    def test_macs_differ_between_guests_and_users(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        with (
            attach(lab, USER, name="a") as one,
            attach(lab, USER, name="b") as two,
            attach(lab, OTHER, name="a") as three,
        ):
            macs = {one.mac, two.mac, three.mac}
            assert len(macs) == 3
            assert all(int(str(mac)[:2], 16) & 3 == 2 for mac in macs)


class TestBridge:
    def test_a_bridge_keeps_its_mac_whatever_comes_and_goes(
        self, lab: Lab, bridges: None
    ) -> None:
        before = link(lab.host, "br0")["address"]
        low = "02:00:00:00:00:01"
        with attach(lab, USER, bridge="br0") as nic:
            lab.host.run("ip", "link", "set", nic.ifname, "address", low)
            assert link(lab.host, "br0")["address"] == before
            with attach(lab, USER, bridge="br0"):
                lab.host.run("ip", "link", "set", "lan0", "address", low)
                assert link(lab.host, "br0")["address"] == before
        until_nothing_is_left(lab)
        assert link(lab.host, "br0")["address"] == before

    def test_a_bridge_whose_mac_somebody_set_keeps_it(
        self, lab: Lab, bridges: None
    ) -> None:
        with attach(lab, USER, bridge="brset"):
            assert link(lab.host, "brset")["address"] == "02:5e:70:00:00:01"

    @pytest.mark.parametrize("name", ["br0", "br9000", "br1400"])
    def test_a_bridge_is_left_as_it_was_found(
        self, lab: Lab, bridges: None, name: str
    ) -> None:
        def state() -> tuple[dict[str, Any], list[Any], list[str]]:
            shown = link(lab.host, name)
            data = shown["linkinfo"]["info_data"]
            for volatile in ("gc_timer", "hello_timer", "topology_change_timer",
                             "tcn_timer"):  # fmt: skip
                data.pop(volatile, None)
            # Without ports it has no carrier; and a bridge that had one has
            # another limit for TSO than one that never had.
            for volatile in ("flags", "operstate", "tso_max_size", "tso_max_segs"):
                shown.pop(volatile, None)
            entries = [
                json.dumps(e, sort_keys=True)
                for e in fdb(lab.host, name)
                if not int(e["mac"][:2], 16) & 1  # its own IPv6 address brings some
            ]
            return shown, addresses(lab, name), sorted(entries)

        before = state()
        with attach(lab, USER, bridge=name), attach(lab, OTHER, bridge=name):
            pass
        until_nothing_is_left(lab)
        for was, found in zip(before, state(), strict=True):
            assert found == was

    def test_a_bridge_that_refuses_the_port_leaves_nothing(
        self, lab: Lab, bridges: None, station: Station
    ) -> None:
        """MacInUse comes from the middle of the stages."""
        mac = link(lab.host, "br0")["address"]
        for _ in range(3):
            with pytest.raises(errors.MacInUse):
                attach(lab, USER, bridge="br0", mac=mac)
        until_nothing_is_left(lab)
        assert elements(lab.host).keys().isdisjoint({"guests", "checked4", "checked6"})
        assert files(lab, "nics") == []


def ip_frame(src_mac: str, src: str, dst: str, dst_mac: str) -> bytes:
    packet = frames.ipv4(src, dst, 17, frames.udp(5000, 5000, frames.HERE))
    return frames.ethernet(src_mac, dst_mac, frames.IPV4, packet)


class TestFramesOnALinuxBridge:
    """From a guest to another station of the LAN, and back."""

    @pytest.fixture
    def nic(self, lab: Lab, bridges: None) -> Iterator[client.Nic]:
        with attach(lab, USER, bridge="br0", vnet_hdr=False) as nic:
            yield nic

    def good(self, nic: client.Nic, dst: str = frames.BROADCAST) -> bytes:
        return frames.arp(str(nic.mac), str(nic.mac), "192.0.2.77", "192.0.2.1",
                          dst=dst)  # fmt: skip

    def test_a_frame_of_another_source_mac_does_not_pass(
        self, lab: Lab, nic: client.Nic, station: Station
    ) -> None:
        mac = str(nic.mac)
        others = [STRANGER, station.mac, link(lab.host, "br0")["address"]]
        others += [link(lab.host, nic.ifname)["address"], mac[:-2] + "00"]
        for other in others:
            if other == mac:
                continue
            frame = frames.arp(other, other, "192.0.2.77", "192.0.2.1")
            assert not arrives(frame, guest(nic), station, self.good(nic)), other
        entries = {e["mac"]: e for e in fdb(lab.host, nic.ifname)}
        assert STRANGER not in entries and station.mac not in entries

    def test_bpdu_does_not_shut_the_port_unnoticed(
        self, lab: Lab, nic: client.Nic, station: Station
    ) -> None:
        """Whatever a guest sends, its port's state does not change."""
        frame = frames.ethernet(
            str(nic.mac), "01:80:c2:00:00:00", 38, b"\x42\x42\x03" + bytes(35)
        )
        arrives(frame, guest(nic), station, self.good(nic))
        assert port(lab.host, nic.ifname)["state"] == "forwarding"

    def test_answer_reaches_the_guest_alone(
        self, lab: Lab, nic: client.Nic, station: Station
    ) -> None:
        with attach(lab, OTHER, bridge="br0", vnet_hdr=False) as other:
            everyone = frames.arp(station.mac, station.mac, "192.0.2.1", "192.0.2.77")
            for receiver, expected in ((nic, True), (other, False)):
                answer = ip_frame(station.mac, "192.0.2.1", "192.0.2.77", str(nic.mac))
                assert arrives(answer, station, guest(receiver), everyone) is expected

    def test_unknown_unicast_is_not_flooded_to_it(
        self, nic: client.Nic, station: Station
    ) -> None:
        everyone = frames.arp(station.mac, station.mac, "192.0.2.1", "192.0.2.77")
        stray = ip_frame(station.mac, "192.0.2.1", "192.0.2.78", STRANGER)
        assert not arrives(stray, station, guest(nic), everyone)

    def test_station_cannot_take_the_guests_mac_over(
        self, lab: Lab, nic: client.Nic, station: Station
    ) -> None:
        everyone = frames.arp(station.mac, station.mac, "192.0.2.1", "192.0.2.77")
        mac = str(nic.mac)
        stolen = frames.arp(mac, mac, "192.0.2.77", "192.0.2.1")
        arrives(stolen, station, guest(nic), everyone)
        (entry,) = [e for e in fdb(lab.host, nic.ifname) if e["mac"] == mac]
        assert "sticky" in entry["flags"]
        answer = ip_frame(station.mac, "192.0.2.1", "192.0.2.77", mac)
        assert arrives(answer, station, guest(nic), everyone)


class TestFramesOnANetwork:
    """From a guest to its gateway, and to another guest of the same user."""

    @pytest.fixture
    def two(self, lab: Lab, daemon: Daemon) -> Iterator[tuple[client.Nic, client.Nic]]:
        with (
            attach(lab, USER, name="a", vnet_hdr=False) as one,
            attach(lab, USER, name="b", vnet_hdr=False) as other,
        ):
            yield one, other

    @staticmethod
    def good(nic: client.Nic, dst: str = frames.BROADCAST) -> bytes:
        return frames.arp(str(nic.mac), str(nic.mac), str(nic.ipv4), "10.64.0.9",
                          dst=dst)  # fmt: skip

    def passes(self, frame: bytes, two: tuple[client.Nic, client.Nic]) -> bool:
        return arrives(frame, guest(two[0]), guest(two[1]), self.good(two[0]))

    def test_own_mac_and_address_pass(
        self, lab: Lab, two: tuple[client.Nic, client.Nic]
    ) -> None:
        one, other = two
        frame = ip_frame(str(one.mac), str(one.ipv4), str(other.ipv4), str(other.mac))
        assert self.passes(frame, two)
        with Station(lab.host, one.bridge) as gateway:
            frame = ip_frame(str(one.mac), str(one.ipv4), "192.0.2.1", gateway.mac)
            assert arrives(frame, guest(one), gateway, self.good(one))

    def test_host_is_closed_but_for_its_services(
        self, lab: Lab, two: tuple[client.Nic, client.Nic]
    ) -> None:
        """The gateway answers a ping; a service of the host's does not hear."""
        import socket

        from support.host import in_network

        one, _ = two
        subnet = str(one.ipv4).rpartition(".")[0]
        with (
            Station(lab.host, one.bridge) as bridge,
            in_network(lab.host, socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as s,
        ):
            s.bind(("0.0.0.0", 111))
            s.settimeout(0.2)
            me = guest(one)
            for target in (f"{subnet}.1", "192.0.2.2", "127.0.0.1"):
                packet = frames.ipv4(
                    str(one.ipv4), target, 17, frames.udp(700, 111, b"hello")
                )
                me.send(frames.ethernet(me.mac, bridge.mac, frames.IPV4, packet))
            me.send(frames.arp(me.mac, me.mac, str(one.ipv4), f"{subnet}.1"))
            packet = frames.ipv4(str(one.ipv4), f"{subnet}.1", 1, frames.echo(8, 1))
            me.send(frames.ethernet(me.mac, bridge.mac, frames.IPV4, packet))
            for seen in me.frames():
                if seen[12:14] == b"\x08\x00" and seen[23] == 1 and seen[34] == 0:
                    break
                if seen[12:14] == b"\x08\x06" and seen[20:22] == b"\0\1":
                    me.send(frames.arp(me.mac, me.mac, str(one.ipv4), f"{subnet}.1",
                                       dst=bridge.mac, operation=2))  # fmt: skip
            else:
                raise AssertionError("the gateway does not answer")
            with pytest.raises(TimeoutError):
                s.recv(100)
