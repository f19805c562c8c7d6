# SPDX-License-Identifier: LGPL-2.1-or-later
"""The rates of a network's NICs: there with the NIC, changed while its guest
runs, kept over a restart, and gone with it. How exactly they hold is
test_rates.py's."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest

from lab import USER, Daemon, Lab
from support.host import (
    as_user,
    attach,
    leftovers,
    port,
    ruleset,
    tool,
    until_nothing_is_left,
)
from support.serving import stop_well
from tapster import errors
from tapster.client import attach as client
from tapster.client import manage

CONFIG = """
[broker]
network_grace_seconds = 0.1
[networks.default]
rate = {{ egress = "{0}", ingress = "{1}" }}
"""


@pytest.fixture
def daemon(lab: Lab) -> Iterator[Daemon]:
    lab.config(CONFIG.format("80mbit", "160mbit"))
    running = lab.daemon("--config", "/run/config")
    yield running
    if running.process.poll() is not None:
        return  # its test has killed it, and looked at the end
    until_nothing_is_left(lab, networks=True)
    assert limits(lab) == {}
    stop_well(lab, running)
    assert "ERROR" not in running.log, running.log


def limits(lab: Lab) -> dict[str, float]:
    """Of each port that has one, what its guest may send, in bit/s."""
    units = {"bytes": 1, "kbytes": 1024, "mbytes": 1 << 20}
    objects = [e["limit"] for e in ruleset(lab.host) if "limit" in e]
    names = {o["name"] for o in objects}
    maps = [e["map"] for e in ruleset(lab.host) if "map" in e]
    (found,) = [m.get("elem", []) for m in maps if m["name"] == "egress_limits"] or [[]]
    assert {pair[0] for pair in found} == names
    return {
        o["name"]: 8 * o["rate"] * units[o.get("rate_unit", "bytes")] for o in objects
    }


def bucket(lab: Lab, nic: client.Nic) -> dict[str, Any]:
    found: list[dict[str, Any]] = tool(
        lab.host, "tc", "-j", "qdisc", "show", "dev", nic.ifname
    )
    return next((q["options"] for q in found if q["kind"] == "tbf"), {})


def reload(lab: Lab, *rates: str) -> None:
    lab.config(CONFIG.format(*rates))
    with as_user(lab, 0):
        manage.reload(socket="io.tapster.Broker")


def test_rates_come_and_go_with_the_nic(lab: Lab, daemon: Daemon) -> None:
    with attach(lab, USER) as nic, attach(lab, USER) as other:
        assert limits(lab) == {nic.ifname: 80e6, other.ifname: 80e6}
        assert bucket(lab, nic)["rate"] == 20_000_000  # bytes a second
    until_nothing_is_left(lab)


def test_rates_change_under_a_running_guest(lab: Lab, daemon: Daemon) -> None:
    with attach(lab, USER) as nic:
        reload(lab, "8mbit", "0")
        assert limits(lab) == {nic.ifname: 8e6}
        assert bucket(lab, nic) == {}
        reload(lab, "0", "16mbit")
        assert limits(lab) == {}
        assert bucket(lab, nic)["rate"] == 2_000_000


def test_rates_change_on_a_bridge_of_the_hosts(lab: Lab, daemon: Daemon) -> None:
    lan = """
[networks.lan]
mode = "bridge"
bridge = "br-lan"
isolation = {2}
rate = {{ egress = "{0}", ingress = "{1}" }}
[[rules]]
networks = ["lan", "default"]
"""

    def changes(*values: str) -> list[str]:
        lab.config(lan.format(*values))
        with as_user(lab, 0):
            return manage.reload(socket="io.tapster.Broker")

    lab.host.run("ip", "link", "add", "br-lan", "type", "bridge")
    try:
        changes("80mbit", "0", "false")
        with attach(lab, USER, network="lan") as nic, attach(lab, USER) as apart:
            both = ["lan: changed isolation, rate"]
            assert limits(lab)[nic.ifname] == 80e6
            before = port(lab.host, apart.ifname)
            assert changes("8mbit", "16mbit", "true") == [
                "lan: changed isolation, rate"
            ]
            assert limits(lab)[nic.ifname] == 8e6
            assert bucket(lab, nic)["rate"] == 2_000_000
            assert port(lab.host, nic.ifname)["isolated"]
            assert port(lab.host, apart.ifname) == before
            assert changes("8mbit", "16mbit", "true") == []
            assert changes("0", "0", "false") == both
            assert bucket(lab, nic) == {} and nic.ifname not in limits(lab)
            assert not port(lab.host, nic.ifname)["isolated"]
    finally:
        until_nothing_is_left(lab, networks=True)
        lab.host.run("ip", "link", "del", "br-lan")


def test_rates_are_kept_by_a_broker_that_starts_again(lab: Lab, daemon: Daemon) -> None:
    with attach(lab, USER) as nic:
        daemon.process.send_signal(signal.SIGKILL)
        daemon.process.wait(10)
        second = lab.daemon("--config", "/run/config")
        assert limits(lab) == {nic.ifname: 80e6}
        assert bucket(lab, nic)["rate"] == 20_000_000
        nic.close()
        until_nothing_is_left(lab, networks=True)
        assert limits(lab) == {}
        assert second.stop() == 0
        assert leftovers(lab) == [] and ruleset(lab.host) == []


def test_rates_of_a_nic_that_could_not_be_made_are_taken_back_once(lab: Lab) -> None:
    """Its last stage fails, after the rate and all that refers to it are there."""
    lab.config(CONFIG.format("80mbit", "160mbit"))
    broken = """if True:
        from tapster.daemon.provision.provisioner import _Making
        def fail(self):
            raise OSError(5, "no")
        _Making._set_up = fail
    """
    running = lab.daemon("--config", "/run/config", script=broken)
    with pytest.raises(errors.BrokerFailure):
        attach(lab, USER)
    until_nothing_is_left(lab, networks=True)
    assert running.stop() == 0
    assert leftovers(lab) == [] and ruleset(lab.host) == []
    assert "cannot undo" not in running.log and "Traceback" not in running.log
