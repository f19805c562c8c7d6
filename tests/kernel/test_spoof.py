# SPDX-License-Identifier: LGPL-2.1-or-later
"""No guest passes for another, nor for the network's own: each frame of
support/spoofs.py from a tap, looked for at the far side, on every kind of port."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import ip_network
from typing import Any

import pytest

from lab import OTHER, USER, Daemon, Lab
from support import frames, host, spoofs, spoofs6
from support.frames import Station, Tap, VnetTap
from support.leases import give, party
from support.serving import serving
from support.spoofs import Case, Party, Scene
from tapster.client import attach as client

CASES = (
    *spoofs.LINK, *spoofs.ARPS, *spoofs.IPV4S, *spoofs.DHCPS,
    *spoofs6.SOURCES, *spoofs6.NEIGHBOURS, *spoofs6.ROUTERS, *spoofs6.DHCPS6,
)  # fmt: skip
LAN4, LAN6 = "203.0.113.", "2001:db8:1::"
FORWARD_GROUPS = "65528"  # group_fwd_mask: all that a bridge can be told to forward

CONFIG = f"""
[networks.plain]

[networks.no6]
subnet6 = "none"

[networks.shared]
scope = "shared"

[networks.open]
scope = "shared"
isolation = false

[networks.closed]
mode = "isolated"

[networks.combined]
scope = "shared"
subnet = "10.77.0.0/24"
subnet6 = "fd77:1:2:3::/64"
slaac = false
domain = "lab.example"
dns = ["192.0.2.1"]
mtu = 1400
egress = "internet"
host_access = ["tcp/22", "udp/5000-5010"]
rate = {{ egress = "1gbit", ingress = "1gbit" }}
forward = ["tcp/8080 a:80"]
[networks.combined.reservations]
a = {{ ipv4 = "10.77.0.50", ipv6 = "fd77:1:2:3::50", mac = "52:54:00:77:00:01" }}

[networks.routers]

[networks.lan]
mode = "bridge"
bridge = "br0"
[networks.lan.reservations]
fixed = {{ ipv4 = "{LAN4}50", ipv6 = "{LAN6}50" }}
fixed4 = "{LAN4}51"

[networks.unchecked]
mode = "bridge"
bridge = "br0"
address_check = "off"

[networks.strict]
mode = "bridge"
bridge = "br0"
address_check = "reserved"
[networks.strict.reservations]
fixed = {{ ipv4 = "{LAN4}52", ipv6 = "{LAN6}52" }}

[networks.lanrouters]
mode = "bridge"
bridge = "br0"

[[rules]]
networks = ["routers", "lanrouters"]
trusted = true

[[rules]]
networks = ["*"]
"""


@pytest.fixture(scope="module")
def broker(lab: Lab) -> Iterator[Daemon]:
    """A broker with one network of each kind; and br0, a LAN that forwards every
    group, on a host without br_netfilter, which drops malformed packets, and keeps
    fragments until it has all: what is dropped here is dropped by us."""
    lab.config(CONFIG)
    lab.host.run(
        "sh", "-ec",
        f"""
        ip link add br0 type bridge mcast_snooping 0 group_fwd_mask {FORWARD_GROUPS}
        ip link add lan0 type veth peer name lan0 netns {lab.world.pid}
        ip link set lan0 master br0
        for each in /proc/sys/net/bridge/bridge-nf-call-*; do
            [ ! -e $each ] || echo 0 > $each
        done
        sysctl -qw net.ipv6.conf.lan0.disable_ipv6=1 net.ipv6.conf.br0.disable_ipv6=1
        ip link set lan0 up
        ip link set br0 up
        """,
    )  # fmt: skip
    lab.world.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/lan0/disable_ipv6")
    lab.world.run("ip", "link", "set", "lan0", "up")
    with serving(lab) as daemon:
        yield daemon
    lab.host.run("ip", "link", "del", "lan0")
    lab.host.run("ip", "link", "del", "br0")


class Made:
    """Scenes of this lab. What they hold is closed with `stack`."""

    def __init__(self, lab: Lab, stack: ExitStack) -> None:
        self.lab, self.stack = lab, stack

    def nic(self, uid: int, network: str, name: str, **more: Any) -> client.Nic:
        more.setdefault("vnet_hdr", False)
        return self.stack.enter_context(
            host.attach(self.lab, uid, network=network, name=name, **more)
        )

    def ours(self, network: str, *, users: tuple[int, int] = (USER, USER),
             at_bridge: bool = False, vnet_hdr: bool = False,
             trusted: bool = False) -> Scene:  # fmt: skip
        """Two guests of a network of ours. The second is the far side, or, where
        they do not see each other, the host's end of the bridge."""
        nic = self.nic(users[0], network, "a", vnet_hdr=vnet_hdr)
        second = self.nic(users[1], network, "b")
        self.lab.host.run("ip", "link", "set", nic.bridge, "type", "bridge",
                          "group_fwd_mask", FORWARD_GROUPS)  # fmt: skip
        with Station(self.lab.host, nic.bridge) as bridge:
            gateway = party(bridge.mac, first(nic.ipv4, 24), first(nic.ipv6, 64))
        far: frames.Wire = Tap(second.fd, str(second.mac))
        if at_bridge:
            far = self.stack.enter_context(Station(self.lab.host, nic.bridge))
        return Scene(
            me=of_nic(nic),
            other=of_nic(second),
            gateway=gateway,
            to=gateway.mac if at_bridge else str(second.mac),
            sender=(VnetTap if vnet_hdr else Tap)(nic.fd, str(nic.mac)),
            receiver=far,
            owns6=nic.ipv6 is not None,
            trusted=trusted,
        )

    def lan(self, network: str, name: str = "a", *, leases: bool = False,
            held4: bool = False, owns4: bool = True, held6: bool = False,
            owns6: bool = True, trusted: bool = False,
            vnet_hdr: bool = False) -> Scene:  # fmt: skip
        """A guest on br0, and a station behind it; another user's guest beside."""
        nic = self.nic(USER, network, name, vnet_hdr=vnet_hdr)
        second = self.nic(OTHER, network, "b")
        station = self.stack.enter_context(Station(self.lab.world, "lan0"))
        me, other = of_nic(nic, 60), of_nic(second, 61)
        if leases:
            held4 = held6 = True
            for each in (me, other):
                give(self.lab, station, each, f"{LAN4}1")
        return Scene(
            me=me,
            other=other,
            gateway=party(station.mac, f"{LAN4}1", f"{LAN6}1"),
            to=station.mac,
            sender=(VnetTap if vnet_hdr else Tap)(nic.fd, str(nic.mac)),
            receiver=station,
            held4=held4,
            owns4=owns4,
            held6=held6,
            owns6=owns6,
            trusted=trusted,
        )


def of_nic(nic: client.Nic, number: int = 60) -> Party:
    """`number` makes the addresses of one that has none."""
    ipv4 = nic.ipv4 or f"{LAN4}{number}"
    return party(str(nic.mac), ipv4, nic.ipv6 or f"{LAN6}{number}")


def first(address: str | None, length: int) -> str:
    """The gateway's address in a guest's network."""
    address = address or f"{LAN6}1"
    return str(ip_network(f"{address}/{length}", strict=False)[1])


TWO = (USER, OTHER)
SCENES: dict[str, Callable[[Made], Scene]] = {
    "nat": lambda m: m.ours("plain"),
    "nat, vnet header": lambda m: m.ours("plain", vnet_hdr=True),
    "nat, without IPv6": lambda m: m.ours("no6"),
    "nat, shared": lambda m: m.ours("shared", users=TWO, at_bridge=True),
    "nat, shared, not isolating": lambda m: m.ours("open", users=TWO),
    "nat, all options": lambda m: m.ours("combined", users=TWO, at_bridge=True),
    "nat, trusted": lambda m: m.ours("routers", trusted=True),
    "isolated": lambda m: m.ours("closed"),
    "lan": lambda m: m.lan("lan"),
    "lan, leases known": lambda m: m.lan("lan", leases=True),
    "lan, vnet header": lambda m: m.lan("lan", leases=True, vnet_hdr=True),
    "lan, reserved": lambda m: m.lan("lan", "fixed", held4=True, held6=True),
    "lan, IPv4 reserved": lambda m: m.lan("lan", "fixed4", held4=True),
    "lan, not checked": lambda m: m.lan("unchecked"),
    "lan, only reserved ones": lambda m: m.lan(
        "strict", "fixed", held4=True, held6=True
    ),
    "lan, nothing reserved": lambda m: m.lan(
        "strict", held4=True, owns4=False, held6=True, owns6=False
    ),
    "lan, trusted": lambda m: m.lan("lanrouters", trusted=True),
}


@pytest.fixture(scope="module", params=SCENES)
def scene(request: pytest.FixtureRequest, lab: Lab, broker: Daemon) -> Iterator[Scene]:
    with ExitStack() as stack:
        yield SCENES[request.param](Made(lab, stack))
    host.until_nothing_is_left(lab)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_passes_where_it_may_and_nowhere_else(scene: Scene, case: Case) -> None:
    if scene.trusted:
        # It may have taken the MAC of the far side over, with another case.
        hello = frames.ethernet(scene.to, frames.BROADCAST, frames.PLAIN, b"")
        assert frames.arrives(hello, scene.receiver, scene.sender, hello)
    assert scene.passes(case.frame(scene)) is case.passes(scene)
