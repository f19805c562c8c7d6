# SPDX-License-Identifier: LGPL-2.1-or-later
"""[networks.NAME]: what a network can be, and what it cannot."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

import pytest

from support.configuring import BRIDGE, SHARED, fails, net, net_fails, networks, parsed
from tapster.model import (
    AddressCheck,
    Egress,
    Forward,
    Mode,
    NetworkDefinition,
    Port,
    Rate,
    Reservation,
    Scope,
)
from tapster.policy.config.network_file import CONVERT

PAGE = Path(__file__).resolve().parents[4] / "docs/man/tapster.toml.5"
# --- what a network can be


def test_a_network_needs_no_more_than_its_name() -> None:
    assert net("") == NetworkDefinition("x")


def test_a_nat_network_may_have_every_key_of_its_mode() -> None:
    found = networks(
        """
        [networks.lab]
        mode = "nat"
        scope = "shared"
        subnet = "10.1.2.0/24"
        subnet6 = "fd00:1::/64"
        slaac = false
        domain = "lab.example.org"
        dns = ["9.9.9.9", "2620:fe::fe"]
        dhcp = false
        mtu = 1400
        isolation = false
        egress = "internet"
        host_access = ["tcp/22", "udp/5000-5010"]
        rate = {egress = "100mbit", ingress = 8000}
        forward = ["tcp/8080 web:80", "udp/8080  web:80"]
        max_nics = 50
        [networks.lab.reservations]
        a = "10.1.2.9"
        b = "fd00:1::9"
        c = {ipv4 = "10.1.2.10", ipv6 = "fd00:1::a", mac = "0A:0:00:00:00:0b", user = 7}
        d = {user = "alice"}
        """.replace("0A:0:", "0A:00:")
    )["lab"]
    assert found == NetworkDefinition(
        "lab",
        Mode.NAT,
        Scope.SHARED,
        None,
        IPv4Network("10.1.2.0/24"),
        IPv6Network("fd00:1::/64"),
        True,
        False,
        "lab.example.org",
        (IPv4Address("9.9.9.9"), IPv6Address("2620:fe::fe")),
        False,
        1400,
        False,
        Egress.INTERNET,
        (Port("tcp", 22, 22), Port("udp", 5000, 5010)),
        Rate(100_000_000, 8000),
        (
            Forward(Port("tcp", 8080, 8080), "web", 80),
            Forward(Port("udp", 8080, 8080), "web", 80),
        ),
        AddressCheck.LEASE,
        {
            "a": Reservation(ipv4=IPv4Address("10.1.2.9")),
            "b": Reservation(ipv6=IPv6Address("fd00:1::9")),
            "c": Reservation(
                IPv4Address("10.1.2.10"),
                IPv6Address("fd00:1::a"),
                "0a:00:00:00:00:0b",
                7,
            ),
            "d": Reservation(user=1000),
        },
        50,
    )


def test_a_network_on_a_linux_bridge_may_have_every_key_of_its_mode() -> None:
    found = net(
        BRIDGE + 'isolation = true\nrate = {egress = "1gbit"}\n'
        'address_check = "reserved"\nreservations = {web = "192.0.2.1"}'
    )
    assert found == NetworkDefinition(
        "x",
        mode=Mode.BRIDGE,
        bridge="br0",
        isolation=True,
        rate=Rate(egress=10**9),
        address_check=AddressCheck.RESERVED,
        reservations={"web": Reservation(ipv4=IPv4Address("192.0.2.1"))},
    )


def test_a_network_may_be_without_ipv6() -> None:
    found = net('subnet6 = "none"\nmtu = 576')
    assert (found.ipv6, found.subnet6, found.mtu) == (False, None, 576)


def test_two_networks_may_be_on_one_bridge() -> None:
    found = networks(
        f"[networks.a]\n{BRIDGE}[networks.b]\n{BRIDGE}address_check = 'off'\n"
    )
    assert found["a"].bridge == found["b"].bridge == "br0"


def test_the_default_domain_is_as_if_not_written() -> None:
    assert net('domain = "x.internal"') == NetworkDefinition("x")
    assert net('domain = "default.internal"').full_domain == "default.internal"


# --- what it can't be


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('mode = "ovn"', "2:1: mode: 'ovn' is not in this version"),
        ('mode = "NAT"', "2:1: mode: 'NAT' is none of"),
        ('mode = "isolate"', "did you mean 'isolated'?"),
        ("mode = 3", "2:1: mode: 3 is not a string"),
        ('mode = "bridge"', '2:1: mode: "bridge" needs a bridge'),
        ('scope = "users"', 'scope: \'users\' is none of "user", "shared"'),
        ('bridge = ""', "bridge: '' is not 1 to 15 bytes long"),
        ('bridge = "sixteen-bytes-xx"', "is not 1 to 15 bytes long"),
        ('bridge = "üüüüüüüü"', "is not 1 to 15 bytes long"),
        ('bridge = "a b"', "bridge: 'a b' is not an interface's name"),
        ('bridge = "a:b"', "not an interface's name"),
        ('bridge = "à"', "not an interface's name"),
        ('bridge = ".."', "not an interface's name"),
        ('bridge = "a\\u0000"', "not an interface's name"),
        ('bridge = "tapbr0"', "this program's own"),
        ('bridge = "tapsternabc"', "this program's own"),
        (SHARED + 'subnet = "10.1.2.3/24"', "3:1: subnet: '10.1.2.3/24' has host bits"),
        (SHARED + 'subnet = "10.1.2.3/24"', "the subnet is 10.1.2.0/24"),
        (SHARED + 'subnet = "10.0.0.0/15"', "no prefix length from /16 to /29"),
        (SHARED + 'subnet = "10.0.0.0/30"', "no prefix length from /16 to /29"),
        (SHARED + 'subnet = "10.0.0.0"', "no prefix length from /16 to /29"),
        (SHARED + 'subnet = "10.0.0.0/255.255.255.0"', "no prefix length"),
        (SHARED + 'subnet = "10.0.0/24"', "not an IPv4 subnet"),
        (SHARED + 'subnet = "fd00::/64"', "not an IPv4 subnet"),
        (SHARED + 'subnet = "none"', "not an IPv4 subnet"),
        (SHARED + 'subnet = "224.0.0.0/24"', "cannot be a network's"),
        (SHARED + 'subnet = "127.0.0.0/24"', "cannot be a network's"),
        (SHARED + 'subnet = "0.0.0.0/24"', "cannot be a network's"),
        (SHARED + 'subnet = "169.254.0.0/24"', "cannot be a network's"),
        (SHARED + 'subnet6 = "fd00::/63"', "has not the prefix length /64"),
        (SHARED + 'subnet6 = "fd00::"', "has not the prefix length /64"),
        (SHARED + 'subnet6 = "fd00::1/64"', "the subnet is fd00::/64"),
        (SHARED + 'subnet6 = "fe80::/64"', "cannot be a network's"),
        (SHARED + 'subnet6 = "ff02::/64"', "cannot be a network's"),
        (SHARED + 'subnet6 = "::/64"', "cannot be a network's"),
        (SHARED + 'subnet6 = "10.0.0.0/24"', "not an IPv6 subnet"),
        ('subnet = "10.0.0.0/24"', '2:1: subnet: only for scope = "shared"'),
        ('subnet6 = "fd00::/64"', '2:1: subnet6: only for scope = "shared"'),
        ('subnet6 = "none"\nslaac = true', "3:1: slaac: not with subnet6"),
        ("slaac = 1", "slaac: 1 is neither true nor false"),
        ('domain = ""', "domain: '' is not a lower-case domain name"),
        ('domain = "Lab"', "domain: 'Lab' is not a lower-case domain name"),
        ('domain = "a..b"', "not a lower-case domain name"),
        ('domain = "a."', "not a lower-case domain name"),
        ('domain = "-a"', "not a lower-case domain name"),
        ('domain = "a_b"', "not a lower-case domain name"),
        ('domain = "a\\nb"', r"domain: 'a\nb' is not a lower-case domain name"),
        (f'domain = "{"a" * 64}"', "not a lower-case domain name"),
        (f'domain = "{"a." * 94}ab"', "longer than 189"),
        ('dns = "9.9.9.9"', "dns: '9.9.9.9' is not a list"),
        ('dns = ["9.9.9.9",\n "9.9.9"]', "3:2: dns: '9.9.9' is not an IP address"),
        ("dns = [9]", "2:8: dns: 9 is not a string"),
        ('dns = ["fe80::1%eth0"]', "not the address of one host"),
        ('dns = ["0.0.0.0"]', "not the address of one host"),
        ('dns = ["ff02::1"]', "not the address of one host"),
        ('dhcp = "yes"', "dhcp: 'yes' is neither true nor false"),
        ("mtu = 575", "mtu: 575 is not from 576 to 65535"),
        ("mtu = 65536", "mtu: 65536 is not from 576 to 65535"),
        ("mtu = true", "mtu: true is not a whole number"),
        ("mtu = 1500.0", "mtu: 1500.0 is not a whole number"),
        ("mtu = 0x" + "f" * 5000, "mtu: this number is not from 576"),
        ("mtu = 1279", "2:1: mtu: 1279 is less than IPv6 needs, which is 1280"),
        ("isolation = []", "isolation: a list is neither true nor false"),
        ('egress = "all"', "egress: 'all' is none of"),
        ('host_access = ["22"]', "2:16: host_access: '22' is not a port"),
        ('host_access = ["tcp/0"]', "not a port"),
        ('host_access = ["tcp/022"]', "not a port"),
        ('host_access = ["tcp/65536"]', "not a range within 1 to 65535"),
        ('host_access = ["tcp/9-8"]', "not a range within 1 to 65535"),
        ('host_access = ["icmp/1"]', "not a port"),
        ('host_access = ["tcp/22 "]', "not a port"),
        ("rate = 5", "rate: 5 is not a table"),
        ("rate = {egres = 0}", "2:9: unknown key 'egres'; did you mean 'egress'?"),
        ('rate = {egress = "1mb"}', "2:9: rate.egress: '1mb' is not a rate"),
        ('rate = {egress = "1 mbit"}', "is not a rate"),
        ('rate = {egress = "-1mbit"}', "is not a rate"),
        ('rate = {egress = "8000.5"}', "not a whole number of bits"),
        ('rate = {egress = "7999"}', "not from 8kbit to 100gbit"),
        ("rate = {egress = 7999}", "7999 is not from 8kbit to 100gbit"),
        ('rate = {egress = "101gbit"}', "not from 8kbit to 100gbit"),
        ("rate = {egress = -1}", "-1 is not from 0 to"),
        ("rate = {egress = 1.5}", "1.5 is not a whole number"),
        ("[networks.x.rate]\ningres = 0", "3:1: unknown key 'ingres'"),
        ('forward = ["tcp/8080"]', "2:12: forward: 'tcp/8080' is not a forwarded port"),
        ('forward = ["tcp/80-81 web:80"]', "only single ports are forwarded"),
        ('forward = ["tcp/80 WEB:80"]', "'WEB' is not 1 to 63 lower-case"),
        ('forward = ["tcp/80 web:0"]', "not a forwarded port"),
        ('forward = ["tcp/80 web:65536"]', "a port above 65535"),
        ('forward = ["x/80 web:80"]', "'x/80' is not a port"),
        (
            'forward = ["tcp/80 web:80", "tcp/80 db:1"]',
            "2:29: forward: tcp/80 is forwarded already, at 0:2:12",
        ),
        (BRIDGE + 'address_check = "on"', "address_check: 'on' is none of"),
        ("subnett = 1", "2:1: unknown key 'subnett'; did you mean 'subnet'?"),
        ("reservation = {}", "did you mean 'reservations'?"),
    ],
)
def test_a_network_with_a_wrong_value_is_refused_with_its_location(
    text: str, says: str
) -> None:
    message = net_fails(text)
    assert message.startswith("0:")
    assert says in message


@pytest.mark.parametrize("name", ["A", "-a", "a-", "''", "'a.b'", "a_b", "a" * 41])
def test_a_network_s_name_has_to_be_a_label(name: str) -> None:
    message = fails(f"[networks.{name}]\n")
    assert message.startswith("0:1:11: networks")
    assert "is not 1 to 40 lower-case letters" in message
    assert networks(f"[networks.{'a' * 40}]\n")["a" * 40]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("reservations = 3", "2:1: reservations: 3 is not a table"),
        (
            "reservations.Web = '10.1.2.9'",
            "2:14: reservations.Web: 'Web' is not 1 to 63",
        ),
        ("reservations.web = 3", "web: 3 is neither an address nor a table"),
        ("reservations.web = {}", "2:14: reservations.web: the table is empty"),
        ("reservations.web = 'x'", "reservations.web: 'x' is not an IP address"),
        ("reservations.web.ip = 'x'", "2:18: unknown key 'ip'; did you mean 'ipv"),
        ("reservations.web.ipv4 = 'fd00::1'", "not an IPv4 address"),
        ("reservations.web.ipv6 = '10.0.0.1'", "not an IPv6 address"),
        ("reservations.web = '127.0.0.1'", "cannot be a guest's"),
        ("reservations.web = '255.255.255.255'", "cannot be a guest's"),
        ("reservations.web = 'fe80::1'", "cannot be a guest's"),
        ("reservations.web = '::ffff:10.0.0.1'", "cannot be a guest's"),
        ("reservations.web.mac = '0a-00-00-00-00-01'", "is not a MAC address"),
        ("reservations.web.mac = '01:00:00:00:00:01'", "is a multicast address"),
        ("reservations.web.mac = '00:00:00:00:00:00'", "is no guest's address"),
        ("reservations.web.user = 'eve'", "web.user: there is no user 'eve'"),
        ("reservations.web.user = '7'", "a number has no quotes"),
        ("reservations.web.user = -1", "-1 is not from 0 to"),
        (
            "subnet6 = 'none'\nreservations.web = 'fd00::9'",
            '3:14: reservations.web.ipv6: not with subnet6 = "none"',
        ),
        (
            "[networks.x.reservations]\na = '10.0.0.1'\nb.ipv4 = '10.0.0.1'",
            "4:3: reservations.b.ipv4: 10.0.0.1 is reserved for a already, at 0:3:1",
        ),
        (
            """reservations.a.mac = '0a:00:00:00:00:0f'
reservations.b.mac = '0A:00:00:00:00:0F'""",
            "3:16: reservations.b.mac: 0a:00:00:00:00:0f is reserved for a already",
        ),
    ],
)
def test_a_wrong_reservation_is_refused(text: str, says: str) -> None:
    assert says in net_fails(text)


# --- files beside each other


def test_later_files_win_key_by_key() -> None:
    found = networks(
        "[networks.x]\nmtu = 1300\ndhcp = false\nrate = {egress = 8000}\n",
        "[networks.y]\n[networks.x]\nmtu = 1400\nrate = {ingress = 9000}\n",
    )
    assert list(found) == ["default", "x", "y"]
    assert found["x"] == NetworkDefinition(
        "x", mtu=1400, dhcp=False, rate=Rate(0, 9000)
    )


def test_a_later_file_adds_reservations() -> None:
    found = networks(
        "[networks.x.reservations]\na = '10.0.0.2'\nb = {mac = '02:00:00:00:00:01'}\n",
        "[networks.x.reservations]\nc = '10.0.0.3'\nb = '10.0.0.4'\n",
    )["x"].reservations
    assert {name: str(found[name].ipv4) for name in found} == {
        "a": "10.0.0.2",
        "b": "10.0.0.4",
        "c": "10.0.0.3",
    }
    assert found["b"].mac is None


# --- the page


def test_every_key_of_a_network_is_in_the_manual_page() -> None:
    part = PAGE.read_text().split(".Ss [networks.NAME]\n")[1].split("\n.Ss ")[0]
    told = dict(re.findall(r"^\.It Cm (\w+)(.*)", part, re.M))
    assert set(told) == {*CONVERT, "reservations"}
    text = "[networks.default]\n"
    for key, rest in told.items():
        if rest:
            value = re.sub(r"^ No = ", "", rest).replace("NAME", "default")
            value = re.sub(r"^Qq (.+)", r'"\1"', value)
            text += f"{key} = {value}\n"
    assert len(text.splitlines()) > len(told) / 2
    assert networks(text) == {"default": NetworkDefinition("default")}


def test_the_manual_page_s_example_is_a_configuration() -> None:
    example = PAGE.read_text().split(".Bd -literal\n")[1].split(".Ed")[0]
    config = parsed(example)
    assert list(config.networks) == ["default", "lan", "lab"]
    assert config.rules
