# SPDX-License-Identifier: LGPL-2.1-or-later
"""rtnetlink: every refusal named, nothing taken for something else."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
from collections.abc import Iterator
from ipaddress import ip_interface, ip_network
from typing import Any

import pytest

from lab import until
from tapster.kernel import rtnetlink, tun
from tapster.kernel.netlink import (
    NetlinkError,
    NetlinkSocket,
    Request,
)
from tapster.kernel.netlink_monitor import NetlinkMonitor

pytestmark = pytest.mark.own_network

MAC = "02:00:00:00:00:01"


def ip(*arguments: str) -> Any:
    done = subprocess.run(["ip", "-j", "-d", *arguments], capture_output=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) if done.stdout.strip() else []


def names() -> list[str]:
    return sorted(entry["ifname"] for entry in ip("link"))


def make_bridge(netlink: NetlinkSocket, name: str = "br-a") -> int:
    netlink.transact([rtnetlink.add_bridge(name, MAC, 1500)])
    return int(ip("link", "show", name)[0]["ifindex"])


class Port:
    """A tap that is a port of a bridge; the tap goes with this."""

    def __init__(self, netlink: NetlinkSocket, bridge: int, name: str = "tap-a"):
        self.name = name
        self.fd = tun.create(name, vnet_hdr=False)
        self.index = int(ip("link", "show", name)[0]["ifindex"])
        netlink.transact([rtnetlink.set_link(self.index, name, master=bridge)])

    def __enter__(self) -> Port:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


def test_bridge_is_made_as_told() -> None:
    with NetlinkSocket() as netlink:
        netlink.transact([rtnetlink.add_bridge("br-a", MAC, 1400)])
    (link,) = ip("link", "show", "br-a")
    data = link["linkinfo"]["info_data"]
    assert (link["address"], link["mtu"]) == (MAC, 1400)
    assert (data["stp_state"], data["mcast_snooping"]) == (0, 0)


@pytest.mark.parametrize("kind", ["bridge", "veth"])
def test_existing_device_is_never_adopted(kind: str) -> None:
    ip("link", "add", "br-a", "type", kind)
    before = ip("link", "show", "br-a")
    with NetlinkSocket() as netlink, pytest.raises(NetlinkError) as raised:
        netlink.transact([rtnetlink.add_bridge("br-a", MAC, 1400)])
    assert raised.value.errno == errno.EEXIST
    assert raised.value.operation == "create bridge br-a"
    assert str(raised.value) == "create bridge br-a: File exists"
    assert ip("link", "show", "br-a") == before


def test_first_refusal_of_a_batch_is_named() -> None:
    with NetlinkSocket() as netlink:
        bridge = make_bridge(netlink)
        with pytest.raises(NetlinkError) as raised:
            netlink.transact(
                [
                    rtnetlink.set_link(bridge, "br-a", alias="one"),
                    rtnetlink.set_link(999_999, "the missing one", up=True),
                    rtnetlink.set_port(bridge, "no port", locked=1),
                    rtnetlink.set_link(bridge, "br-a", mtu=1400),
                ]
            )
        assert raised.value.operation == "set the missing one"
        assert raised.value.errno == errno.ENODEV
        # The socket is as good as new: nothing of the batch waits in it.
        link = rtnetlink.get_link(netlink, bridge)
        assert link is not None and link.alias == "one" and link.mtu == 1400


def test_kernels_own_words_are_kept() -> None:
    with NetlinkSocket() as netlink:
        bridge = make_bridge(netlink)
        with pytest.raises(NetlinkError) as raised:
            netlink.transact([rtnetlink.set_link(bridge, "br-a", mtu=10)])
    assert raised.value.text, "this kernel has extended acknowledgements"
    assert raised.value.text in str(raised.value)


def test_unprivileged_caller_is_refused_and_told_what() -> None:
    code = """if True:
        import os, sys
        from tapster.kernel import rtnetlink
        from tapster.kernel.netlink import NetlinkError, NetlinkSocket
        os.setgid(65534), os.setuid(65534)
        with NetlinkSocket() as netlink:
            try:
                mac = "02:00:00:00:00:01"
                netlink.transact([rtnetlink.add_bridge("br-a", mac, 1500)])
            except NetlinkError as error:
                print(error)
    """
    import sys

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "create bridge br-a: Operation not permitted\n", done.stderr
    assert names() == ["lo"]


def test_port_settings_are_what_bridge_shows() -> None:
    with NetlinkSocket() as netlink, Port(netlink, make_bridge(netlink)) as port:
        netlink.transact(
            [
                rtnetlink.set_port(
                    port.index, "tap-a",
                    learning=0, flood=0, locked=1, guard=1, protect=1,
                    group_fwd_mask=0x4000,
                )
            ]
        )  # fmt: skip
        output = subprocess.run(
            ["bridge", "-j", "-d", "link", "show", "dev", "tap-a"], capture_output=True
        ).stdout
        (shown,) = json.loads(output)
        assert shown["learning"] is False
        assert shown["flood"] is False
        assert shown["locked"] is True
        assert shown["guard"] is True
        assert shown["root_block"] is True
        output = subprocess.run(
            ["ip", "-j", "-d", "link", "show", "tap-a"], capture_output=True
        ).stdout
        (shown,) = json.loads(output)
        data = shown["linkinfo"]["info_slave_data"]
        assert data["group_fwd_mask"] == "0x4000"
        link = rtnetlink.get_link(netlink, port.index)
        assert link is not None
        assert link.port[rtnetlink.IFLA_BRPORT_LOCKED] == 1
        assert link.port[rtnetlink.IFLA_BRPORT_LEARNING] == 0


def test_forwarding_entry_is_static_sticky_and_exclusive() -> None:
    guest = "02:aa:00:00:00:01"
    with NetlinkSocket() as netlink:
        bridge = make_bridge(netlink)
        with Port(netlink, bridge) as one, Port(netlink, bridge, "tap-b") as two:
            netlink.transact([rtnetlink.add_fdb(one.index, guest)])
            output = subprocess.run(
                ["bridge", "-j", "-d", "fdb", "show", "dev", "tap-a"],
                capture_output=True,
            ).stdout
            (shown,) = [e for e in json.loads(output) if e["mac"] == guest]
            assert shown["state"] == "static" and "sticky" in shown["flags"]
            with pytest.raises(NetlinkError) as raised:
                netlink.transact([rtnetlink.add_fdb(two.index, guest)])
            assert raised.value.errno == errno.EEXIST
            assert raised.value.operation == f"add forwarding entry {guest}"
            found = rtnetlink.get_fdb(netlink, bridge, guest)
            assert found is not None and found.ifindex == one.index
            netlink.transact([rtnetlink.delete_fdb(one.index, guest)])
            assert rtnetlink.get_fdb(netlink, bridge, guest) is None


def test_forwarding_table_of_one_bridge_is_told_and_no_other() -> None:
    with NetlinkSocket() as netlink:
        one, two = make_bridge(netlink, "br-a"), make_bridge(netlink, "br-b")
        with Port(netlink, one) as port:
            netlink.transact([rtnetlink.add_fdb(port.index, "02:aa:00:00:00:01")])
            here = {entry.mac for entry in rtnetlink.fdb_entries(netlink, one)}
            assert "02:aa:00:00:00:01" in here
            there = {entry.mac for entry in rtnetlink.fdb_entries(netlink, two)}
            assert "02:aa:00:00:00:01" not in there
            # The bridge's own address is a station, too.
            own = rtnetlink.get_fdb(netlink, one, MAC)
            assert own is not None and own.state == rtnetlink.NUD_PERMANENT


def test_no_ipv6_address_appears_when_the_device_comes_up() -> None:
    with NetlinkSocket() as netlink, Port(netlink, make_bridge(netlink)) as port:
        netlink.transact(
            [
                rtnetlink.set_link(port.index, "tap-a", no_ipv6_address=True),
                rtnetlink.set_link(port.index, "tap-a", up=True),
            ]
        )
        (shown,) = ip("address", "show", "dev", "tap-a")
        assert "UP" in shown["flags"] and shown["addr_info"] == []
        assert ip("link", "show", "tap-a")[0]["inet6_addr_gen_mode"] == "none"


def test_address_is_given_without_duplicate_detection() -> None:
    with NetlinkSocket() as netlink:
        bridge = make_bridge(netlink)
        for text in ("10.64.1.1/24", "fd00:1::1/64", "fe80::1/64"):
            netlink.transact([rtnetlink.add_address(bridge, ip_interface(text))])
        with pytest.raises(NetlinkError) as raised:
            netlink.transact(
                [rtnetlink.add_address(bridge, ip_interface("10.64.1.1/24"))]
            )
        assert raised.value.operation == "add address 10.64.1.1/24"
        assert raised.value.errno == errno.EEXIST
    (shown,) = ip("address", "show", "dev", "br-a")
    found = {(a["local"], a["prefixlen"], a["scope"]) for a in shown["addr_info"]}
    assert {("10.64.1.1", 24, "global"), ("fd00:1::1", 64, "global")} < found
    assert ("fe80::1", 64, "link") in found
    assert all(a.get("tentative") is None for a in shown["addr_info"])


def test_device_found_by_alternative_name_bears_its_real_one() -> None:
    with NetlinkSocket() as netlink:
        bridge = make_bridge(netlink)
        netlink.transact([rtnetlink.add_altname(bridge, "another")])
        assert ip("link", "show", "br-a")[0]["altnames"] == ["another"]
        link = rtnetlink.get_link(netlink, "another")
        assert link is None or (link.name == "br-a" and link.altnames == ("another",))
        with pytest.raises(NetlinkError, match="add alternative name another"):
            netlink.transact([rtnetlink.add_altname(bridge, "another")])


@pytest.mark.parametrize("name", ["gone", "sixteen-bytes-xx", "", "x" * 100])
def test_device_that_is_not_there_is_none(name: str) -> None:
    with NetlinkSocket() as netlink:
        assert rtnetlink.get_link(netlink, name) is None
        assert rtnetlink.get_link(netlink, 999_999) is None


def test_long_list_of_devices_is_whole() -> None:
    with NetlinkSocket() as netlink:
        make = [rtnetlink.add_bridge(f"br-{n}", MAC, 1500) for n in range(80)]
        for start in range(0, 80, 40):
            netlink.transact(make[start : start + 40])
        found = rtnetlink.links(netlink)
        assert sorted(link.name for link in found) == names()
        assert len(found) == 81
        kinds = {link.kind for link in found if link.name != "lo"}
        assert kinds == {"bridge"}


def test_refused_list_is_named() -> None:
    with NetlinkSocket() as netlink:
        with pytest.raises(NetlinkError, match="list nothing"):
            netlink.dump(Request("list nothing", 1002, 0, b""))
        assert [link.name for link in rtnetlink.links(netlink)] == ["lo"]


@pytest.fixture
def routes() -> list[tuple[str, ...]]:
    return [
        ("route", "add", "10.65.0.0/16", "dev", "br-a"),
        ("route", "add", "10.66.0.0/16", "dev", "br-a", "table", "77"),
        ("route", "add", "unreachable", "10.67.0.0/16"),
        ("route", "add", "blackhole", "10.68.0.0/16"),
        ("route", "add", "prohibit", "10.69.0.0/16", "table", "78"),
        ("route", "add", "10.70.0.1", "dev", "br-a"),
        ("route", "add", "default", "dev", "br-a"),
        ("-6", "route", "add", "fd00:65::/48", "dev", "br-a"),
        ("-6", "route", "add", "blackhole", "fd00:68::/48", "table", "77"),
    ]


def test_all_used_networks_are_told(routes: list[tuple[str, ...]]) -> None:
    """Addresses and routes of every table and every kind: traffic that is to be
    blackholed is not to be answered by a guest either."""
    with NetlinkSocket() as netlink:
        bridge = make_bridge(netlink)
        ip("link", "set", "br-a", "up")
        ip("address", "add", "10.64.1.1/24", "dev", "br-a")
        for route in routes:
            ip(*route)
        found = {net for _, net in rtnetlink.used_networks(netlink)}
        by_address = {
            index
            for index, net in rtnetlink.used_networks(netlink)
            if net == ip_network("10.64.1.0/24")
        }
    wanted = ["10.64.1.0/24", "10.65.0.0/16", "10.66.0.0/16", "10.67.0.0/16"]
    wanted += ["10.68.0.0/16", "10.69.0.0/16", "10.70.0.1/32"]
    wanted += ["fd00:65::/48", "fd00:68::/48"]
    assert {ip_network(text) for text in wanted} - found == set()
    assert ip_network("0.0.0.0/0") not in found
    assert bridge in by_address


class TestMonitor:
    @pytest.fixture(autouse=True)
    def _nothing(self) -> Iterator[None]:
        yield

    def test_only_the_wanted_types_are_heard(self) -> None:
        monitor = NetlinkMonitor(
            [rtnetlink.RTNLGRP_LINK, rtnetlink.RTNLGRP_NEIGH], [rtnetlink.RTM_DELLINK]
        )
        try:
            fd = tun.create("tap-a", vnet_hdr=False)
            index = int(ip("link", "show", "tap-a")[0]["ifindex"])
            ip("link", "set", "tap-a", "up")
            assert monitor.read() is None
            os.close(fd)
            (reply,) = until("the tap's end", monitor.read)
            assert reply.type == rtnetlink.RTM_DELLINK
            assert rtnetlink.link_index(reply) == index
            assert rtnetlink.link_family(reply) == 0
            assert monitor.read() is None
        finally:
            monitor.close()

    def test_links_that_are_up_or_go_down_are_heard(self) -> None:
        """Not one that is being made, which is told of again and again."""
        monitor = NetlinkMonitor([rtnetlink.RTNLGRP_LINK], [], live_links=True)

        def heard() -> list[tuple[int, str, bool]]:
            found = []
            while (replies := monitor.read()) is not None:
                for reply in replies:
                    made = rtnetlink.parse_link(reply)
                    if reply.type == rtnetlink.RTM_NEWLINK and made.name == "tap-a":
                        up = bool(made.flags & rtnetlink.IFF_UP)
                        found.append((made.mtu, made.address, up))
            return found

        fd = tun.create("tap-a", vnet_hdr=False)
        try:
            mac = "02:00:00:00:00:01"
            ip("link", "set", "tap-a", "mtu", "1400", "address", mac)
            assert heard() == []
            ip("link", "set", "tap-a", "up")
            assert heard() == [(1400, mac, True)]
            ip("link", "set", "tap-a", "mtu", "1300")
            assert heard() == [(1300, mac, True)]
            ip("link", "set", "tap-a", "down")
            assert heard() == [(1300, mac, False)]
            ip("link", "set", "tap-a", "mtu", "1200")
            assert heard() == []
        finally:
            os.close(fd)
            monitor.close()

    def test_what_a_holder_sets_is_read(self) -> None:
        fd = tun.create("tap-a", vnet_hdr=False)
        try:
            with NetlinkSocket() as netlink:
                made = rtnetlink.get_link(netlink, "tap-a")
                assert made is not None
                assert (made.persist, made.owner, made.group) == (False, None, None)
                for request, value in ((tun.TUNSETPERSIST, 1), (0x400454CC, 7)):
                    fcntl.ioctl(fd, request, value)
                made = rtnetlink.get_link(netlink, "tap-a")
                assert made is not None
                assert (made.persist, made.owner, made.group) == (True, 7, None)
                # Nobody else's, though it has no carrier.
                fcntl.ioctl(fd, 0x400454E2, bytes(4))
                assert tun.take_over("tap-a") is None
                os.close(fd)
                fd = -1
                taken = tun.take_over("tap-a")
                assert taken is not None
                tun.forget(taken)
                os.close(taken)
                assert rtnetlink.get_link(netlink, "tap-a") is None
        finally:
            if fd >= 0:
                os.close(fd)

    def test_lost_messages_are_told(self) -> None:
        monitor = NetlinkMonitor(
            [rtnetlink.RTNLGRP_LINK], [rtnetlink.RTM_NEWLINK], receive_buffer=4096
        )
        try:
            with NetlinkSocket() as netlink:
                bridge = make_bridge(netlink)
                for number in range(200):
                    netlink.transact(
                        [rtnetlink.set_link(bridge, "br-a", mtu=1000 + number)]
                    )
            with pytest.raises(OSError) as raised:
                while monitor.read() is not None:
                    pass
            assert raised.value.errno == errno.ENOBUFS
        finally:
            monitor.close()
