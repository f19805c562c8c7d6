# SPDX-License-Identifier: LGPL-2.1-or-later
"""The socket: whatever a client does, the others are served.

Shows daemon/process/listening, daemon/process/single_instance, kernel/memory.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lab import CHECKOUT, OTHER, USER, Daemon, Lab, until, why_not
from support.host import (
    RUNTIME,
    SOCKET_NAME,
    Watcher,
    as_user,
    ask,
    attach,
    broker,
    inside,
    leftovers,
    links,
    nics,
    plain_socket,
    ruleset,
    until_nothing_is_left,
)
from support.raw import GET_INFO, call, descriptors, messages, receive
from support.serving import serving
from tapster import errors
from tapster.client import attach as client
from tapster.daemon.server import passed_fds

LIMIT = 16 * 1024
CONFIG = """
[limits]
connections = 24
connections_per_user = 12
idle_connection_seconds = 2
stalled_connection_seconds = 0.5
requests_per_second = 100000
watchers_per_user = 8
[broker]
network_grace_seconds = 0.1
"""


@pytest.fixture(scope="module")
def daemon(lab: Lab) -> Iterator[Daemon]:
    with serving(lab, CONFIG) as running:
        with pytest.raises(errors.NotAuthorized):  # what it opens once it has open
            attach(lab, OTHER, bridge="gone")
        yield running


@pytest.fixture(autouse=True)
def served_as_before(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test the broker has the descriptors that it had, and serves."""
    if "daemon" not in request.fixturenames:
        yield
        return
    lab, daemon = request.getfixturevalue("lab"), request.getfixturevalue("daemon")
    until("quiet", lambda: leftovers(lab) == [])
    before = descriptors(daemon)
    yield
    # Those that a test has closed may still be to be seen to.
    until("a place", lambda: _is_served(lab, OTHER))
    until_nothing_is_left(lab)
    try:
        until("its descriptors", lambda: descriptors(daemon) <= before)
    except TimeoutError:
        fds = f"/proc/{daemon.process.pid}/fd"
        found = [os.readlink(f"{fds}/{fd}") for fd in os.listdir(fds)]
        raise AssertionError(f"more than {before}: {found}") from None


class TestMessages:
    @pytest.mark.parametrize(
        "data",
        [
            b"\0",
            b"x\0",
            b"{\0",
            b"[]\0",
            b"1\0",
            b"null\0",
            b'"x"\0',
            b"\xff\xfe\0",
            b"[" * 15000 + b"\0",
            b'{"method":' * 1500 + b"\0",
            b'{"a":' + b"[" * 12000 + b"]" * 3000 + b"}\0",
            b"1" * 6000 + b"\0",
            b'{"method": 1e999999}\0',
        ],
        ids=lambda data: repr(data[:12]) + str(len(data)),
    )
    def test_that_are_no_calls_end_the_connection(
        self, lab: Lab, daemon: Daemon, data: bytes
    ) -> None:
        with plain_socket(lab, USER) as sock:
            sock.sendall(data)
            answer = receive(sock)
            assert answer == b"" or b"error" in answer

    def test_of_16_kib_is_the_last(self, lab: Lab, daemon: Daemon) -> None:
        def padded(size: int) -> bytes:
            head = b'{"method":"io.tapster.Broker.GetInfo","parameters":{},"x":"'
            return head + b"x" * (size - len(head) - 2) + b'"}\0'

        with plain_socket(lab, USER) as sock:
            sock.sendall(padded(LIMIT))
            (reply,) = messages(sock, 1)
            assert "error" not in reply
        with plain_socket(lab, USER) as sock:
            try:
                sock.sendall(padded(LIMIT + 1))
            except (ConnectionResetError, BrokenPipeError):
                pass
            assert receive(sock) == b""

    def test_without_an_end_are_cut_off(self, lab: Lab, daemon: Daemon) -> None:
        with plain_socket(lab, USER) as sock:
            sent = 0
            with pytest.raises((ConnectionResetError, BrokenPipeError)):
                while sent < 256 * LIMIT:
                    sent += sock.send(b"x" * 8192)
            # What a socket holds on its way, and no more.
            assert sent < 64 * LIMIT
        assert "sent too large a message" in daemon.log

    @pytest.mark.parametrize(
        "data",
        [GET_INFO * 50, call("List") * 50, b"{}\0" * 1000, call("Nonsense") * 50],
        ids=["async", "sync", "empty", "unknown"],
    )
    def test_without_end_keep_nobody_waiting(
        self, lab: Lab, daemon: Daemon, data: bytes
    ) -> None:
        """Calls as fast as they can be sent, and never a look at the answers."""

        def resident() -> int:
            status = Path(f"/proc/{daemon.process.pid}/status").read_text()
            return int(status.partition("VmRSS:")[2].split()[0])

        stop = threading.Event()

        def flood(sock: socket.socket) -> None:
            sock.settimeout(0.05)
            while not stop.is_set():
                try:
                    sock.sendall(data)
                except TimeoutError:
                    continue
                except OSError:
                    return

        ask(lab, OTHER, "GetInfo")
        before = resident()
        with plain_socket(lab, USER) as sock:
            thread = threading.Thread(target=flood, args=[sock])
            thread.start()
            try:
                for _ in range(100):
                    start = time.monotonic()
                    ask(lab, OTHER, "GetInfo")
                    assert time.monotonic() - start < 1
            finally:
                stop.set()
                thread.join()
            assert resident() - before < 8192  # KiB

    def test_half_a_message_is_not_waited_for_long(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        for data in (b"", GET_INFO[:20]):
            with plain_socket(lab, USER) as sock:
                if data:
                    sock.sendall(data)
                assert receive(sock) == b""

    def test_half_a_message_is_not_prolonged_by_the_next_byte(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        with (
            plain_socket(lab, USER) as sock,
            pytest.raises(OSError, match=r"pipe|reset"),
        ):
            for _ in range(200):
                sock.sendall(b" ")
                time.sleep(0.05)

    def test_dribbled_message_is_served(self, lab: Lab, daemon: Daemon) -> None:
        with plain_socket(lab, USER) as sock:
            for byte in GET_INFO:
                sock.sendall(bytes((byte,)))
            assert messages(sock, 1)[0]["parameters"]["tier"] == "system"

    def test_pipelined_are_answered_in_order(self, lab: Lab, daemon: Daemon) -> None:
        with plain_socket(lab, USER) as sock:
            sock.sendall(
                call("GetInfo") + call("List") + call("Nonsense") + call("GetInfo")
            )
            replies = messages(sock, 4)
        assert "tier" in replies[0]["parameters"]
        assert replies[1]["parameters"] == {"nics": []}
        assert replies[2]["error"] == "org.varlink.service.MethodNotFound"
        assert "tier" in replies[3]["parameters"]

    def test_oneway_is_done_and_not_answered(self, lab: Lab, daemon: Daemon) -> None:
        with attach(lab, USER) as nic, plain_socket(lab, USER) as sock:
            sock.sendall(call("Detach", parameters={"ifname": nic.ifname}, oneway=True))
            sock.sendall(call("List"))
            assert messages(sock, 1)[0]["parameters"] == {"nics": []}
        until("no tap", lambda: not links(lab.host, "tapster"))

    def test_oneway_attach_leaves_nothing(self, lab: Lab, daemon: Daemon) -> None:
        with plain_socket(lab, USER) as sock:
            sock.sendall(call("Attach", parameters={}, oneway=True) + call("GetInfo"))
            messages(sock, 1)
            until("no tap", lambda: not links(lab.host, "tapster"))

    @pytest.mark.parametrize(
        ("method", "parameters", "error"),
        [
            ("Nonsense", {}, "org.varlink.service.MethodNotFound"),
            ("no.such.Interface", {}, "org.varlink.service.InterfaceNotFound"),
            ("Attach", {"vnet_hdr": "yes"}, "org.varlink.service.InvalidParameter"),
            ("Attach", {"name": True}, "org.varlink.service.InvalidParameter"),
            ("Attach", {"mac": 1}, "org.varlink.service.InvalidParameter"),
            ("Attach", {"network": ["x"]}, "org.varlink.service.InvalidParameter"),
            ("Attach", {"for_parent": 1}, "org.varlink.service.InvalidParameter"),
            ("Attach", {"path": "/x"}, "org.varlink.service.InvalidParameter"),
            ("Detach", {}, "org.varlink.service.InvalidParameter"),
            ("Detach", {"ifname": None}, "org.varlink.service.InvalidParameter"),
            ("Watch", {}, "org.varlink.service.ExpectedMore"),
        ],
    )
    def test_wrong_ones_get_varlinks_own_errors(
        self, lab: Lab, daemon: Daemon, method: str, parameters: Any, error: str
    ) -> None:
        with plain_socket(lab, USER) as sock:
            sock.sendall(call(method, parameters=parameters) + call("GetInfo"))
            wrong, right = messages(sock, 2)
        assert wrong["error"] == error
        assert "tier" in right["parameters"]

    @pytest.mark.parametrize(
        "message",
        [
            {"method": 1},
            {"method": None},
            {},
            {"method": "x"},
            {"method": "io.tapster.Broker.List", "parameters": []},
            {"method": "io.tapster.Broker.List", "parameters": 1},
            {"method": "io.tapster.Broker.List", "more": "yes"},
            {"method": "io.tapster.Broker.List", "oneway": 3},
        ],
        ids=repr,
    )
    def test_of_wrong_types_do_no_harm(
        self, lab: Lab, daemon: Daemon, message: Any
    ) -> None:
        with plain_socket(lab, USER) as sock:
            sock.sendall(json.dumps(message).encode() + b"\0")
            answer = receive(sock)
        assert answer == b"" or "error" in json.loads(answer.partition(b"\0")[0])


class TestDescriptors:
    """The kernel lets nobody send us any, where it is new enough."""

    @pytest.fixture(autouse=True)
    def kernel_can(self) -> None:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.getsockopt(socket.SOL_SOCKET, passed_fds.SO_PASSRIGHTS)
            except OSError:
                pytest.skip("the kernel has no SO_PASSRIGHTS (Linux 6.16)")

    def test_cannot_be_sent(self, lab: Lab, daemon: Daemon) -> None:
        with open("/dev/null") as null, plain_socket(lab, USER) as sock:
            with pytest.raises(PermissionError):
                socket.send_fds(sock, [GET_INFO], [null.fileno()])
            sock.sendall(GET_INFO)
            assert messages(sock, 1)[0]["parameters"]["tier"] == "system"

    def test_of_taps_are_still_handed_out(self, lab: Lab, daemon: Daemon) -> None:
        with attach(lab, USER) as nic:
            assert nic.fd >= 0


class TestConnections:
    def test_of_one_user_are_limited(self, lab: Lab, daemon: Daemon) -> None:
        held = [plain_socket(lab, USER) for _ in range(12)]
        try:
            with plain_socket(lab, USER) as one_more:
                answer = receive(one_more)
                assert b"io.tapster.Broker.BrokerBusy" in answer
            with pytest.raises(errors.BrokerBusy):
                ask(lab, USER, "GetInfo")
            ask(lab, OTHER, "GetInfo")
            held.pop().close()
            until("a place", lambda: _is_served(lab, USER))
        finally:
            for sock in held:
                sock.close()

    def test_of_all_are_limited(self, lab: Lab, daemon: Daemon) -> None:
        """One more displaces an idle one of the user who has most."""
        first = plain_socket(lab, USER)
        held = [plain_socket(lab, OTHER) for _ in range(12)]
        held += [plain_socket(lab, USER) for _ in range(11)]
        try:
            held[-1].sendall(GET_INFO)
            messages(held[-1], 1)
            assert ask(lab, 0, "GetInfo")["tier"] == "system"
            closed = until("room", lambda: [s for s in (first, *held) if _is_closed(s)])
            assert len(closed) == 1
            assert closed[0] in (first, held[0])
        finally:
            for sock in (first, *held):
                sock.close()
        until("a place", lambda: _is_served(lab, 0))

    def test_that_ask_are_not_displaced(self, lab: Lab, daemon: Daemon) -> None:
        watching = [Watcher(lab, uid) for uid in (USER, OTHER) for _ in range(8)]
        held = [plain_socket(lab, uid) for uid in (USER, OTHER) for _ in range(4)]
        try:
            for sock in held:
                sock.sendall(call("Watch", parameters={}, more=True))
                # More than a user may have; so it is idle from now on.
                assert messages(sock, 1)[0]["error"].endswith("BrokerBusy")
            with ExitStack() as more:
                for _ in held:  # displace as many
                    sock = more.enter_context(plain_socket(lab, 0))
                    sock.sendall(GET_INFO)
                    messages(sock, 1)
                until("room", lambda: all(map(_is_closed, held)))
            until("a place", lambda: _is_served(lab, OTHER))
            with attach(lab, OTHER):
                for watcher in watching[8:]:
                    watcher.wait("attached")
        finally:
            for watcher in watching:
                watcher.close()
            for sock in held:
                sock.close()
        until("a place", lambda: _is_served(lab, 0))

    def test_beyond_its_descriptors_are_survived(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        pid = str(daemon.process.pid)
        limits = lab.host.run("prlimit", "--pid", pid, "--nofile", "-o", "SOFT,HARD",
                              "--noheadings").stdout.split()  # fmt: skip
        lab.host.run(
            "prlimit", "--pid", pid, f"--nofile={descriptors(daemon) + 5}:{limits[1]}"
        )
        held: list[socket.socket] = []
        try:
            for uid in (USER, OTHER):
                held += [plain_socket(lab, uid) for _ in range(10)]
            until("shortage", lambda: "out of file descriptors" in daemon.log)
            assert daemon.process.poll() is None
        finally:
            for sock in held:
                sock.close()
            lab.host.run("prlimit", "--pid", pid, f"--nofile={limits[0]}:{limits[1]}")
        until("service", lambda: _is_served(lab, USER))
        with attach(lab, USER):
            pass

    def test_attach_without_descriptors_leaves_nothing(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        pid = str(daemon.process.pid)
        limits = lab.host.run("prlimit", "--pid", pid, "--nofile", "-o", "SOFT,HARD",
                              "--noheadings").stdout.split()  # fmt: skip
        try:
            with plain_socket(lab, USER) as sock:
                sock.sendall(GET_INFO)
                messages(sock, 1)
                for more in range(6):
                    lab.host.run(
                        "prlimit", "--pid", pid,
                        f"--nofile={descriptors(daemon) - 2 + more}:{limits[1]}",
                    )  # fmt: skip
                    sock.sendall(call("Attach", parameters={}))
                    (reply,) = messages(sock, 1)
                    assert reply.get("error") in (
                        "io.tapster.Broker.BrokerFailure", None
                    )  # fmt: skip
        finally:
            lab.host.run("prlimit", "--pid", pid, f"--nofile={limits[0]}:{limits[1]}")
        until_nothing_is_left(lab, networks=True)


def _is_closed(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        return sock.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def _is_served(lab: Lab, uid: int) -> bool:
    try:
        ask(lab, uid, "GetInfo")
    except (errors.BrokerBusy, errors.BrokerUnavailable):
        return False
    return True


class TestWatch:
    def test_that_nobody_reads_is_ended(self, lab: Lab, daemon: Daemon) -> None:
        with plain_socket(lab, USER) as deaf, Watcher(lab, USER) as attentive:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.sendall(call("Watch", parameters={}, more=True))
            rounds, width = 130, 9  # 1170: more than queue and socket can hold
            refused = call("Attach", parameters={"bridge": "gone"})
            with ExitStack() as stack:
                callers = [
                    stack.enter_context(plain_socket(lab, USER)) for _ in range(width)
                ]
                for _ in range(rounds):
                    for caller in callers:
                        caller.sendall(refused)
                    for caller in callers:
                        (reply,) = messages(caller, 1)
                        assert reply["error"].endswith(".NotAuthorized")
                        attentive.wait("denied")
            data = receive(deaf)
            assert 0 < data.count(b"\0") < rounds * width

    def test_ends_with_its_client(self, lab: Lab, daemon: Daemon) -> None:
        """Though nothing happens that it could be told."""
        held = [Watcher(lab, USER) for _ in range(8)]
        for watcher in held:
            watcher.close()

        def placed() -> bool:
            try:
                Watcher(lab, USER).close()
            except errors.BrokerBusy:
                return False
            return True

        until("a place", placed)

    def test_is_limited_for_each_user(self, lab: Lab, daemon: Daemon) -> None:
        held = [Watcher(lab, USER) for _ in range(8)]
        try:
            with broker(lab, USER) as wire, pytest.raises(errors.BrokerBusy):
                next(wire.stream("Watch", {}))
            with Watcher(lab, OTHER):
                pass
        finally:
            for watcher in held:
                watcher.close()

    def test_is_not_ended_for_being_quiet(self, lab: Lab, daemon: Daemon) -> None:
        """The idle limit is for those who neither ask nor are answered."""
        with Watcher(lab, USER) as watcher:
            with plain_socket(lab, USER) as idle:
                assert receive(idle) == b""
            with attach(lab, USER):
                watcher.wait("attached")


class TestIntrospection:
    def test_tells_who_serves(self, lab: Lab, daemon: Daemon) -> None:
        with plain_socket(lab, USER) as sock:
            sock.sendall(call("org.varlink.service.GetInfo"))
            (reply,) = messages(sock, 1)
        told = reply["parameters"]
        assert told["product"] == "tapsterd"
        assert sorted(told["interfaces"]) == [
            "io.tapster.Broker", "org.varlink.service",
        ]  # fmt: skip

    def test_tells_the_committed_interface(self, lab: Lab, daemon: Daemon) -> None:
        with plain_socket(lab, USER) as sock:
            for name in ("io.tapster.Broker", "no.such"):
                sock.sendall(
                    call(
                        "org.varlink.service.GetInterfaceDescription",
                        parameters={"interface": name},
                    )
                )
            known, unknown = messages(sock, 2)
        path = CHECKOUT / "src/tapster/wire/io.tapster.Broker.varlink"
        assert known["parameters"]["description"] == path.read_text()
        assert unknown["error"] == "org.varlink.service.InterfaceNotFound"


def test_200_attaches_at_a_time_are_16(lab: Lab, daemon: Daemon) -> None:
    """As many as one user may have, however many ask at the same time."""
    until("no connection", lambda: _is_served(lab, USER))
    outcomes: list[object] = []

    def work() -> None:
        done = 0
        while done < 20:
            try:
                outcomes.append(client.attach(socket=SOCKET_NAME, timeout=20))
            except errors.BrokerBusy:
                continue  # what was closed just now may still count
            except errors.RequestError as error:
                outcomes.append(error)
            done += 1

    with as_user(lab, USER):
        threads = [threading.Thread(target=work) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    granted = [o for o in outcomes if isinstance(o, client.Nic)]
    try:
        assert len(granted) == 16
        refused = [o for o in outcomes if not isinstance(o, client.Nic)]
        assert len(refused) == 184
        assert {type(o) for o in refused} == {errors.QuotaExceeded}
        assert len({n.mac for n in granted}) == len({n.ipv4 for n in granted}) == 16
        assert len(links(lab.host, "tapster")) == 16
    finally:
        for nic in granted:
            nic.close()
    until_nothing_is_left(lab)


LAUNCHER = """
import os, socket, sys
listening = socket.socket(socket.AF_UNIX, {kind})
listening.bind(sys.argv[1])
os.chmod(sys.argv[1], 0o666)
if {kind} == socket.SOCK_STREAM:
    listening.listen(16)
os.dup2(listening.fileno(), 3)
os.set_inheritable(3, True)
os.environ["LISTEN_FDS"], os.environ["LISTEN_PID"] = "{count}", str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


class TestStart:
    """Brokers of their own, on hosts of their own."""

    @pytest.fixture
    def other(self, tmp_path: Path) -> Iterator[Lab]:
        if reason := why_not():
            pytest.skip(reason)
        with Lab(tmp_path) as fresh:
            fresh.host.run("mkdir", "-p", "-m0755", "/run/t2")
            yield fresh

    ARGUMENTS = ("--runtime-dir", "/run/t2", "--state-dir", "/run/state2")

    def test_takes_an_activated_socket(self, lab: Lab, tmp_path: Path) -> None:
        """Who connects before it serves is served; the socket's file stays."""
        with Lab(tmp_path) as fresh:
            fresh.host.run("mkdir", "-p", RUNTIME)
            path = f"{RUNTIME}/{SOCKET_NAME}"
            code = LAUNCHER.format(kind="socket.SOCK_STREAM", count=1)
            daemon = fresh.daemon(prefix=(fresh.python, "-c", code, path))
            assert ask(fresh, USER, "GetInfo")["tier"] == "system"
            with attach(fresh, USER):
                pass
            assert daemon.stop() == 0, daemon.log
            assert os.path.exists(inside(fresh, path))

    @pytest.mark.parametrize(
        ("kind", "count"), [("socket.SOCK_STREAM", 2), ("socket.SOCK_DGRAM", 1)]
    )
    def test_refuses_another_kind_of_socket(
        self, other: Lab, kind: str, count: int
    ) -> None:
        code = LAUNCHER.format(kind=kind, count=count)
        with pytest.raises(RuntimeError, match="socket activation"):
            other.daemon(
                *self.ARGUMENTS,
                prefix=(other.python, "-c", code, "/run/t2/s"),
            )

    def test_second_broker_is_refused(self, lab: Lab, daemon: Daemon) -> None:
        with pytest.raises(RuntimeError, match="another broker uses /run/tapster"):
            lab.daemon("--config", "/run/config")
        with pytest.raises(RuntimeError, match="another broker serves"):
            lab.daemon(*self.ARGUMENTS, "--socket", f"{RUNTIME}/{SOCKET_NAME}")
        ask(lab, USER, "GetInfo")

    def test_second_broker_of_other_directories_is_refused_and_touches_nothing(
        self, other: Lab
    ) -> None:
        """It would know none of the first one's guests, and take them away."""
        first = other.daemon()
        with attach(other, USER) as nic:
            before = ruleset(other.host)
            with pytest.raises(RuntimeError, match="serves this network namespace"):
                other.daemon(*self.ARGUMENTS)
            assert links(other.host, "tapster") == [nic.ifname]
            assert ruleset(other.host) == before
        assert first.stop() == 0
        # When it has ended another may.
        assert other.daemon(*self.ARGUMENTS).stop() == 0

    def test_stranger_who_has_its_name_keeps_no_broker_from_starting(
        self, other: Lab
    ) -> None:
        code = (
            "import socket, time; s = socket.socket(socket.AF_UNIX);"
            " s.bind('\\0io.tapster.Broker'); s.listen(1); print(1, flush=True);"
            " time.sleep(60)"
        )
        stranger = other.host.popen(
            other.python, "-c", code, user=USER, stdout=subprocess.PIPE
        )
        assert stranger.stdout is not None
        with stranger.stdout:
            assert stranger.stdout.readline() == b"1\n"
        daemon = other.daemon()
        assert f"uid {USER} has the abstract socket" in daemon.log
        with attach(other, USER):
            pass
        assert daemon.stop() == 0
        stranger.kill()
        stranger.wait()

    def test_wrong_configuration_is_told_with_its_place(self, other: Lab) -> None:
        other.host.run(
            "sh", "-c", "mkdir -p /run/c2; printf '[broker]\\nidle = 1\\n' > "
            "/run/c2/tapster.toml",
        )  # fmt: skip
        daemon = other.daemon(*self.ARGUMENTS, "--config", "/run/c2")
        assert re.search(r"/run/c2/tapster\.toml:2:1: .*idle", daemon.log)
        assert daemon.stop() == 0


CAPABLE = ("setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups")


class TestUnprivileged:
    """A broker that is not root, with capabilities over its namespace only."""

    def start(self, lab: Lab, *names: str) -> Daemon:
        wanted = ",".join(f"+{name}" for name in names)
        lab.host.run("install", "-d", f"-o{OTHER}", f"-g{OTHER}", RUNTIME)
        lab.host.run("chown", "-R", f"{OTHER}:{OTHER}", "/run/state")
        lab.host.run("sh", "-ec", "ip link add br7 type bridge; ip link set br7 up")
        lab.bridge_conf("allow br7\n")
        return lab.daemon(
            prefix=(*CAPABLE, f"--inh-caps={wanted}", f"--ambient-caps={wanted}")
        )

    def test_with_net_admin_serves_bridges_and_says_what_networks_lack(
        self, lab: Lab, open_directory: Path
    ) -> None:
        with Lab(open_directory) as own:
            daemon = self.start(own, "net_admin")
            with attach(own, USER, bridge="br7") as nic:
                assert nic.mac
                assert [n["ifname"] for n in nics(own, USER)] == [nic.ifname]
            until_nothing_is_left(own)
            with pytest.raises(errors.BrokerFailure) as raised:
                attach(own, USER)
            assert "CAP_NET_BIND_SERVICE and CAP_NET_RAW" in raised.value.message
            assert raised.value.hint
            until_nothing_is_left(own, networks=True)
            assert daemon.stop() == 0, daemon.log
            assert "Traceback" not in daemon.log

    def test_with_two_more_serves_networks(
        self, lab: Lab, open_directory: Path
    ) -> None:
        with Lab(open_directory) as own:
            names = ("net_admin", "net_bind_service", "net_raw")
            daemon = self.start(own, *names)
            with attach(own, USER) as nic:
                assert nic.ipv4
                status = Path(f"/proc/{daemon.process.pid}/status").read_text()
                assert f"Uid:\t{OTHER}\t" in status
                assert "CapEff:\t0000000000001400" in status  # NET_RAW: dnsmasq's
            until_nothing_is_left(own)
            assert daemon.stop() == 0, daemon.log
            assert leftovers(own) == []
            assert "Traceback" not in daemon.log

    def test_without_net_admin_does_not_start(
        self, lab: Lab, open_directory: Path
    ) -> None:
        with (
            Lab(open_directory) as own,
            pytest.raises(RuntimeError, match="CAP_NET_ADMIN"),
        ):
            own.daemon(prefix=CAPABLE)
