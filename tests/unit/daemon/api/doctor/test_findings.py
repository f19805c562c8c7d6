# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.daemon.api.doctor.findings`: what is told of the host, and with which
remedy."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tapster.daemon.api.doctor.findings import diagnose
from tapster.daemon.api.doctor.host_facts import HostFacts, Overlap

V4 = HostFacts({"ipv6/conf/all/disable_ipv6": "1"}, ("eth0",))
V6 = HostFacts({"ipv6/conf/all/disable_ipv6": "0"}, ("eth0",))


def codes(bridges: list[str], host: HostFacts) -> list[str]:
    return [finding.code for finding in diagnose([], bridges, host)]


def test_missing_ipv6_is_told_with_what_switches_it_on() -> None:
    (none,) = diagnose([], [], HostFacts())
    assert (none.code, none.severity, none.remedy) == ("no-ipv6", "info", None)
    (off,) = diagnose([], [], V4)
    assert off.remedy == "sysctl -w net/ipv6/conf/all/disable_ipv6=0"


def test_the_worst_finding_comes_first() -> None:
    host = replace(V4, networkmanager=False, overlaps=[Overlap("tapbr1", "a", "b")])
    assert [f.severity for f in diagnose([], [], host)] == [
        "error", "warning", "info",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("sysctls", "remedies"),
    [
        ({}, []),
        ({"ipv4/ip_forward": "1"}, []),
        ({"ipv4/ip_forward": "0", "ipv4/conf/tapbr1/forwarding": "0"},
         ["sysctl -w net/ipv4/ip_forward=1"]),
        ({"ipv4/conf/tapbr1/forwarding": "0"},
         ["sysctl -w net/ipv4/conf/tapbr1/forwarding=1"]),
        ({"ipv6/conf/all/forwarding": "0"},
         ["sysctl -w net/ipv6/conf/all/forwarding=1"]),
    ],
)  # fmt: skip
def test_forwarding_that_was_switched_off_is_an_error(
    sysctls: dict[str, str], remedies: list[str]
) -> None:
    host = replace(V6, sysctls={**V6.sysctls, **sysctls})
    found = diagnose([], ["tapbr1"], host)
    assert [f.remedy for f in found] == remedies
    assert {(f.code, f.severity) for f in found} <= {("forwarding-off", "error")}


def test_without_a_network_of_ours_forwarding_may_be_off() -> None:
    off = replace(V6, sysctls={**V6.sysctls, "ipv4/ip_forward": "0"})
    assert codes([], off) == codes(["br0"], off) == []


@pytest.mark.parametrize(
    ("of_all", "of_device", "is_told"),
    [("0", "0", False), ("1", "0", True), ("0", "1", True), ("1", "2", False),
     ("2", "1", False), ("2", "2", False)],
)  # fmt: skip
def test_a_strict_rp_filter_matters_with_several_ways_out(
    of_all: str, of_device: str, is_told: bool
) -> None:
    sysctls = {
        **V6.sysctls,
        "ipv4/conf/all/rp_filter": of_all,
        "ipv4/conf/eth1/rp_filter": of_device,
    }
    host = replace(V6, sysctls=sysctls, uplinks=("eth0", "eth1"))
    found = [f.remedy for f in diagnose([], [], host) if f.code == "rp-filter"]
    assert ("sysctl -w net/ipv4/conf/eth1/rp_filter=2" in found) is is_told
    assert codes([], replace(host, uplinks=("eth1",))) == []


def test_an_overlap_is_told_with_both_subnets() -> None:
    host = replace(V6, overlaps=[Overlap("tapbr1", "10.1.0.0/24", "10.0.0.0/8 (eth0)")])
    (found,) = diagnose([], ["tapbr1"], host)
    assert (found.code, found.severity) == ("subnet-collision", "error")
    assert "10.1.0.0/24 of tapbr1 overlaps 10.0.0.0/8 (eth0)" in found.message
