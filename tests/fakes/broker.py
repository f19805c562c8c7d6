# SPDX-License-Identifier: LGPL-2.1-or-later
"""A broker that does what a test tells it to, right or wrong.

Clients must survive brokers that no daemon of ours would ever be, so this is a
real server on a real socket whose every connection follows a script. Run as a
program it poses as `tapsterd --rootless`; standard library only.
"""

from __future__ import annotations

import glob
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

NIC: dict[str, Any] = {
    "ifname": "tapster1",
    "mac": "52:54:00:12:34:56",
    "ipv4": "10.1.2.3",
    "ipv6": None,
    "mtu": 1500,
    "bridge": "tapbr1",
    "network": "default",
    "uid": 1000,
    "user": "alice",
    "pid": 4711,
    "name": "web1",
    "state": "active",
    "reason": None,
    "expires": None,
    "rx_bytes": 1,
    "tx_bytes": 2,
    "rx_packets": 3,
    "tx_packets": 4,
}
NETWORK: dict[str, Any] = {
    "name": "default",
    "mode": "nat",
    "scope": "user",
    "uid": 1000,
    "user": "alice",
    "state": "up",
    "bridge": "tapbr1",
    "subnet4": "10.1.2.0/24",
    "subnet6": "fd00:1::/64",
    "gateway4": "10.1.2.1",
    "gateway6": "fd00:1::1",
    "domain": "default.internal",
    "mtu": 1500,
    "isolation": False,
    "egress": "any",
    "host_access": [],
    "egress_rate": 0,
    "ingress_rate": 0,
    "dns": [],
    "dhcp": True,
    "address_check": None,
    "forwards": [],
    "max_nics": 16,
    "nics": 2,
    "notes": [],
}
FORWARD: dict[str, Any] = {
    "network": "default",
    "uid": 1000,
    "user": "alice",
    "port": "tcp/8080",
    "guest": "web",
    "guest_port": 80,
    "state": "active",
    "ipv4": "10.1.2.3",
    "ipv6": "fd00:1::3",
    "static": False,
}
FINDING: dict[str, Any] = {
    "code": "ip-forward",
    "severity": "error",
    "message": "net.ipv4.ip_forward is off",
    "remedy": "sysctl -w net.ipv4.ip_forward=1",
}
STEP: dict[str, Any] = {
    "place": "/etc/tapster/tapster.toml:7",
    "effect": "allow",
    "outcome": "decides",
}
EXPLANATION: dict[str, Any] = {
    "user": "alice",
    "uid": 1000,
    "allowed": True,
    "reason": "allowed by /etc/tapster/tapster.toml:7",
    "rule": "/etc/tapster/tapster.toml:7",
    "polkit": False,
    "max_nics": 4,
    "nics": 1,
    "network_max_nics": None,
    "network_nics": None,
    "steps": [STEP],
    "notes": [],
}


def encode(parameters: object, **rest: object) -> bytes:
    """A reply as the wire has it."""
    return json.dumps({"parameters": parameters, **rest}).encode() + b"\0"


ATTACHED = encode({"fd": 0, "nic": NIC})


class Peer:
    """One connection, its request read."""

    def __init__(
        self, conn: socket.socket, stop: threading.Event, tap: Callable[[], int]
    ) -> None:
        self.conn = conn
        self.stop = stop
        self.tap = tap
        data = b""
        while b"\0" not in data:
            more = conn.recv(65536)
            if not more:
                raise ConnectionResetError
            data += more
        self.request: dict[str, Any] = json.loads(data.rstrip(b"\0"))

    def send(self, data: bytes, fds: int = 0) -> None:
        """Send bytes, with so many descriptors on the first."""
        taps = [self.tap() for _ in range(fds)]
        try:
            socket.send_fds(self.conn, [data[:1]], taps)
            self.conn.sendall(data[1:])
        finally:
            for tap in taps:
                os.close(tap)

    def hang(self) -> None:
        """Say nothing until the test is over."""
        self.stop.wait(60)


Script = Callable[[Peer], None]


def say(data: bytes = ATTACHED, fds: int = 0) -> Script:
    """Answer this and hang up."""
    return lambda peer: peer.send(data, fds)


def say_and_hang(data: bytes, fds: int = 0) -> Script:
    """Answer this, and then nothing more."""

    def script(peer: Peer) -> None:
        peer.send(data, fds)
        peer.hang()

    return script


def error(name: str, **parameters: object) -> bytes:
    """An error reply."""
    return encode(parameters, error=name)


def hang(peer: Peer) -> None:
    """Accept, read, and never answer."""
    peer.hang()


def hang_up(peer: Peer) -> None:
    """Read and close."""


def trickle(peer: Peer) -> None:
    """One byte after the other, without an end."""
    peer.send(b" ")
    while not peer.stop.wait(0.01):
        peer.conn.sendall(b" ")


def split(data: bytes, at: int, fds: int = 0) -> Script:
    """The answer in two pieces that arrive one by one."""

    def script(peer: Peer) -> None:
        peer.send(data[:at], fds)
        time.sleep(0.001)
        peer.conn.sendall(data[at:])

    return script


class FakeBroker:
    """Serves connection n by script n, and all later ones by the last script."""

    def __init__(self, path: str | os.PathLike[str], *scripts: Script) -> None:
        self.path = os.fspath(path)
        self.scripts: Sequence[Script] = scripts or [say(ATTACHED, 1)]
        self.requests: list[dict[str, Any]] = []
        self.stop = threading.Event()
        self._inodes: list[int] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen(64)
        self._threads: list[threading.Thread] = []

    def tap(self) -> int:
        """A new descriptor that can be told from all others."""
        fd = os.memfd_create("tap")
        self._inodes.append(os.fstat(fd).st_ino)
        return fd

    def made(self, fd: int) -> bool:
        """Whether this is a descriptor that this broker sent."""
        return os.fstat(fd).st_ino in self._inodes

    def __enter__(self) -> FakeBroker:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        # Wakes accept(), which close() would not.
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()
        self._listener.close()
        os.unlink(self.path)

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        number = 0
        while not self.stop.is_set():
            try:
                conn, _ = self._listener.accept()
            except OSError:
                return
            script = self.scripts[min(number, len(self.scripts) - 1)]
            number += 1
            self._start(self._serve, conn, script)

    def _serve(self, conn: socket.socket, script: Script) -> None:
        with conn:
            conn.settimeout(60)
            try:
                peer = Peer(conn, self.stop, self.tap)
                self.requests.append(peer.request)
                script(peer)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client has left, as it may


def daemon_facts(runtime: str) -> list[dict[str, Any]]:
    """What each fake daemon below a runtime directory found itself to be."""
    found = []
    for name in glob.glob(f"{runtime}/tapster/facts.*"):
        with open(name) as file:
            found.append(json.load(file))
    return found


def end_daemons(runtime: str) -> None:
    """Kill the fake daemons that still run."""
    for known in daemon_facts(runtime):
        try:
            pidfd = os.pidfd_open(known["pid"])
        except ProcessLookupError:
            continue
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)


def facts() -> dict[str, Any]:
    """What a daemon should find itself to be; see the tests."""
    with open("/proc/self/status") as file:
        status = dict(line.split(":", 1) for line in file)
    fds = {fd: os.path.realpath(f"/proc/self/fd/{fd}") for fd in range(3)}
    # The descriptor that lists the directory is closed by the time we look.
    others = [
        int(fd)
        for fd in os.listdir("/proc/self/fd")
        if int(fd) > 2 and os.path.exists(f"/proc/self/fd/{fd}")
    ]
    return {
        "pid": os.getpid(),
        "ppid": os.getppid(),
        "sid": os.getsid(0),
        "cwd": os.getcwd(),
        "blocked": int(status["SigBlk"], 16),
        # Python always ignores SIGPIPE and SIGXFSZ, and posix_spawn() has the
        # two that glibc keeps to itself (32, 33) ignored.
        "ignored": int(status["SigIgn"], 16) & ~(1 << 12 | 1 << 24 | 3 << 31),
        "fds": fds,
        "others": others,
        "environ": dict(os.environ),
        "argv": sys.argv[1:],
    }


def pose() -> int:
    """Be `tapsterd --rootless`, as FAKE_TAPSTERD says."""
    mode = os.environ.get("FAKE_TAPSTERD", "serve")
    directory = os.path.join(os.environ["XDG_RUNTIME_DIR"], "tapster")
    known = facts()
    with open(os.path.join(directory, "facts.new"), "w") as file:
        json.dump(known, file)
    os.rename(file.name, os.path.join(directory, f"facts.{os.getpid()}"))
    if mode == "fail":
        print("a warning\ntapsterd: no user namespaces here", file=sys.stderr)
        return 1
    if mode == "hang":
        time.sleep(60)
    if mode == "locked-once":
        try:
            os.mkdir(os.path.join(directory, "lock"))
            return 0
        except FileExistsError:
            pass
    with FakeBroker(os.path.join(directory, "io.tapster.Broker")) as broker:
        address = os.environ.get("NOTIFY_SOCKET")
        if address:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
                notify.sendto(b"STATUS=serving\nREADY=1", address)
        # Nobody has to end it; a test that ends earlier kills it by its pid.
        broker.stop.wait(30)
    return 0


if __name__ == "__main__":
    sys.exit(pose())
