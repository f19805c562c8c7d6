# SPDX-License-Identifier: LGPL-2.1-or-later
"""Killed at any point of anything: what is left is what should be, and no more.

Each operation is done again and again, and the broker killed at the first, the
second, ... of its points (support/crash.py), until it gets through. After each
kill a new broker starts, and the whole host is compared (support/state.py).

Shows daemon/provision.
"""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

import pytest

from lab import OTHER, USER, Lab, until
from support import frames
from support.crash import Host, arm, disarm
from support.frames import Tap, arrives
from support.host import (
    ask,
    attach,
    broker,
    dnsmasqs,
    links,
    mentions,
    nics,
    port,
    sysctl,
)
from support.managing import forward, forwards, reload, remove
from support.state import Live, Net, take
from tapster.client import attach as client
from tapster.errors import TapsterError

CONFIG = """
[authorization]
bridge_conf = "/etc/qemu/bridge.conf"
lxc_usernet = "/run/usernet"
[broker]
network_grace_seconds = 0.1
[networks.default]
[networks.closed]
mode = "isolated"
[networks.office]
scope = "shared"
rate = {{ egress = "{0}", ingress = "{1}" }}
isolation = {2}
host_access = ["{3}"]
egress = "{4}"
dns = ["{5}"]
[networks.lan]
mode = "bridge"
bridge = "br7"
rate = {{ egress = "{6}" }}
[[rules]]
users = [23001, 23002]
networks = ["*"]
[[rules]]
bridges = ["br8"]
trusted = true
[[rules]]
users = [23003]
networks = ["default"]
ttl = 1
[[rules]]
users = [23004]
networks = ["default"]
ttl = 600
"""
BEFORE = ("80mbit", "160mbit", "true", "tcp/22", "any", "192.0.2.1", "0")
BRIEF, LONGER, NOBODY = 23003, 23004, 65534
AFTER = ("8mbit", "16mbit", "false", "tcp/23", "none", "192.0.2.2", "24mbit")
NETS = {
    "closed": Net(nat=False),
    "office": Net(isolating=True, host_access=(("tcp", 22),)),
    "lan": Net(),
}
OFFICE: dict[str, Any] = {
    "isolated": True,
    "egress": 80_000_000,
    "ingress": 160_000_000,
}


@pytest.fixture(scope="module")
def made(lab: Lab) -> Host:
    lab.config(CONFIG.format(*BEFORE))
    lab.bridge_conf("allow br7\n")
    lab.host.run("sh", "-ec", """
        for name in br7 br8 br9; do
            ip link add $name type bridge; ip link set $name up
        done
        echo "nobody tap br9 4" > /run/usernet""")  # fmt: skip
    return Host(lab, NETS)


@pytest.fixture
def host(made: Host) -> Iterator[Host]:
    """A broker, or one after the other; at the end none, and nothing is left."""
    made.lab.config(CONFIG.format(*BEFORE))
    made.start()
    yield made
    made.end()


@pytest.fixture
def held(host: Host) -> Iterator[ExitStack]:
    """What is open for a test."""
    with ExitStack() as stack:
        yield stack


class Waiting:
    """A NIC of the helper's contract: no MAC is known."""

    def __init__(self, lab: Lab, uid: int, **what: Any) -> None:
        with broker(lab, uid) as wire:
            reply, fds = wire.call(
                "Attach", {"for_parent": True, "vnet_hdr": False, **what}, fds=True
            )
        self.fd = fds[0]
        self.ifname: str = reply["nic"]["ifname"]
        self.subnet6: IPv4Network | IPv6Network | None = None
        for name, value in reply["nic"].items():
            setattr(self, name, value)

    def close(self) -> None:
        os.close(self.fd)


class Base:
    """Guests that run while the broker dies around them: on a network of their
    user's, a shared one with rates, and a LAN."""

    def __init__(self, host: Host, held: ExitStack) -> None:
        def take_in(uid: int, **what: Any) -> Any:
            nic = attach(host.lab, uid, vnet_hdr=False, **what)
            return held.enter_context(nic)

        self.a = Live(take_in(USER, name="a"), USER)
        self.b = Live(take_in(USER, name="b"), USER)
        self.office = Live(take_in(OTHER, network="office"), OTHER, **OFFICE)
        self.lan = Live(take_in(USER, network="lan"), USER, learns=True)
        self.live = [self.a, self.b, self.office, self.lan]
        self._host = host

    def check(self) -> None:
        """They still reach each other."""
        one, two = (Tap(each.nic.fd, str(each.nic.mac)) for each in (self.a, self.b))
        for here, there, nic in ((one, two, self.a.nic), (two, one, self.b.nic)):
            mac = str(nic.mac)
            frame = frames.arp(mac, mac, str(nic.ipv4), "10.64.0.9")
            assert arrives(frame, here, there, frame)


@pytest.fixture
def base(host: Host, held: ExitStack) -> Base:
    made = Base(host, held)
    assert host.wrong(made.live) == []
    return made


def attached(host: Host, uid: int, **what: Any) -> client.Nic | None:
    """A NIC; None if the broker died of it."""
    try:
        return attach(host.lab, uid, vnet_hdr=False, **what)
    except TapsterError:
        host.daemon.process.wait(10)
        return None


# Of each operation every fifth point, unless all are wanted.
STRIDE = int(os.environ.get("TAPSTER_CRASH_STRIDE", "5"))


class Killing:
    """One operation, killed at each of its points in turn."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.found: list[str] = []
        self.hit: list[str] = []

    def rounds(self, limit: int = 150) -> Iterator[None]:
        """One for each point: the caller prepares, calls `arm`, acts, and calls
        `died`."""
        for self._number in range(0, limit, STRIDE):
            yield
            if not self._is_hit:
                assert self.hit
                assert self.found == [], "\n".join(self.found)
                return
        raise AssertionError(f"more than {limit} points: {self.hit}")

    def arm(self) -> None:
        arm(self._host.lab, self._number)

    def died(self, is_done: Callable[[], bool]) -> bool:
        """Wait for the end of the broker or of the operation; then there is
        another broker in any case.

        :returns: whether the operation was cut short.
        """
        host = self._host
        until("an end", lambda: host.is_dead or is_done())
        host.settle()
        points = disarm(host.lab)
        self._is_hit = host.is_dead
        self._at = f"before {points[-1]}" if points else "at the end"
        if host.is_dead:
            self.hit.append(self._at)
        else:
            self._at = "at the end"
            host.kill()
        host.start()
        return self._is_hit

    def check(self, *lists: list[str]) -> None:
        self.found += [
            f"{len(self.hit)}, {self._at}: {one}" for each in lists for one in each
        ]


KINDS: dict[str, tuple[int, dict[str, Any], dict[str, Any]]] = {
    "nat": (OTHER, {}, {}),
    "nat, one more": (USER, {}, {}),
    "isolated": (USER, {"network": "closed"}, {}),
    "shared, with a rate": (USER, {"network": "office"}, OFFICE),
    "lan": (OTHER, {"network": "lan"}, {"learns": True}),
    "bridge": (USER, {"bridge": "br7"}, {"learns": True}),
    "trusted": (USER, {"bridge": "br8"}, {"trusted": True}),
    "usernet": (NOBODY, {"bridge": "br9"}, {"learns": True}),
    "ttl": (LONGER, {}, {}),  # one that ends meanwhile is in test_expiry
}
EACH_KIND = pytest.mark.parametrize("kind", KINDS)


def exists(host: Host, nic: Any) -> bool:
    return nic.ifname in links(host.lab.host, "tapster")


@EACH_KIND
def test_attach(host: Host, base: Base, kind: str) -> None:
    uid, what, facts = KINDS[kind]
    killing = Killing(host)
    for _ in killing.rounds():
        before = take(host.lab)
        killing.arm()
        with ExitStack() as stack:
            nic = attached(host, uid, **what)
            if nic is not None:
                stack.enter_context(nic)
            killing.died(lambda: True)
            if nic is None:
                killing.check(host.wrong(base.live), host.changed(before))
            else:  # whether the broker died of what came after the reply or not
                killing.check(host.wrong([*base.live, Live(nic, uid, **facts)]))
            base.check()
        until("its end", lambda: not leftovers_but(host, base))


@pytest.mark.parametrize(
    ("uid", "what"),
    [(USER, {"bridge": "br7"}), (USER, {}), (OTHER, {"network": "office"})],
    ids=["bridge", "nat", "shared"],
)
def test_attach_without_a_mac(
    host: Host, base: Base, uid: int, what: dict[str, Any]
) -> None:
    killing = Killing(host)
    facts: dict[str, Any] = OFFICE if "network" in what else {}
    for _ in killing.rounds():
        before = take(host.lab)
        killing.arm()
        try:
            nic = Waiting(host.lab, uid, **what)
        except TapsterError:
            assert killing.died(lambda: False)
            killing.check(host.wrong(base.live), host.changed(before))
        else:
            killing.died(lambda: True)
            live = Live(nic, uid, waiting=True, **facts)
            killing.check(host.wrong([*base.live, live]))
            nic.close()
            until("its end", lambda: not leftovers_but(host, base))


def gone(host: Host, nic: Any) -> bool:
    """Whether all of a NIC is gone, as far as one sees from outside."""
    return (
        not exists(host, nic)
        and not host.files("nics", nic.ifname).exists()
        and not mentions(host.lab.host, nic.ifname)
        and host.is_quiet(nic.bridge)
    )


@EACH_KIND
def test_detach(host: Host, base: Base, kind: str) -> None:
    uid, what, facts = KINDS[kind]
    killing = Killing(host)
    for _ in killing.rounds():
        nic = attach(host.lab, uid, vnet_hdr=False, **what)
        killing.arm()
        with nic:
            try:
                ask(host.lab, uid, "Detach", {"ifname": nic.ifname})
            except TapsterError:
                host.daemon.process.wait(10)
            killing.died(partial(gone, host, nic))
            live = [Live(nic, uid, **facts)] if exists(host, nic) else []
            killing.check(host.wrong([*base.live, *live]))
            base.check()


@EACH_KIND
def test_close(host: Host, base: Base, kind: str) -> None:
    uid, what, _ = KINDS[kind]
    killing = Killing(host)
    for _ in killing.rounds():
        nic = attach(host.lab, uid, vnet_hdr=False, **what)
        killing.arm()
        nic.close()
        killing.died(partial(gone, host, nic))
        killing.check(host.wrong(base.live))


def leftovers_but(host: Host, base: Base) -> list[str]:
    """What there is of other NICs than those that run all the time."""
    wanted = {each.nic.ifname for each in base.live}
    wanted |= {each.nic.bridge for each in base.live}
    found = links(host.lab.host, "tap") + os.listdir(host.files("nics"))
    found += os.listdir(host.files("networks"))
    return sorted(set(found) - wanted)


def test_expiry(host: Host, base: Base) -> None:
    killing = Killing(host)
    for _ in killing.rounds():
        with attach(host.lab, BRIEF, vnet_hdr=False) as nic:
            killing.arm()
            killing.died(partial(gone, host, nic))
            until("its end", partial(gone, host, nic))
            killing.check(host.wrong(base.live))


@pytest.mark.parametrize("what", [{"bridge": "br7"}, {}], ids=["bridge", "nat"])
def test_admission(host: Host, base: Base, what: dict[str, Any]) -> None:
    """Whenever it is interrupted: in the end the guest has its port."""
    killing = Killing(host)
    mac = "52:54:00:12:34:56"
    frame = frames.arp(mac, mac, "0.0.0.0", "10.64.0.9")
    for _ in killing.rounds():
        nic = Waiting(host.lab, USER, **what)
        killing.arm()
        os.write(nic.fd, frame)
        killing.died(partial(is_in, host, nic, "active"))

        until("admission", partial(is_in, host, nic, "active", frame))
        nic.subnet6 = ip_network(f"{base.a.nic.ipv6}/64", strict=False)
        live = Live(nic, USER, mac=mac, learns=bool(what))
        killing.check(host.wrong([*base.live, live]))
        nic.close()
        until("its end", lambda: not leftovers_but(host, base))


def test_refusal(host: Host, base: Base) -> None:
    """A port whose guest showed another's MAC stays shut, and learns nothing."""
    killing = Killing(host)
    mac = str(base.a.nic.mac)
    for _ in killing.rounds():
        nic = Waiting(host.lab, USER)
        frame = frames.arp(mac, mac, "0.0.0.0", "10.64.0.9")
        killing.arm()
        os.write(nic.fd, frame)
        killing.died(partial(is_in, host, nic, "refused"))

        until("refusal", partial(is_in, host, nic, "refused", frame))
        now = port(host.lab.host, nic.ifname)
        if (now["locked"], now["learning"]) != (True, False):
            killing.check([f"{nic.ifname} is {now}"])
        base.check()
        nic.close()
        until("its end", lambda: not leftovers_but(host, base))
        killing.check(host.wrong(base.live))


def is_in(host: Host, nic: Waiting, state: str, frame: bytes = b"") -> bool:
    """Whether a NIC is in that state; its guest goes on asking."""
    if frame:
        os.write(nic.fd, frame)
    return states(host)[nic.ifname] == state


def states(host: Host) -> dict[str, str]:
    """By name; nothing if there is no broker just now."""
    try:
        return {nic["ifname"]: nic["state"] for nic in nics(host.lab)}
    except TapsterError:
        host.daemon.process.wait(10)
        return defaultdict(str)


def test_forward(host: Host, base: Base) -> None:
    """One that is asked for, and given up: it is there whole or not at all."""
    where = ("tcp", 8080), (base.a, 80)

    def is_there() -> bool:
        return "tcp/8080" in forwards(host.lab, USER)

    def add() -> None:
        forward(host.lab, USER, "tcp/8080", "a", 80)

    def give_up() -> None:
        remove(host.lab, USER, "tcp/8080")

    for act, undo, wanted in ((add, give_up, False), (give_up, add, True)):
        killing = Killing(host)
        for _ in killing.rounds():
            if is_there() is not wanted:
                undo()
            killing.arm()
            try:
                act()
            except TapsterError:
                host.daemon.process.wait(10)
            killing.died(lambda: True)
            opened = dict([where]) if is_there() else {}
            killing.check(host.wrong(base.live, forwards=opened))
            base.check()
    assert not is_there()


def test_reload(host: Host, base: Base) -> None:
    """After a restart and one more reload all is as the files say."""
    config = [BEFORE, AFTER]
    killing = Killing(host)
    for _ in killing.rounds():
        host.lab.config(CONFIG.format(*config[0]))
        reload(host.lab)
        live = Live(base.office.nic, OTHER, **OFFICE)
        before = [base.a, base.b, live, base.lan]
        killing.check(host.wrong(before))
        host.lab.config(CONFIG.format(*config[1]))
        killing.arm()
        try:
            reload(host.lab)
        except TapsterError:
            host.daemon.process.wait(10)
        killing.died(lambda: True)
        reload(host.lab)
        live = Live(base.office.nic, OTHER, egress=8_000_000, ingress=16_000_000)
        lan = Live(base.lan.nic, USER, learns=True, egress=24_000_000)
        nets = {"office": Net(egress=False, host_access=(("tcp", 23),))}
        until("dnsmasq again", lambda: len(dnsmasqs(host.lab)) == 2)
        killing.check(host.wrong([base.a, base.b, live, lan], nets=nets))
        base.check()


def test_end(host: Host, base: Base) -> None:
    """Told to end, and killed while it does; with guests, and without."""
    killing = Killing(host)
    for _ in killing.rounds():
        killing.arm()
        host.daemon.process.send_signal(signal.SIGTERM)
        status = host.daemon.process.wait(10)
        killing.died(lambda: True)
        killing.check(host.wrong(base.live))
        base.check()
        if status == 0:
            return


def test_start(host: Host, base: Base) -> None:
    """Killed while it finds what an earlier one left: guests that run, one that
    went, and a network of no one."""
    for point in range(0, 300, 4 * STRIDE):
        others = [
            attach(host.lab, OTHER, vnet_hdr=False),
            attach(host.lab, USER, network="closed", vnet_hdr=False),
            attach(host.lab, USER, bridge="br7", vnet_hdr=False),
        ]
        host.kill()
        for nic in others:
            nic.close()
        arm(host.lab, point)
        try:
            host.start()
        except RuntimeError:
            points = disarm(host.lab)
            base.check()
            host.start()
            found = host.wrong(base.live)
            assert found == [], (point, points[-1], found)
            base.check()
        else:
            disarm(host.lab)
            assert point > 10
            assert host.wrong(base.live) == []
            return
    raise AssertionError("it never started")


def test_forwarding_ends_with_the_last_network_that_needs_it(
    host: Host, held: ExitStack
) -> None:
    closed = attach(host.lab, USER, network="closed", vnet_hdr=False)
    live = Live(held.enter_context(closed), USER)
    with attach(host.lab, USER):
        assert sysctl(host.lab.host, "ipv4/ip_forward") == "1"
    until("its end", lambda: sysctl(host.lab.host, "ipv4/ip_forward") == "0")
    assert host.wrong([live]) == []
