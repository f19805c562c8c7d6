# SPDX-License-Identifier: LGPL-2.1-or-later
"""Another configuration under running guests: what changes at once, what waits,
and that nobody loses a frame over it.

Shows daemon/reconfigure.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lab import OTHER, USER, Daemon, Lab, until
from support import frames
from support.guest import Guest
from support.host import (
    attach,
    dnsmasqs,
    elements,
    inside,
    link,
    links,
    nics,
    plain_socket,
    port,
    ruleset,
    until_nothing_is_left,
)
from support.managing import by, forward, forwards, network, reload, remove
from support.pump import FAMILIES, TCP, UDP, V4, V6, Stack, bound, connected
from support.serving import serving
from tapster import errors
from tapster.client import manage

HOST: dict[int, str] = {V4: "192.0.2.2", V6: "2001:db8::2"}
WORLD: dict[int, str] = {V4: "192.0.2.1", V6: "2001:db8::1"}
SECTIONS = {
    "broker": "network_grace_seconds = 0.2",
    "networks.default": "",
    "networks.office": 'scope = "shared"',
    "networks.other": "",
}


def write(lab: Lab, **changes: str | None) -> None:
    """The configuration, with these sections otherwise; None: without it."""
    wanted = {f"networks.{name}": text for name, text in changes.items()}
    sections: dict[str, str | None] = {**SECTIONS, **wanted}
    text = "".join(
        f"[{name}]\n{body}\n" for name, body in sections.items() if body is not None
    )
    names = [name.partition(".")[2] for name, body in sections.items()
             if name != "broker" and body is not None]  # fmt: skip
    words = ", ".join(f'"{name}"' for name in names)
    lab.config(f"{text}[[rules]]\nnetworks = [{words}]\n")


@pytest.fixture(scope="module")
def daemon(lab: Lab) -> Iterator[Daemon]:
    write(lab)
    with serving(lab) as running:
        yield running


@pytest.fixture
def held(lab: Lab, daemon: Daemon) -> Iterator[ExitStack]:
    """What is open for a test; afterwards the configuration is as at first."""
    with ExitStack() as stack:
        yield stack
    until_nothing_is_left(lab, networks=True)
    write(lab)
    assert reload(lab) == []


def guest(lab: Lab, held: ExitStack, uid: int = USER, **what: str) -> Stack:
    nic = held.enter_context(attach(lab, uid, vnet_hdr=False, **what))
    return held.enter_context(Stack(nic))


class Stream:
    """Numbered datagrams from a guest, one a few milliseconds, all the time that
    this is open; `lost()` ends it and says which did not arrive."""

    def __init__(self, sender: socket.socket, receiver: socket.socket, to: str) -> None:
        self._sender, self._receiver, self._to = sender, receiver, to
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._stop = threading.Event()
        self._sent = 0
        self._thread = threading.Thread(target=self._work, name="stream")
        self._thread.start()

    def _work(self) -> None:
        number = self._receiver.getsockname()[1]
        while not self._stop.wait(0.003):
            self._sender.sendto(str(self._sent).encode(), (self._to, number))
            self._sent += 1

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def lost(self) -> list[int]:
        self.close()
        assert self._sent > 5
        seen: set[int] = set()
        while self._sent - 1 not in seen:
            seen.add(int(self._receiver.recv(20)))
        return sorted(set(range(self._sent)) - seen)


def of_guest(lab: Lab, stack: Stack) -> list[Any]:
    """What must be the same before and after: the device and its port."""
    own, bridge = stack.nic.ifname, stack.nic.bridge
    shown = port(lab.host, own)
    return [link(lab.host, own)["ifindex"], link(lab.host, bridge)["ifindex"],
            shown["master"], shown["locked"]]  # fmt: skip


def reaches(
    sender: Stack, receiver: socket.socket, to: tuple[str, int],
    proof: Callable[[], object],
) -> bool:  # fmt: skip
    """Whether a guest's datagram arrives; `proof` sends one there that does."""
    with sender.bound(UDP, 0, receiver.family) as sock:
        sock.sendto(b"asked", to)
    sender.settle()
    proof()
    first = seen = receiver.recv(20)
    while seen != b"last":
        seen = receiver.recv(20)
    return first == b"asked"


class TestLive:
    def test_live_changes_reach_running_guests_and_interrupt_none(
        self, lab: Lab, daemon: Daemon, held: ExitStack
    ) -> None:
        one = guest(lab, held, name="web")
        two = guest(lab, held, name="db")
        three = guest(lab, held, OTHER, network="other")
        inside_ = Stream(one.bound(UDP), two.bound(UDP, 77), str(two.nic.ipv4))
        held.callback(inside_.close)
        world = held.enter_context(bound(lab.world, UDP, 78))
        outside = Stream(three.bound(UDP), world, WORLD[V4])
        held.callback(outside.close)
        before = [of_guest(lab, stack) for stack in (one, two, three)]
        pids = dnsmasqs(lab)
        changes = (
            'host_access = ["tcp/2222", "udp/5000"]',
            "isolation = false",
            'forward = ["tcp/8080 web:80"]',
            'rate = {egress = "1gbit"}',
            '[networks.default.reservations]\nweb = "10.99.1.1"',
        )
        for body in changes:
            write(lab, default=body)
            told = reload(lab)
            assert len(told) == 1 and told[0].startswith(f"default-{USER}: changed ")
            assert dnsmasqs(lab) == pids
        assert [of_guest(lab, stack) for stack in (one, two, three)] == before
        assert inside_.lost() == outside.lost() == []

    @pytest.mark.parametrize("how", ["signal", "call"])
    def test_a_changed_host_access_opens_and_shuts(
        self, lab: Lab, daemon: Daemon, held: ExitStack, how: str
    ) -> None:
        stack = guest(lab, held)
        inbox: dict[int, socket.socket] = {
            family: held.enter_context(bound(lab.host, UDP, 5000, family))
            for family in FAMILIES
        }

        def is_open(family: int) -> bool:
            def proof() -> None:
                with bound(lab.host, UDP, 0, family) as sock:
                    sock.sendto(b"last", (HOST[family], 5000))

            to = (stack.gateway(family), 5000)
            return reaches(stack, inbox[family], to, proof)

        def read_anew() -> None:
            before = daemon.log.count("read anew")
            if how == "signal":
                daemon.process.send_signal(signal.SIGHUP)
                until("it", lambda: daemon.log.count("read anew") > before)
            else:
                reload(lab)

        assert not is_open(V4) and not is_open(V6)
        write(lab, default='host_access = ["udp/4000-6000"]')
        read_anew()
        assert is_open(V4) and is_open(V6)
        write(lab)
        read_anew()
        assert not is_open(V4) and not is_open(V6)

    def test_a_changed_egress_cuts_what_is_established(
        self, lab: Lab, daemon: Daemon, held: ExitStack
    ) -> None:
        stack, other = guest(lab, held), guest(lab, held, OTHER)
        world = held.enter_context(bound(lab.world, UDP, 9))
        sender, witness = stack.bound(UDP), other.bound(UDP)

        def gets_out() -> bool:
            return reaches(
                stack, world, (WORLD[V4], 9),
                lambda: witness.sendto(b"last", (WORLD[V4], 9)),
            )  # fmt: skip

        assert gets_out()
        server = held.enter_context(bound(lab.world, TCP, 99))
        flow = held.enter_context(connected(stack.space, WORLD[V4], 99))
        accepted = held.enter_context(server.accept()[0])
        accepted.setblocking(False)
        for text in ('egress = "none"', 'egress = "internet"'):
            write(lab, default=text)  # the world is the host's own network
            told = reload(lab)
            assert f"default-{USER}: changed egress" in told
            # The other user's is the same network of the configuration.
            assert f"default-{OTHER}: changed egress" in told
            sender.sendto(b"asked", (WORLD[V4], 9))
            flow.send(b"x")
            stack.settle()
            with bound(lab.host, UDP) as sock:
                sock.sendto(b"last", (WORLD[V4], 9))
            assert world.recv(20) == b"last"
            with pytest.raises(BlockingIOError):
                accepted.recv(10)
        write(lab)
        reload(lab)
        assert gets_out()
        accepted.settimeout(5)
        assert accepted.recv(10)  # TCP sends again what was dropped

    def test_a_changed_isolation_parts_guests_and_joins_them(
        self, lab: Lab, daemon: Daemon, held: ExitStack
    ) -> None:
        one = guest(lab, held, network="office", name="a")
        two = guest(lab, held, OTHER, network="office", name="b")
        inbox = two.bound(UDP, 9)
        one.space.run("ip", "neigh", "add", str(two.nic.ipv4), "lladdr",
                      str(two.nic.mac), "dev", "eth0")  # fmt: skip

        def is_joined() -> bool:
            def proof() -> None:
                with bound(lab.host, UDP) as sock:
                    sock.sendto(b"last", (str(two.nic.ipv4), 9))

            return reaches(one, inbox, (str(two.nic.ipv4), 9), proof)

        assert not is_joined()
        for text, joined in (("isolation = false", True), ("isolation = true", False)):
            write(lab, office=f'scope = "shared"\n{text}')
            assert reload(lab) == ["office.shared: changed isolation"]
            for stack in (one, two):
                assert port(lab.host, stack.nic.ifname)["isolated"] is not joined
            assert ("within" in elements(lab.host)) is joined
            assert is_joined() is joined
            assert network(lab, USER, "office")["isolation"] is not joined

    def test_a_changed_dns_asks_other_resolvers(
        self, lab: Lab, daemon: Daemon, held: ExitStack
    ) -> None:
        lab.world.run("ip", "address", "add", "192.0.2.53/32", "dev", "eth0")
        first = held.enter_context(bound(lab.world, UDP, 53, V4, WORLD[V4]))
        second = held.enter_context(bound(lab.world, UDP, 53, V4, "192.0.2.53"))
        nic = held.enter_context(attach(lab, USER, name="web", vnet_hdr=False))
        asking = Guest(nic)
        asking.find_router()
        assert asking.dhcp(1) and asking.dhcp(3, nic.ipv4)[53] == b"\x05"
        leases = Path(inside(lab, f"/run/tapster/networks/{nic.bridge}/leases"))
        kept = leases.read_text()
        assert str(nic.mac) in kept

        def ask() -> None:
            query = b"\x12\x34\x01\x00\x00\x01" + bytes(6)
            query += b"\x07example\x03org\0\0\1\0\1"
            asking.send(asking.gateway, 17, frames.udp(40000, 53, query))

        ask()
        assert b"example" in first.recv(500)
        (pid,) = dnsmasqs(lab)
        write(lab, default='dns = ["192.0.2.53"]')
        assert reload(lab) == [f"default-{USER}: changed dns"]
        until("another", lambda: dnsmasqs(lab) not in ([], [pid]))
        second.settimeout(0.2)

        def is_asked() -> bool:
            ask()
            try:
                return b"example" in second.recv(500)
            except TimeoutError:  # it is just starting
                return False

        until("a question", is_asked)
        assert leases.read_text() == kept
        until("its name", lambda: asking.resolve("web")[1])
        lab.world.run("ip", "address", "del", "192.0.2.53/32", "dev", "eth0")

    def test_forwards_of_the_configuration_come_and_go(
        self, lab: Lab, daemon: Daemon, held: ExitStack
    ) -> None:
        web = guest(lab, held, name="web")
        server = web.bound(TCP, 80)
        write(lab, default='forward = ["tcp/8080 web:80", "tcp/8081 web:80"]')
        reload(lab)
        for number in (8080, 8081):
            connected(lab.world, HOST[V4], number).close()
            server.accept()[0].close()
        write(lab, default='forward = ["tcp/8081 web:80"]')
        reload(lab)
        assert set(forwards(lab, 0)) == {"tcp/8081"}
        with pytest.raises(ConnectionRefusedError):
            connected(lab.world, HOST[V4], 8080)
        bound(lab.host, TCP, 8080).close()
        connected(lab.world, HOST[V4], 8081).close()
        # One that a user has by now stays his.
        forward(lab, USER, "tcp/8082", "web", 80)
        write(lab, default='forward = ["tcp/8082 other:80"]')
        reload(lab)
        assert "port tcp/8082 is a user's already" in daemon.log
        connected(lab.world, HOST[V4], 8082).close()
        by(lab, USER, manage.remove_forward, "tcp/8082")

    @pytest.mark.parametrize("mode", ['"isolated"', '"bridge"\nbridge = "br-lan"'])
    def test_forwards_lead_nowhere_where_there_is_no_way_in(
        self, lab: Lab, daemon: Daemon, held: ExitStack, mode: str
    ) -> None:
        lab.host.run("ip", "link", "add", "br-lan", "type", "bridge")
        held.callback(lab.host.run, "ip", "link", "del", "br-lan")
        forward(lab, USER, "tcp/8080", "web", 80)
        held.callback(remove, lab, USER, "tcp/8080")
        reserved = '[networks.default.reservations]\nweb = { ipv4 = "10.9.9.9" }'
        write(lab, default=f"mode = {mode}\n" + reserved * ("bridge" in mode))
        reload(lab)
        with attach(lab, USER, name="web"):
            assert forwards(lab, USER)["tcp/8080"]["state"] == "waiting"
            assert "forwards4" not in elements(lab.host)
        until_nothing_is_left(lab, networks=True)
        write(lab)
        reload(lab)
        with attach(lab, USER, name="web"):
            assert forwards(lab, USER)["tcp/8080"]["state"] == "active"

    def test_configured_forward_waits_for_a_users_to_go(
        self, lab: Lab, daemon: Daemon, held: ExitStack
    ) -> None:
        forward(lab, USER, "tcp/8080", "web", 80)
        write(lab, other='forward = ["tcp/8080 site:80"]')
        reload(lab)
        assert not forwards(lab, 0)["tcp/8080"]["static"]
        remove(lab, USER, "tcp/8080")
        assert forwards(lab, 0)["tcp/8080"]["static"]


class TestStarting:
    def test_a_reload_reaches_a_network_that_is_starting(
        self, lab: Lab, daemon: Daemon, held: ExitStack
    ) -> None:
        asking, telling = (
            held.enter_context(plain_socket(lab, uid)) for uid in (USER, 0)
        )
        write(lab, default='egress = "none"\ndns = ["198.51.100.53"]')
        call = '{"method": "io.tapster.Broker.%s", "parameters": {}}\0'
        asking.sendall((call % "Attach").encode())
        telling.sendall((call % "Reload").encode())  # while dnsmasq starts
        assert b'"changes"' in telling.recv(4096)
        answer, fds, *_ = socket.recv_fds(asking, 4096, 1)
        for fd in fds:
            held.callback(os.close, fd)
        assert b'"bridge"' in answer
        shown = network(lab, USER, "default")
        assert (shown["state"], shown["egress"]) == ("up", "none")
        assert shown["dns"] == ["198.51.100.53"]
        assert "nat4" not in elements(lab.host)

    def test_a_network_that_is_removed_while_it_starts_takes_no_guest(
        self, lab: Lab, daemon: Daemon, held: ExitStack
    ) -> None:
        """Not even where a rule allows whatever network there is."""
        rule = '[[rules]]\nnetworks = ["*"]\n'
        lab.config(f"[networks.default]\n[networks.other]\n{rule}")
        reload(lab)
        asking, telling = (
            held.enter_context(plain_socket(lab, uid)) for uid in (USER, 0)
        )
        lab.config(f"[broker]\nnetwork_grace_seconds = 0.2\n{rule}")
        call = '{"method": "io.tapster.Broker.%s", "parameters": {%s}}\0'
        asking.sendall((call % ("Attach", '"network": "other"')).encode())
        telling.sendall((call % ("Reload", "")).encode())  # while dnsmasq starts
        assert b'"changes"' in telling.recv(4096)
        answer, fds, *_ = socket.recv_fds(asking, 4096, 1)
        for fd in fds:
            held.callback(os.close, fd)
        assert b"NotAuthorized" in answer and not fds


class TestWaiting:
    def test_what_must_wait_is_told_and_done_after_the_last_guest(
        self, lab: Lab, daemon: Daemon, held: ExitStack
    ) -> None:
        one = held.enter_context(attach(lab, USER, name="a"))
        before = link(lab.host, one.bridge)
        write(lab, default='mtu = 1400\ndomain = "lab.example"\negress = "internet"')
        told = reload(lab)
        assert told == [
            f"default-{USER}: changed egress",
            f"default-{USER}: domain, mtu will change when its last guest has gone",
        ]
        shown = network(lab, USER, "default")
        assert (shown["state"], shown["egress"]) == ("pending", "internet")
        assert shown["domain"] == "default.internal"
        assert shown["notes"] == [
            "changed: domain, mtu; takes effect when the last guest has gone"
        ]
        with attach(lab, USER, name="b") as two:  # as the others of its network
            assert (two.mtu, two.bridge) == (1500, one.bridge)
        after = link(lab.host, one.bridge)
        assert (after["ifindex"], after["mtu"]) == (before["ifindex"], 1500)
        with attach(lab, OTHER) as theirs:  # a new one is as it is configured
            assert theirs.mtu == 1400
        held.close()
        until_nothing_is_left(lab, networks=True)
        with attach(lab, USER, name="a") as again:
            assert again.mtu == link(lab.host, again.bridge)["mtu"] == 1400
            assert network(lab, USER, "default")["domain"] == "lab.example"
            assert network(lab, USER, "default")["state"] == "up"

    def test_nothing_waits_when_it_was_set_back(
        self, lab: Lab, daemon: Daemon, held: ExitStack
    ) -> None:
        held.enter_context(attach(lab, USER))
        write(lab, default="mtu = 1400")
        assert len(reload(lab)) == 1
        write(lab)
        assert reload(lab) == []
        assert network(lab, USER, "default")["state"] == "up"

    def test_what_waited_is_done_for_who_comes_after_the_last_guest(
        self, lab: Lab, daemon: Daemon, held: ExitStack,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        """Also if that is at once: the bridge that still waits is not the one."""
        monkeypatch.setitem(SECTIONS, "broker", "network_grace_seconds = 2")
        write(lab)
        reload(lab)
        with attach(lab, USER, name="a") as first:
            assert first.mtu == 1500
        until("the guest is gone", lambda: not nics(lab))
        assert links(lab.host, "tapbr") == [first.bridge]
        write(lab, default="mtu = 1400")
        reload(lab)
        with attach(lab, USER, name="a") as second:
            assert second.mtu == 1400
            assert network(lab, USER, "default")["state"] == "up"

    def test_a_removed_network_keeps_its_guests_and_takes_no_more(
        self, lab: Lab, daemon: Daemon, held: ExitStack
    ) -> None:
        one = guest(lab, held, network="other", name="a")
        two = guest(lab, held, network="other", name="b")
        before = of_guest(lab, one)
        write(lab, other=None)
        assert reload(lab) == [f"other-{USER}: removed when its last guest has gone"]
        with pytest.raises(errors.NotAuthorized):
            attach(lab, USER, network="other", name="c")
        shown = network(lab, 0, "other")
        assert shown["state"] == "removed" and shown["nics"] == 2
        assert of_guest(lab, one) == before
        inbox = two.bound(UDP, 9)
        one.bound(UDP).sendto(b"still here", (str(two.nic.ipv4), 9))
        assert inbox.recv(20) == b"still here"
        world = held.enter_context(bound(lab.world, UDP, 9))
        one.bound(UDP).sendto(b"still here", (WORLD[V4], 9))
        assert world.recv(20) == b"still here"
        held.close()
        until("its end", lambda: links(lab.host, "tapbr") == [])
        names = [n["name"] for n in by(lab, 0, manage.list_networks)]
        assert "other" not in names


class TestRefusal:
    def test_a_wrong_file_is_refused_and_changes_nothing(
        self, lab: Lab, daemon: Daemon, held: ExitStack
    ) -> None:
        stack = guest(lab, held)
        before = [ruleset(lab.host), of_guest(lab, stack), dnsmasqs(lab),
                  by(lab, 0, manage.list_networks)]  # fmt: skip
        lab.config('[networks.default]\negress = "none"\nhost_acess = ["tcp/22"]\n')
        with pytest.raises(errors.ConfigInvalid) as raised:
            reload(lab)
        message = str(raised.value)
        assert message.startswith("/run/config/tapster.toml:3:1: ")
        assert "host_acess" in message and "host_access" in message
        assert "nothing has changed" in str(raised.value.hint)
        count = daemon.log.count(message)
        daemon.process.send_signal(signal.SIGHUP)
        until("the log", lambda: daemon.log.count(message) > count)
        assert "the configuration stays as it was" in daemon.log
        assert before == [ruleset(lab.host), of_guest(lab, stack), dnsmasqs(lab),
                          by(lab, 0, manage.list_networks)]  # fmt: skip
        with attach(lab, OTHER, network="other"):
            pass

    def test_users_may_not_reload(
        self, lab: Lab, daemon: Daemon, held: ExitStack
    ) -> None:
        write(lab, default="mtu = 1400")
        with pytest.raises(errors.NotAuthorized) as raised:
            reload(lab, USER)
        assert "only root" in str(raised.value)
        with attach(lab, USER) as nic:
            assert nic.mtu == 1500


def test_killed_dnsmasq_is_back_with_its_leases(
    lab: Lab, daemon: Daemon, held: ExitStack
) -> None:
    """A client that returns asks for what it had (RFC 2131, INIT-REBOOT)."""
    nic = held.enter_context(attach(lab, USER, name="web", vnet_hdr=False))
    asking = Guest(nic)
    asking.find_router()
    assert asking.dhcp(1) and asking.dhcp(3, nic.ipv4)[53] == b"\x05"
    leases = Path(inside(lab, f"/run/tapster/networks/{nic.bridge}/leases"))
    kept = leases.read_text()
    assert str(nic.ipv4) in kept
    (pid,) = dnsmasqs(lab)
    os.kill(pid, signal.SIGKILL)
    until("another", lambda: dnsmasqs(lab) not in ([], [pid]))
    assert asking.dhcp(3, nic.ipv4)[53] == b"\x05"
    assert [line.split()[1:4] for line in leases.read_text().splitlines()[:1]] == [
        line.split()[1:4] for line in kept.splitlines()[:1]
    ]
    (pid,) = dnsmasqs(lab)
    assert os.stat(f"/proc/{pid}").st_uid != 0


def test_dnsmasq_serves_its_bridge_alone(
    lab: Lab, daemon: Daemon, held: ExitStack
) -> None:
    nic = held.enter_context(attach(lab, USER))
    (pid,) = dnsmasqs(lab)
    shown = lab.host.run("ss", "-Htulnp").stdout.splitlines()
    own = [line.split()[4] for line in shown if f"pid={pid}," in line]
    assert own
    gateway = network(lab, USER, "default")["gateway4"]
    gateway6 = network(lab, USER, "default")["gateway6"]
    for address in own:
        assert address.endswith(f"%{nic.bridge}:67") or address.startswith(
            (f"{gateway}:", f"[{gateway6}]:", f"[fe80::1]%{nic.bridge}:",
             f"[::]%{nic.bridge}:", f"%{nic.bridge}:", f"*%{nic.bridge}:")
        ), address  # fmt: skip
