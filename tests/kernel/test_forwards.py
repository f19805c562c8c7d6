# SPDX-License-Identifier: LGPL-2.1-or-later
"""Forwarded ports: to the right guest, from everywhere, and to nobody else."""

from __future__ import annotations

import errno
import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from lab import OTHER, USER, Daemon, Lab, Space, until
from support.host import (
    ask,
    attach,
    elements,
    inside,
    nics,
    until_nothing_is_left,
)
from support.managing import forward, forwards, remove
from support.pump import FAMILIES, TCP, UDP, V4, V6, Stack, bound, connected
from support.serving import serving
from tapster import errors
from tapster.daemon.publish.forward_table import USER_LIMIT

HOST: dict[int, str] = {V4: "192.0.2.2", V6: "2001:db8::2"}
WORLD: dict[int, str] = {V4: "192.0.2.1", V6: "2001:db8::1"}
NARROW = 23003  # a user with a rule of its own
CONFIG = f"""
[broker]
network_grace_seconds = 0.2

[networks.default]
forward = ["tcp/8443 site:443", "udp/8053 site:53"]
[networks.default.reservations]
site = {{ user = {OTHER}, mac = "02:00:00:00:00:51" }}

[networks.closed]
mode = "isolated"

[networks.lan]
mode = "bridge"
bridge = "br-lan"

[networks.second]

[[rules]]
users = [{NARROW}]
networks = ["default"]
forward = ["tcp/8000-8099"]
[[rules]]
networks = ["*"]
"""


@pytest.fixture(scope="module")
def daemon(lab: Lab) -> Iterator[Daemon]:
    with serving(lab, CONFIG) as running:
        yield running


@pytest.fixture(autouse=True)
def clean_after(lab: Lab, daemon: Daemon) -> Iterator[None]:
    yield
    until_nothing_is_left(lab, networks=True)
    for row in forwards(lab, 0).values():
        if not row["static"]:
            remove(lab, row["uid"], row["port"], row["network"])
    kept = Path(inside(lab, "/run/state/forwards.json"))
    assert not kept.exists() or json.loads(kept.read_text()) == []


@contextmanager
def guest(lab: Lab, uid: int = USER, name: str = "web", **what: str) -> Iterator[Stack]:
    with attach(lab, uid, name=name, vnet_hdr=False, **what) as nic, Stack(nic) as made:
        yield made


def talks(space: Space, address: str, port: int, server: socket.socket) -> str:
    """Connect from a space, and use the connection both ways; the peer as the
    server sees it."""
    client = connected(space, address, port)
    accepted, peer = server.accept()
    with client, accepted:
        accepted.settimeout(5)
        client.sendall(b"question")
        assert accepted.recv(100) == b"question"
        accepted.sendall(b"answer")
        assert client.recv(100) == b"answer"
    return str(peer[0])


def asks(client: socket.socket, server: socket.socket, address: str, port: int) -> str:
    """Ask and answer by datagrams; the answer has to come from where it was asked."""
    client.sendto(b"question", (address, port))
    data, peer = server.recvfrom(100)
    assert data == b"question"
    server.sendto(b"answer", peer)
    data, origin = client.recvfrom(100)
    assert (data, origin[:2]) == (b"answer", (address, port))
    return str(peer[0])


def is_refused(space: Space, address: str, port: int) -> bool:
    """Whether the host itself answers that nobody listens there."""
    try:
        connected(space, address, port).close()
    except ConnectionRefusedError:
        return True
    return False


class TestWays:
    @pytest.mark.parametrize("family", FAMILIES, ids=["ipv4", "ipv6"])
    def test_guest_sees_the_address_of_a_client_in_the_world(
        self, lab: Lab, daemon: Daemon, family: int
    ) -> None:
        forward(lab, USER, "tcp/8080", "web", 80)
        forward(lab, USER, "udp/8080", "web", 9000)
        with guest(lab) as web:
            server = web.bound(TCP, 80, family)
            peer = talks(lab.world, HOST[family], 8080, server)
            assert peer == WORLD[family]
            with bound(lab.world, UDP, 0, family) as client:
                server = web.bound(UDP, 9000, family)
                assert asks(client, server, HOST[family], 8080) == WORLD[family]

    def test_host_reaches_the_guest_at_each_of_its_own_addresses(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        forward(lab, USER, "tcp/8080", "web", 80)
        forward(lab, USER, "udp/8080", "web", 9000)
        with guest(lab) as web:
            tcp = {family: web.bound(TCP, 80, family) for family in FAMILIES}
            udp = {family: web.bound(UDP, 9000, family) for family in FAMILIES}
            for address in ("127.0.0.1", "127.3.2.1", HOST[V4], HOST[V6]):
                family = V6 if ":" in address else V4
                peer = talks(lab.host, address, 8080, tcp[family])
                with bound(lab.host, UDP, 0, family) as client:
                    assert asks(client, udp[family], address, 8080) == peer
                # Loopback's address means the guest itself there.
                expected = address if not address.startswith("127.") else None
                assert peer == (expected or web.gateway())

    def test_users_of_the_host_reach_the_guest(self, lab: Lab, daemon: Daemon) -> None:
        forward(lab, USER, "tcp/8080", "web", 80)
        with guest(lab) as web:
            server = web.bound(TCP, 80)
            code = "import socket; print(socket.create_connection(('127.0.0.1', 8080)))"
            lab.host.run(lab.python, "-I", "-c", code, user=OTHER)
            server.accept()[0].close()

    def test_ports_and_protocols_beside_it_lead_nowhere(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        forward(lab, USER, "tcp/8080", "web", 80)
        with guest(lab) as web:
            server, udp = web.bound(TCP, 80), web.bound(UDP, 80)
            for port in (80, 8079, 8081):
                assert is_refused(lab.world, HOST[V4], port)
            with bound(lab.world, UDP) as sender:
                sender.connect((HOST[V4], 8080))
                sender.send(b"x")
                with pytest.raises(ConnectionRefusedError):
                    sender.recv(100)
            talks(lab.world, HOST[V4], 8080, server)
            udp.setblocking(False)
            with pytest.raises(BlockingIOError):
                udp.recv(100)

    def test_guests_do_not_reach_forwarded_ports(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        """Neither another user's nor one's own in another network: a forwarded
        port is no way around what keeps networks apart."""
        forward(lab, USER, "udp/8080", "web", 9000)
        with (
            guest(lab) as web,
            guest(lab, OTHER) as stranger,
            guest(lab, USER, network="second") as second,
        ):
            for family in FAMILIES:
                server = web.bound(UDP, 9000, family)
                for other in (stranger, second):
                    sender = other.bound(UDP, 0, family)
                    for address in (
                        HOST[family],
                        other.gateway(family),
                        web.gateway(family),
                        web.address(family),
                    ):
                        for port in (8080, 9000):
                            try:
                                sender.sendto(b"stranger", (address, port))
                            except OSError as err:  # of the one before
                                assert err.errno in (errno.EHOSTUNREACH,
                                                     errno.ECONNREFUSED)  # fmt: skip
                    other.settle()
                with bound(lab.world, UDP, 0, family) as client:
                    asks(client, server, HOST[family], 8080)


class TestLife:
    def test_forward_waits_for_its_guest_and_for_its_return(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        told = forward(lab, USER, "tcp/8080", "Web", 80)
        assert (told["guest"], told["state"], told["ipv4"]) == ("web", "waiting", None)
        assert is_refused(lab.world, HOST[V4], 8080)
        for _ in range(2):
            with guest(lab) as web:
                row = forwards(lab, USER)["tcp/8080"]
                assert (row["state"], row["ipv4"], row["ipv6"]) == (
                    "active", web.nic.ipv4, web.nic.ipv6,
                )  # fmt: skip
                talks(lab.world, HOST[V4], 8080, web.bound(TCP, 80))
            until("its end", lambda: not nics(lab))
            assert forwards(lab, USER)["tcp/8080"]["state"] == "waiting"
            assert "forwards4" not in elements(lab.host)
            assert is_refused(lab.world, HOST[V4], 8080)
            assert is_refused(lab.host, "127.0.0.1", 8080)

    def test_port_that_is_given_up_is_the_hosts_again(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        forward(lab, USER, "tcp/8080", "web", 80)
        with guest(lab) as web:
            for family in FAMILIES:
                with pytest.raises(OSError, match="in use"):
                    bound(lab.host, TCP, 8080, family)
            server = web.bound(TCP, 80)
            talks(lab.world, HOST[V4], 8080, server)
            remove(lab, USER, "tcp/8080")
            assert forwards(lab, USER) == {}
            assert "forwards4" not in elements(lab.host)
            for family in FAMILIES:
                with bound(lab.host, TCP, 8080, family) as own:
                    peer = talks(lab.world, HOST[family], 8080, own)
                    assert peer == WORLD[family]

    def test_forward_is_not_for_another_users_guest_of_that_name(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        forward(lab, USER, "tcp/8080", "web", 80)
        with guest(lab, OTHER):
            assert forwards(lab, USER)["tcp/8080"]["state"] == "waiting"
            assert forwards(lab, OTHER) == {}
            assert is_refused(lab.world, HOST[V4], 8080)
            with guest(lab, USER, network="second"):
                assert forwards(lab, USER)["tcp/8080"]["state"] == "waiting"
            with guest(lab) as web:
                talks(lab.world, HOST[V4], 8080, web.bound(TCP, 80))
            until("its end", lambda: len(nics(lab)) == 1)
            assert is_refused(lab.world, HOST[V4], 8080)


class TestKnownFlows:
    """Clients go on sending from one port, as those of UDP do."""

    def test_known_flows_reach_a_guest_that_comes_later(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        forward(lab, USER, "udp/8080", "web", 9000)
        for family in FAMILIES:
            with bound(lab.world, UDP, 0, family) as client:
                client.sendto(b"early", (HOST[family], 8080))
                for _ in range(2):
                    with guest(lab) as web:
                        server = web.bound(UDP, 9000, family)
                        asks(client, server, HOST[family], 8080)
                    until("its end", lambda: not nics(lab))
                    client.sendto(b"between", (HOST[family], 8080))

    def test_known_flows_end_with_the_forward(self, lab: Lab, daemon: Daemon) -> None:
        forward(lab, USER, "udp/8080", "web", 9000)
        forward(lab, USER, "tcp/8080", "web", 80)
        with guest(lab) as web, bound(lab.world, UDP) as client:
            server = web.bound(UDP, 9000)
            asks(client, server, HOST[V4], 8080)
            listening = web.bound(TCP, 80)
            with connected(lab.world, HOST[V4], 8080) as flow:
                accepted = listening.accept()[0]
                remove(lab, USER, "udp/8080")
                remove(lab, USER, "tcp/8080")
                with accepted, pytest.raises(ConnectionResetError):
                    flow.sendall(b"x")
                    flow.recv(1)
            client.connect((HOST[V4], 8080))
            client.send(b"late")
            with pytest.raises(ConnectionRefusedError):
                client.recv(10)
            server.setblocking(False)
            with pytest.raises(BlockingIOError):
                server.recv(10)

    def test_known_flows_go_to_the_next_guest_of_the_port(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        forward(lab, USER, "udp/8080", "web", 9000)
        with (
            guest(lab) as web,
            guest(lab, OTHER) as other,
            bound(lab.world, UDP) as client,
        ):
            mine, theirs = web.bound(UDP, 9000), other.bound(UDP, 9000)
            asks(client, mine, HOST[V4], 8080)
            remove(lab, USER, "udp/8080")
            forward(lab, OTHER, "udp/8080", "web", 9000)
            asks(client, theirs, HOST[V4], 8080)
            mine.setblocking(False)
            with pytest.raises(BlockingIOError):
                mine.recv(10)

    def test_known_flows_of_others_go_on(self, lab: Lab, daemon: Daemon) -> None:
        """Those to the same port of somebody else, and those to another."""
        forward(lab, USER, "tcp/8081", "web", 80)
        with guest(lab) as web, guest(lab, OTHER, name="client") as client:
            with web.bound(TCP, 80) as server:
                kept = connected(lab.world, HOST[V4], 8081)
                accepted = server.accept()[0]
            with bound(lab.world, TCP, 8080) as server:
                out = connected(client.space, WORLD[V4], 8080)
                outside = server.accept()[0]
            with kept, accepted, out, outside:
                forward(lab, USER, "tcp/8080", "web", 80)
                remove(lab, USER, "tcp/8080")
                accepted.settimeout(5)
                outside.settimeout(5)
                kept.sendall(b"x")
                out.sendall(b"y")
                assert (accepted.recv(1), outside.recv(1)) == (b"x", b"y")


class TestRefusals:
    @pytest.mark.parametrize("family", FAMILIES, ids=["ipv4", "ipv6"])
    @pytest.mark.parametrize("kind", [TCP, UDP], ids=["tcp", "udp"])
    def test_a_port_that_a_program_of_the_host_has_is_refused(
        self, lab: Lab, daemon: Daemon, kind: int, family: int
    ) -> None:
        word = "tcp" if kind == TCP else "udp"
        for address in ("", HOST[family]):
            with bound(lab.host, kind, 8080, family, address):
                with pytest.raises(errors.ForwardRefused) as raised:
                    forward(lab, USER, f"{word}/8080", "web", 80)
                assert str(raised.value) == f"port {word}/8080 is taken on this host"
                assert "Address already in use" in str(raised.value.hint)
        assert forwards(lab, USER) == {}
        forward(lab, USER, f"{word}/8080", "web", 80)

    def test_a_port_that_a_program_has_just_given_up_is_granted(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        """The program's connections are in TIME_WAIT for a minute."""
        with (
            bound(lab.host, TCP, 8080) as server,
            connected(lab.host, "127.0.0.1", 8080) as client,
        ):
            server.accept()[0].close()
            assert client.recv(1) == b""
        lingering = lab.host.run("ss", "-Htan", "state", "time-wait").stdout
        assert ":8080" in lingering
        forward(lab, USER, "tcp/8080", "web", 80)
        for address in ("", "127.0.0.1"):
            with pytest.raises(OSError, match="in use"):
                bound(lab.host, TCP, 8080, V4, address)
        assert is_refused(lab.host, "127.0.0.1", 8080)

    def test_a_privileged_port_is_refused_but_to_root(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        for port in ("tcp/80", "udp/1023"):
            with pytest.raises(errors.ForwardRefused, match=f"may not forward {port}"):
                forward(lab, USER, port, "web", 80)
        forward(lab, 0, "tcp/80", "web", 8000)
        with guest(lab, 0) as web:
            talks(lab.world, HOST[V4], 80, web.bound(TCP, 8000))

    def test_a_port_that_the_rule_does_not_grant_is_refused(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        for port in ("tcp/7999", "tcp/8100", "udp/8000"):
            with pytest.raises(errors.ForwardRefused, match=f"may not forward {port}"):
                forward(lab, NARROW, port, "web", 80)
        assert "is not among what /run/config/tapster.toml:" in daemon.log
        forward(lab, NARROW, "tcp/8000", "web", 80)
        forward(lab, NARROW, "tcp/8099", "web", 80)

    def test_a_port_that_another_user_has_is_refused(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        forward(lab, USER, "tcp/8080", "web", 80)
        for uid, network in ((USER, None), (USER, "second"), (OTHER, None)):
            with pytest.raises(errors.ForwardRefused, match="is forwarded already"):
                forward(lab, uid, "tcp/8080", "web", 80, network)
        forward(lab, OTHER, "udp/8080", "web", 80)
        for network in (None, "second"):
            with pytest.raises(errors.NoSuchForward) as raised:
                remove(lab, OTHER, "tcp/8080", network)
            with pytest.raises(errors.NoSuchForward) as unknown:
                remove(lab, OTHER, "tcp/8081", network)
            assert str(raised.value).replace("8080", "8081") == str(unknown.value)
        with pytest.raises(errors.NoSuchForward):
            remove(lab, USER, "tcp/8443")  # of the configuration
        assert set(forwards(lab, USER)) == {"tcp/8080"}
        assert set(forwards(lab, OTHER)) == {"udp/8080"}
        assert set(forwards(lab, 0)) >= {"tcp/8080", "udp/8080", "tcp/8443"}
        remove(lab, 0, "tcp/8080")  # root may
        assert forwards(lab, USER) == {}

    def test_more_forwards_than_a_user_may_have_are_refused(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        for number in range(USER_LIMIT):
            forward(lab, USER, f"tcp/{20000 + number}", "web", 80)
        with pytest.raises(errors.ForwardRefused, match=rf"all .* \({USER_LIMIT}\)"):
            forward(lab, USER, "tcp/21000", "web", 80)
        bound(lab.host, TCP, 21000).close()
        forward(lab, OTHER, "tcp/21000", "web", 80)
        remove(lab, USER, "tcp/20000")
        forward(lab, USER, "tcp/21001", "web", 80)

    @pytest.mark.parametrize("network", ["closed", "lan"])
    def test_networks_without_a_way_in_are_refused(
        self, lab: Lab, daemon: Daemon, network: str
    ) -> None:
        with pytest.raises(errors.ForwardRefused, match=f"{network} has no way in"):
            forward(lab, USER, "tcp/8080", "web", 80, network)
        bound(lab.host, TCP, 8080).close()

    def test_networks_that_the_caller_may_not_use_are_refused(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        told = []
        for uid, network in ((NARROW + 1, "nowhere"), (NARROW + 2, "nothing")):
            with pytest.raises(errors.NotAuthorized) as raised:
                forward(lab, uid, "tcp/8080", "web", 80, network)
            told.append(str(raised.value).replace(network, "*"))
        assert told[0] == told[1]

    @pytest.mark.parametrize(
        "what",
        [("8080", "web", 80), ("tcp/0", "web", 80), ("tcp/65536", "web", 80),
         ("tcp/8080-8081", "web", 80), ("sctp/8080", "web", 80),
         ("tcp/8080", "we b", 80), ("tcp/8080", "", 80), ("tcp/8080", "web", 0),
         ("tcp/8080", "web", 65536), ("tcp/8080", "web", True),
         ("tcp/\uff18\uff10\uff18\uff10", "web", 80)],
        ids=repr,
    )  # fmt: skip
    def test_what_makes_no_sense_is_refused(
        self, lab: Lab, daemon: Daemon, what: tuple[str, str, int]
    ) -> None:
        with pytest.raises(errors.InvalidRequest):
            forward(lab, USER, *what)

    @pytest.mark.parametrize("network", ["", "a\nERROR: b", "x" * 4096])
    def test_names_that_no_network_has_are_refused(
        self, lab: Lab, daemon: Daemon, network: str
    ) -> None:
        """The log is for what the daemon says, not for what callers make up."""
        what = {"network": network, "port": "tcp/8080"}
        for method, more in (
            ("AddForward", {"guest": "web", "guest_port": 80}),
            ("RemoveForward", {}),
        ):
            with pytest.raises(errors.InvalidRequest):
                ask(lab, USER, method, {**what, **more})
        assert "ERROR: b" not in daemon.log

    def test_a_forward_that_cannot_be_kept_is_refused(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        inner = Path(inside(lab, "/run/state/forwards.json.new"))
        inner.mkdir()
        try:
            with pytest.raises(errors.BrokerFailure):
                forward(lab, USER, "tcp/8080", "web", 80)
        finally:
            inner.rmdir()
        assert forwards(lab, USER) == {}
        bound(lab.host, TCP, 8080).close()
        forward(lab, USER, "tcp/8080", "web", 80)


class TestConfigured:
    def test_configured_forward_is_for_the_user_of_the_reserved_name(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        rows = forwards(lab, 0)
        assert rows["tcp/8443"]["static"] and rows["tcp/8443"]["uid"] is None
        with guest(lab, USER, "site"):
            assert forwards(lab, 0)["tcp/8443"]["state"] == "waiting"
            assert forwards(lab, USER) == {}
            assert is_refused(lab.world, HOST[V4], 8443)
            with guest(lab, OTHER, "site") as site:
                assert site.nic.mac == "02:00:00:00:00:51"
                row = forwards(lab, OTHER)["tcp/8443"]
                assert (row["state"], row["ipv4"]) == ("active", site.nic.ipv4)
                assert forwards(lab, USER) == {}
                talks(lab.world, HOST[V4], 8443, site.bound(TCP, 443))
                with bound(lab.world, UDP, 0, V6) as client:
                    asks(client, site.bound(UDP, 53, V6), HOST[V6], 8053)
            until("its end", lambda: len(nics(lab)) == 1)
            assert is_refused(lab.world, HOST[V4], 8443)

    def test_configured_forward_holds_its_port_against_users(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        with pytest.raises(OSError, match="in use"):
            bound(lab.host, TCP, 8443)
        with pytest.raises(errors.ForwardRefused, match="is forwarded already"):
            forward(lab, OTHER, "tcp/8443", "site", 80)


def test_the_command_lists_adds_and_removes_forwards(lab: Lab, daemon: Daemon) -> None:
    def tapster(*words: str) -> subprocess.CompletedProcess[str]:
        return lab.host.run(*lab.tapster(*words), user=USER, check=False)

    assert tapster("forward", "add", "tcp/8080", "web:80").returncode == 0
    (row,) = json.loads(tapster("forward", "ls", "--json").stdout)
    assert (row["port"], row["guest"], row["guest_port"]) == ("tcp/8080", "web", 80)
    again = tapster("forward", "add", "tcp/8080", "web:80")
    assert again.returncode != 0 and "is forwarded already" in again.stderr
    assert tapster("forward", "rm", "tcp/8080").returncode == 0
    assert json.loads(tapster("forward", "ls", "--json").stdout) == []


def test_forwards_of_two_guests_come_and_go_apart(lab: Lab, daemon: Daemon) -> None:
    forward(lab, USER, "tcp/8080", "web", 80)
    forward(lab, OTHER, "tcp/8081", "web", 80)
    with ExitStack() as held:
        one = held.enter_context(guest(lab))
        other = held.enter_context(guest(lab, OTHER))
        ours, theirs = one.bound(TCP, 80), other.bound(TCP, 80)
        talks(lab.world, HOST[V4], 8081, theirs)
        talks(lab.world, HOST[V4], 8080, ours)
        shown = elements(lab.host)["forwards4"]
        assert len(shown) == 2
