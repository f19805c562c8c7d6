# SPDX-License-Identifier: LGPL-2.1-or-later
"""A host with no more than is needed: no names of protocols and services, which are
a package of their own (netbase)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import USER, Daemon, Lab, why_not
from support.host import attach
from support.managing import forward, remove
from support.serving import serving

CONFIG = """
[broker]
network_grace_seconds = 0.2
[networks.default]
host_access = ["tcp/8000-8010", "udp/69"]
forward = ["udp/8053 site:53"]
rate = { egress = "100mbit", ingress = "100mbit" }
[networks.lan]
mode = "bridge"
bridge = "br-lan"
[[rules]]
networks = ["*"]
forward = ["tcp/8000-8099"]
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[tuple[Lab, Daemon]]:
    if reason := why_not():
        pytest.skip(reason)
    with Lab(tmp_path) as lab:
        lab.host.run(
            "sh", "-ec",
            "ip link add br-lan type bridge; ip link set br-lan up;"
            " for f in protocols services ethertypes networks iproute2/rt_protos; do"
            " test ! -e /etc/$f || mount --bind /dev/null /etc/$f; done",
        )  # fmt: skip
        with serving(lab, CONFIG) as running:
            yield lab, running


def test_a_minimal_host_is_served_in_full(daemon: tuple[Lab, Daemon]) -> None:
    lab, running = daemon
    with attach(lab, USER, name="site"), attach(lab, USER, network="lan"):
        forward(lab, USER, "tcp/8080", "site", 80)
        tables = str(lab.host.run("nft", "-nn", "list", "ruleset").stdout)
        assert "8080" in tables and "br-lan" not in tables
        remove(lab, USER, "tcp/8080", "default")
    assert "ERROR" not in running.log and "WARNING" not in running.log, running.log
