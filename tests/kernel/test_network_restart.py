# SPDX-License-Identifier: LGPL-2.1-or-later
"""Networks and forwarded ports over the broker's own end, whichever it was.

Shows daemon/publish.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lab import OTHER, USER, Daemon, Lab, until
from support.host import (
    RUNTIME,
    attach,
    dnsmasqs,
    elements,
    inside,
    leftovers,
    link,
    port,
    ruleset,
    until_nothing_is_left,
)
from support.managing import by, forward, forwards, network, reload, remove
from support.pump import TCP, UDP, V4, V6, Stack, bound, connected
from tapster import errors
from tapster.client import manage

HOST = {V4: "192.0.2.2", V6: "2001:db8::2"}
WORLD = {V4: "192.0.2.1", V6: "2001:db8::1"}
PUBLIC = {V4: "203.0.113.5", V6: "2001:db8:ffff::5"}
KILLED = pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "term"]
)
CONFIG = """
[broker]
network_grace_seconds = 0.2
[networks.default]
[networks.office]
scope = "shared"
[networks.internet]
egress = "internet"
host_access = ["udp/5000"]
[[rules]]
networks = ["*"]
"""


def with_default(text: str) -> str:
    """The configuration with more about the default network."""
    return CONFIG.replace("[networks.default]", f"[networks.default]\n{text}")


class Broker:
    """One after the other, on one host."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._daemons: list[Daemon] = []
        self.start()

    def start(self, text: str = CONFIG) -> None:
        self._lab.config(text)
        self._daemons.append(self._lab.daemon("--config", "/run/config"))

    def end(self, number: signal.Signals) -> None:
        status = self._daemons[-1].stop(number)
        assert status == (0 if number == signal.SIGTERM else -number), self.log

    @property
    def log(self) -> str:
        return self._daemons[-1].log

    def close(self) -> None:
        until_nothing_is_left(self._lab, networks=True)
        for row in forwards(self._lab, 0).values():
            if not row["static"]:
                remove(self._lab, row["uid"], row["port"], row["network"])
        self.end(signal.SIGTERM)
        assert leftovers(self._lab) == [] and ruleset(self._lab.host) == []
        for daemon in self._daemons:
            assert "Traceback" not in daemon.log, daemon.log


@pytest.fixture
def broker(lab: Lab) -> Iterator[Broker]:
    made = Broker(lab)
    yield made
    made.close()


@contextmanager
def guest(lab: Lab, uid: int = USER, **what: str) -> Iterator[Stack]:
    with attach(lab, uid, vnet_hdr=False, **what) as nic, Stack(nic) as made:
        yield made


def serves(lab: Lab, stack: Stack, number: int = 8080) -> None:
    """Whether a forwarded port leads to that guest, in both families."""
    for family in (V4, V6):
        with (
            stack.bound(TCP, 80, family) as server,
            connected(lab.world, HOST[family], number) as client,
        ):
            accepted, peer = server.accept()
            with accepted:
                assert peer[0] == WORLD[family]
                client.sendall(b"x")
                assert accepted.recv(1) == b"x"


class TestForwards:
    @KILLED
    def test_forwards_go_on_and_are_kept(
        self, lab: Lab, broker: Broker, number: signal.Signals
    ) -> None:
        forward(lab, USER, "tcp/8080", "web", 80)
        forward(lab, USER, "udp/8081", "later", 81)
        with guest(lab, name="web") as web:
            with web.bound(TCP, 80) as server:
                client = connected(lab.world, HOST[V4], 8080)
                accepted = server.accept()[0]
            with client, accepted:
                accepted.settimeout(5)
                broker.end(number)
                client.sendall(b"without a broker")
                assert accepted.recv(100) == b"without a broker"
                serves(lab, web)
                broker.start()
                client.sendall(b"with the next")
                assert accepted.recv(100) == b"with the next"
            states = {port: row["state"] for port, row in forwards(lab, USER).items()}
            assert states == {"tcp/8080": "active", "udp/8081": "waiting"}
            serves(lab, web)
            for kind, taken in ((TCP, 8080), (UDP, 8081)):
                with pytest.raises(OSError, match="in use"):
                    bound(lab.host, kind, taken)
            with guest(lab, OTHER, name="later"):
                assert forwards(lab, USER)["udp/8081"]["state"] == "waiting"
        until("its end", lambda: "forwards4" not in elements(lab.host))

    def test_forwards_are_kept_while_no_guest_is_there(
        self, lab: Lab, broker: Broker
    ) -> None:
        forward(lab, USER, "tcp/8080", "web", 80)
        broker.end(signal.SIGTERM)
        assert ruleset(lab.host) == []
        bound(lab.host, TCP, 8080).close()
        kept = Path(inside(lab, "/run/state/forwards.json"))
        assert json.loads(kept.read_text()) == [
            ["default", USER, "tcp/8080", "web", 80]
        ]
        broker.start()
        with guest(lab, name="web") as web:
            serves(lab, web)

    def test_forwards_of_a_guest_that_went_meanwhile_are_shut(
        self, lab: Lab, broker: Broker
    ) -> None:
        forward(lab, USER, "tcp/8080", "web", 80)
        with guest(lab, name="web") as web:
            serves(lab, web)
            broker.end(signal.SIGKILL)
        broker.start()
        assert forwards(lab, USER)["tcp/8080"]["state"] == "waiting"
        assert "forwards4" not in elements(lab.host)

    def test_forwards_whose_port_was_taken_meanwhile_are_logged(
        self, lab: Lab, broker: Broker
    ) -> None:
        forward(lab, USER, "tcp/8080", "web", 80)
        broker.end(signal.SIGTERM)
        with bound(lab.host, TCP, 8080):
            broker.start()
            assert "port tcp/8080 is not held: Address already in use" in broker.log
            assert forwards(lab, USER)["tcp/8080"]["state"] == "waiting"
            with guest(lab, name="web"):  # a user takes nothing from the host
                assert forwards(lab, USER)["tcp/8080"]["state"] == "waiting"
                assert "forwards4" not in elements(lab.host)
        until_nothing_is_left(lab)
        with guest(lab, name="web") as web:
            serves(lab, web)
            with pytest.raises(OSError, match="in use"):
                bound(lab.host, TCP, 8080)

    @pytest.mark.parametrize(
        "text",
        [
            *("", "{", "[[1]]", "7", "[" * 100_000, "x" * (2 << 20)),
            '[["default", 1, "x", "y", 2]]',
            '[["default", true, "tcp/8080", "web", 80]]',
            '[["default", 23001, "tcp/8080", "web", "80"]]',
            '[["default", 23001, "tcp/8080", "web", 99999999]]',
            '[["default", 23001, "tcp/8080-8090", "web", 80]]',
            '[["default", 23001, "tcp/8080", "we b }", 80]]',
        ],
        ids=lambda text: text[:60],
    )
    def test_damaged_forwards_keep_no_broker_from_starting(
        self, lab: Lab, broker: Broker, text: str
    ) -> None:
        broker.end(signal.SIGTERM)
        Path(inside(lab, "/run/state/forwards.json")).write_text(text)
        broker.start()
        assert "forwards.json is damaged" in broker.log
        assert forwards(lab, 0) == {}
        forward(lab, USER, "tcp/8080", "web", 80)


def of_guest(lab: Lab, stack: Stack) -> list[Any]:
    shown = port(lab.host, stack.nic.ifname)
    ours = [link(lab.host, n) for n in (stack.nic.ifname, stack.nic.bridge)]
    return [[one["ifindex"] for one in ours], shown["locked"], shown["isolated"]]


def network_on(lab: Lab, bridge: str) -> dict[str, Any]:
    """What root is told of the instance on that bridge."""
    (found,) = (n for n in by(lab, 0, manage.list_networks) if n["bridge"] == bridge)
    return dict(found)


class TestNetworks:
    @KILLED
    def test_networks_keep_what_their_guests_had_over_a_changed_file(
        self, lab: Lab, broker: Broker, number: signal.Signals
    ) -> None:
        with (
            guest(lab, name="a") as mine,
            guest(lab, network="office", name="a") as one,
            guest(lab, OTHER, network="office", name="b") as two,
        ):
            before = [of_guest(lab, stack) for stack in (mine, one, two)]
            pids = sorted(dnsmasqs(lab))
            told = network(lab, 0, "office")
            broker.end(number)
            changed = with_default('mtu = 1400\ndomain = "lab.example"')
            broker.start(changed.replace('scope = "shared"', 'mode = "isolated"'))
            assert [of_guest(lab, stack) for stack in (mine, one, two)] == before
            assert sorted(dnsmasqs(lab)) == pids
            shown = network(lab, USER, "default")
            assert (shown["state"], shown["mtu"]) == ("pending", 1500)
            assert "domain, mtu" in shown["notes"][0]
            with bound(lab.world, UDP, 9) as world:
                for stack in (mine, one, two):
                    stack.bound(UDP).sendto(b"still here", (WORLD[V4], 9))
                    assert world.recv(20) == b"still here"
            with attach(lab, USER, name="b") as other:
                assert (other.bridge, other.mtu) == (mine.nic.bridge, 1500)
            office = network_on(lab, told["bridge"])
            assert (office["scope"], office["nics"]) == ("shared", 2)
        until_nothing_is_left(lab, networks=True)
        with attach(lab, USER, name="a") as again:
            assert again.mtu == 1400

    def test_live_changes_wait_for_a_reload(self, lab: Lab, broker: Broker) -> None:
        """A restart is no change of what guests have; a reload that follows is."""
        with guest(lab, name="a") as mine, bound(lab.world, UDP, 9) as world:
            broker.end(signal.SIGKILL)
            broker.start(with_default('egress = "none"'))
            mine.bound(UDP).sendto(b"still", (WORLD[V4], 9))
            assert world.recv(20) == b"still"
            assert reload(lab) == [f"default-{USER}: changed egress"]
            mine.bound(UDP).sendto(b"no more", (WORLD[V4], 9))
            mine.settle()
            with bound(lab.host, UDP) as host:
                host.sendto(b"last", (WORLD[V4], 9))
            assert world.recv(20) == b"last"

    def test_networks_that_reach_the_internet_only_do_so_from_the_start(
        self, lab: Lab, broker: Broker
    ) -> None:
        """What the host's own networks are is found anew, and told with the
        rules: there is no moment in which they are open."""
        for family, more in ((V4, []), (V6, ["nodad"])):
            length = 32 if family == V4 else 128
            lab.world.run("ip", "address", "replace", f"{PUBLIC[family]}/{length}",
                          "dev", "eth0", *more)  # fmt: skip
        with guest(lab, network="internet") as stack:
            for round_ in range(2):
                if round_:
                    broker.end(signal.SIGKILL)
                    broker.start()
                for family in (V4, V6):
                    with (
                        bound(lab.world, UDP, 9, family) as world,
                        stack.bound(UDP, 0, family) as sock,
                    ):
                        sock.sendto(b"the host's", (WORLD[family], 9))
                        sock.sendto(b"last", (PUBLIC[family], 9))
                        assert world.recv(20) == b"last"
        until("no host networks", lambda: "hosts4" not in elements(lab.host))

    def test_names_stay_unique_and_addresses_stable(
        self, lab: Lab, broker: Broker
    ) -> None:
        with attach(lab, USER, network="office", name="web") as nic:
            first = (nic.mac, nic.ipv4, nic.ipv6, nic.bridge)
            broker.end(signal.SIGKILL)
            broker.start()
            with pytest.raises(errors.NameInUse):
                attach(lab, OTHER, network="office", name="web")
        until_nothing_is_left(lab, networks=True)
        broker.end(signal.SIGTERM)
        broker.start()
        with attach(lab, USER, network="office", name="web") as nic:
            assert (nic.mac, nic.ipv4, nic.ipv6, nic.bridge) == first


def test_a_record_of_a_broker_that_knew_one_kind_of_network_is_read(
    lab: Lab, broker: Broker
) -> None:
    with attach(lab, USER, name="web") as nic:
        broker.end(signal.SIGKILL)
        path = inside(lab, f"{RUNTIME}/networks/{nic.bridge}/network.json")
        with open(path) as file:
            record = json.load(file)
        del record["definition"]
        with open(path, "w") as file:
            json.dump({**record, "network": "default"}, file)
        broker.start()
        assert network(lab, USER, "default")["state"] == "up"
        assert "damaged" not in broker.log
