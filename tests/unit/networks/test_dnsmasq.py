# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.networks.dnsmasq`: dnsmasq itself finds its configuration good."""

from __future__ import annotations

import subprocess
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

import pytest

from tapster.daemon.process.spawned.dnsmasq import find
from tapster.networks import dnsmasq

PROGRAM = find()
SIX = IPv6Network("fd12:3456:789a:1::/64")


def settings(directory: Path, **changes: Any) -> dnsmasq.Settings:
    made = dnsmasq.Settings(
        bridge="tapbr00000000",
        subnet4=IPv4Network("10.70.1.0/24"),
        subnet6=SIX,
        domain="default.internal",
        mtu=1500,
        directory=str(directory),
        upstream=("192.0.2.1",),
        user=None,
    )
    return made._replace(**changes)


@pytest.mark.skipif(PROGRAM is None, reason="dnsmasq is not installed")
@pytest.mark.parametrize("subnet6", [SIX, None])
@pytest.mark.parametrize("upstream", [(), ("192.0.2.1", "2001:db8::1")])
def test_dnsmasq_takes_the_configuration(
    tmp_path: Path, subnet6: IPv6Network | None, upstream: tuple[str, ...]
) -> None:
    assert PROGRAM is not None
    ours = settings(tmp_path / "net", subnet6=subnet6, upstream=upstream)
    dnsmasq.prepare_directory(ours)
    done = subprocess.run(
        [PROGRAM, "--test", f"--conf-file={ours.directory}/dnsmasq.conf"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "OK" in done.stderr


def test_configuration_serves_reservations_alone_on_its_bridge_alone(
    tmp_path: Path,
) -> None:
    lines = dnsmasq.configuration(settings(tmp_path)).splitlines()
    assert {"bind-interfaces", "except-interface=lo", "dhcp-ignore-names"} <= set(lines)
    assert [line for line in lines if line.startswith("interface=")] == [
        "interface=tapbr00000000"
    ]
    # only reservations are served
    ranges = [line for line in lines if line.startswith("dhcp-range=")]
    assert len(ranges) == 2
    assert all(",static," in line for line in ranges)


def test_configuration_without_ipv6_has_no_router_advertisements(
    tmp_path: Path,
) -> None:
    text = dnsmasq.configuration(settings(tmp_path, subnet6=None))
    assert "enable-ra" not in text
    assert "option6" not in text


def test_host_s_resolver_is_asked_only_if_no_other_is_given(tmp_path: Path) -> None:
    assert "no-resolv" in dnsmasq.configuration(settings(tmp_path))
    assert "no-resolv" not in dnsmasq.configuration(settings(tmp_path, upstream=()))


def test_directory_is_closed_to_others(tmp_path: Path) -> None:
    dnsmasq.prepare_directory(settings(tmp_path / "net"))
    for path in (tmp_path / "net", tmp_path / "net/dhcp", tmp_path / "net/hosts"):
        assert path.stat().st_mode & 0o007 == 0
