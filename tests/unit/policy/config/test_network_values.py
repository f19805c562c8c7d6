# SPDX-License-Identifier: LGPL-2.1-or-later
"""Values about networks: what is taken, and as what. What is refused, and how that is
told, is in `test_network_file.py`."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest

from support.configuring import net
from tapster.model import Forward, Port, Rate
from tapster.policy.config import network_values
from tapster.policy.config.toml_locations import Invalid


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("0", 0),
        ('"0"', 0),
        ('"0mbit"', 0),
        ("8000", 8000),
        ('"8000"', 8000),
        ('"8kbit"', 8000),
        ('"8000bit"', 8000),
        ('"1.5Mbit"', 1_500_000),
        ('"100gbit"', 10**11),
        ("100000000000", 10**11),
    ],
)
def test_a_rate_has_a_decimal_unit_or_is_bits_a_second(text: str, bits: int) -> None:
    assert net(f"rate.ingress = {text}").rate == Rate(0, bits)


def test_an_address_is_one_host_s() -> None:
    assert network_values.address("9.9.9.9") == IPv4Address("9.9.9.9")
    for text in ("0.0.0.0", "224.0.0.1", "ff02::1", "::", "fe80::1%eth0", "a", ""):
        with pytest.raises(Invalid):
            network_values.address(text)


def test_a_guest_s_address_is_one_that_a_host_on_a_network_can_have() -> None:
    assert network_values.guest_ipv4("10.0.0.2") == IPv4Address("10.0.0.2")
    for text in ("127.0.0.1", "169.254.0.1", "240.0.0.1", "0.0.0.1", "fd00::2"):
        with pytest.raises(Invalid):
            network_values.guest_ipv4(text)
    for text in ("::1", "fe80::1", "::ffff:10.0.0.2", "10.0.0.2"):
        with pytest.raises(Invalid):
            network_values.guest_ipv6(text)


def test_a_subnet_is_written_without_host_bits() -> None:
    assert network_values.subnet("10.1.2.0/24") == IPv4Network("10.1.2.0/24")
    assert network_values.subnet6("fd00::/64") == IPv6Network("fd00::/64")
    assert network_values.subnet6("none") is None
    with pytest.raises(Invalid, match=r"host bits set; the subnet is 10\.1\.2\.0/24"):
        network_values.subnet("10.1.2.3/24")
    with pytest.raises(Invalid, match="host bits set; the subnet is fd00::/64"):
        network_values.subnet6("fd00::1/64")


def test_a_port_or_a_range_has_a_protocol() -> None:
    assert network_values.port("tcp/22") == Port("tcp", 22, 22)
    assert network_values.port("udp/5000-5010") == Port("udp", 5000, 5010)
    for text in ("22", "sctp/22", "tcp/0", "tcp/022", "tcp/9-8", "tcp/65536"):
        with pytest.raises(Invalid):
            network_values.port(text)


def test_a_forward_leads_one_port_to_a_guest_s() -> None:
    found = network_values.forward("tcp/8080  web:80")
    assert found == Forward(Port("tcp", 8080, 8080), "web", 80)


def test_a_mac_is_lower_case_and_one_guest_s() -> None:
    assert network_values.mac("0A:1b:2C:3d:4E:5f") == "0a:1b:2c:3d:4e:5f"
    for text in ("01:00:00:00:00:01", "00:00:00:00:00:00", "0a1b2c3d4e5f"):
        with pytest.raises(Invalid):
            network_values.mac(text)
