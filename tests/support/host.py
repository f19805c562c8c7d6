# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lab's host, as tests act on it and look at it.

Looking is done with other people's tools (ip, bridge, nft, /proc), never with
the code that is tested.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lab import Daemon, Lab, Space, until
from tapster.client import attach as client
from tapster.client.connection import Connection
from tapster.kernel import namespaces

SOCKET_NAME = "io.tapster.Broker"
RUNTIME = "/run/tapster"


@contextmanager
def as_user(
    lab: Lab, uid: int, groups: Sequence[int] = (), directory: str = RUNTIME
) -> Iterator[None]:
    """Be that user for a while, with the host's `directory` for a working
    directory: what is connected to in here is told that uid."""
    here = os.open(".", os.O_RDONLY | os.O_CLOEXEC)
    there = os.open(inside(lab, directory), os.O_RDONLY | os.O_CLOEXEC)
    before = os.getgroups()
    try:
        os.fchdir(there)
        os.setgroups(list(groups))
        os.setegid(uid)
        os.seteuid(uid)
        try:
            yield
        finally:
            os.seteuid(0)
            os.setegid(0)
            os.setgroups(before)
            os.fchdir(here)
    finally:
        os.close(there)
        os.close(here)


def inside(lab: Lab, path: str) -> str:
    """A path on the lab's host, as this process can open it."""
    return f"/proc/{lab.host.pid}/root{path}"


def attach(
    lab: Lab, uid: int, groups: Sequence[int] = (), /, **what: Any
) -> client.Nic:
    """A tap for that user, through the Python API."""
    what.setdefault("timeout", 15)
    with as_user(lab, uid, groups):
        return client.attach(socket=SOCKET_NAME, **what)


def ask(
    lab: Lab, uid: int, method: str, parameters: dict[str, Any] | None = None
) -> dict[str, Any]:
    """One call by that user; its reply's parameters. Descriptors are closed."""
    with broker(lab, uid) as connection:
        return connection.call(method, parameters or {})[0]


def broker(
    lab: Lab, uid: int, groups: Sequence[int] = (), timeout: float = 15
) -> Connection:
    """A connection of that user's to the broker; the caller closes it."""
    return Connection(plain_socket(lab, uid, groups), timeout)


def broker_as(lab: Lab, uid: int) -> Daemon:
    """A broker that is not root, as data/tapsterd.service has it."""
    who = f"{uid}:{uid}"
    lab.host.run("install", "-d", f"-o{uid}", f"-g{uid}", RUNTIME)
    lab.host.run("chown", "-R", who, "/run/state")
    capabilities = "-all,+net_admin,+net_bind_service,+net_raw"
    return lab.daemon(
        "--config",
        "/run/config",
        prefix=(
            "setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups",
            f"--inh-caps={capabilities}", f"--ambient-caps={capabilities}",
        ),
    )  # fmt: skip


def plain_socket(lab: Lab, uid: int, groups: Sequence[int] = ()) -> socket.socket:
    """The same, with nothing between the test and the wire."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # A socket that blocks waits where the broker's backlog is full.
        limit = struct.pack("@ll", 15, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        with as_user(lab, uid, groups):
            sock.connect(SOCKET_NAME)
        sock.settimeout(15)
    except BaseException:
        sock.close()
        raise
    return sock


def nics(lab: Lab, uid: int = 0) -> list[dict[str, Any]]:
    with as_user(lab, uid):
        return client.list_nics(socket=SOCKET_NAME)


class Watcher:
    """What `Watch` tells a user, from the moment this exists."""

    def __init__(self, lab: Lab, uid: int, groups: Sequence[int] = ()) -> None:
        # Connection.stream waits for ever on purpose; a test does not.
        sock = plain_socket(lab, uid, groups)
        limit = struct.pack("@ll", 10, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self._connection = Connection(sock, 15)
        self._stream = self._connection.stream("Watch", {})
        self.seen: list[dict[str, Any]] = []
        try:
            self.next()
        except BaseException:
            self.close()
            raise

    def next(self) -> dict[str, Any]:
        """The next event; :raises BrokerUnavailable: none came in ten seconds."""
        event = next(self._stream)["event"]
        self.seen.append(event)
        return dict(event)

    def wait(self, *kinds: str, ifname: str | None = None) -> dict[str, Any]:
        """The next event of one of these kinds; others are kept in `seen`."""
        while True:
            event = self.next()
            if event["event"] in kinds and ifname in (None, event["ifname"]):
                return event

    def close(self) -> None:
        self._stream.close()  # type: ignore[attr-defined]  # it is a generator
        self._connection.close()

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def in_network(space: Space, function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a call that is made in a space's network namespace."""

    def work() -> Any:
        with open(f"/proc/{space.pid}/ns/net") as namespace:
            namespaces.setns(namespace.fileno(), namespaces.CLONE_NEWNET)
        return function(*arguments)

    return in_thread(work)


def in_thread(function: Callable[[], Any]) -> Any:
    """The result of a call in a thread of its own, which may change what is a
    thread's; what the call raises is raised here."""
    result: list[Any] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            result.append(function())
        except BaseException as error:  # noqa: BLE001 - raised by the caller below
            failure.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


# Looking


def tool(space: Space, *command: str) -> Any:
    """The JSON that a command prints in there; [] if it prints none."""
    output = space.run(*command).stdout
    return json.loads(output) if output.strip() else []


def link(space: Space, name: str) -> dict[str, Any]:
    """`ip -d link show`, flattened a little."""
    found: dict[str, Any] = tool(space, "ip", "-j", "-d", "link", "show", name)[0]
    return found


def links(space: Space, prefix: str) -> list[str]:
    """Names of the devices that begin so."""
    return sorted(
        entry["ifname"]
        for entry in tool(space, "ip", "-j", "link")
        if entry["ifname"].startswith(prefix)
    )


def port(space: Space, name: str) -> dict[str, Any]:
    """`bridge -d link show`: a port's settings."""
    found: dict[str, Any] = tool(
        space, "bridge", "-j", "-d", "link", "show", "dev", name
    )[0]
    return found


def fdb(space: Space, name: str) -> list[dict[str, Any]]:
    """`bridge -d fdb show` of a port or a bridge."""
    found: list[dict[str, Any]] = tool(
        space, "bridge", "-j", "-d", "fdb", "show", "dev", name
    )
    return found


def ruleset(space: Space) -> list[dict[str, Any]]:
    """`nft -j list ruleset`."""
    found = tool(space, "nft", "-j", "list", "ruleset")["nftables"]
    return [entry for entry in found if "metainfo" not in entry]


def elements(space: Space) -> dict[str, list[Any]]:
    """What is in the sets and maps of tapster's tables, the empty ones left out."""
    found = {}
    for entry in ruleset(space):
        for kind in ("set", "map"):
            if kind in entry and entry[kind]["table"] == "tapster":
                inner = entry[kind].get("elem")
                if inner and not entry[kind]["name"].startswith("__"):
                    found[entry[kind]["name"]] = inner
    return found


def chains(space: Space) -> dict[str, str]:
    """Of each port of ours, where its frames go: a chain, or "accept"."""
    pairs = elements(space).get("ports", [])
    return {
        name: verdict["goto"]["target"] if "goto" in verdict else "accept"
        for name, verdict in pairs
    }


def mentions(space: Space, word: str) -> bool:
    """Whether anything in nftables says this word."""
    return word in json.dumps(ruleset(space))


def sysctl(space: Space, key: str) -> str:
    return space.run("cat", f"/proc/sys/net/{key}").stdout.strip()


def files(lab: Lab, *directories: str) -> list[str]:
    """The files of the broker's runtime directory that say something of a NIC
    or a network."""
    found = []
    for directory in directories or ("nics", "networks"):
        top = inside(lab, f"{RUNTIME}/{directory}")
        for path, _, names in os.walk(top):
            found += [os.path.relpath(os.path.join(path, n), top) for n in names]
    return sorted(found)


def commands(space: Space) -> dict[int, str]:
    """Who runs in there, by `ps`."""
    pids = space.processes()
    if not pids:
        return {}
    done = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "-p", ",".join(map(str, pids))],
        capture_output=True,
        text=True,
    )
    rows = (line.split(maxsplit=1) for line in done.stdout.splitlines())
    return {int(row[0]): row[1] if len(row) > 1 else "" for row in rows}


def dnsmasqs(lab: Lab) -> list[int]:
    return [
        pid
        for pid, text in commands(lab.host).items()
        if text.partition(" ")[0].endswith("dnsmasq")
    ]


def leftovers(lab: Lab, *, networks: bool = True) -> list[str]:
    """Whatever there is of any NIC, and of any network; [] is what is wanted."""
    wanted = ("tapster", "tapbr") if networks else ("tapster",)
    found = [f"device {n}" for prefix in wanted for n in links(lab.host, prefix)]
    of_nics = ("ports", "first", "macs", "guests", "guests6", "limited4",
               "limited6", "claimed6", "learners")  # fmt: skip
    found += [
        f"nft {name}: {inner}"
        for name, inner in elements(lab.host).items()
        if networks or name in of_nics
    ]
    found += [f"record {name}" for name in files(lab, "nics")]
    below = files(lab, "networks")
    if not networks:
        below = [n for n in below if "/dhcp/" in n or "/hosts/" in n]
    found += [f"file {name}" for name in below]
    if networks:
        found += [f"dnsmasq {pid}" for pid in dnsmasqs(lab)]
        for directory in (RUNTIME, "/run/state"):
            if os.path.exists(inside(lab, f"{directory}/sysctl.json")):
                found.append(f"{directory}/sysctl.json")
    return found


def until_nothing_is_left(lab: Lab, *, networks: bool = False) -> None:
    """Wait for it; say what there still is if it does not come."""
    try:
        until("nothing", lambda: not leftovers(lab, networks=networks))
    except TimeoutError:
        raise AssertionError(leftovers(lab, networks=networks)) from None
