# SPDX-License-Identifier: LGPL-2.1-or-later
"""A user without any administrator's help: a broker comes, serves, and goes.

Shows daemon/rootless, daemon/process/rootless_namespaces.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import OTHER, USER, Lab, Space, until
from support.host import commands, inside, links, ruleset

RUNTIME = f"/run/user/{USER}/tapster"
SOCKET = f"{RUNTIME}/io.tapster.Broker"

HOLD = """
import json, sys, tapster
nic = tapster.attach(name=sys.argv[1] if sys.argv[1:] else None)
what = {field: getattr(nic, field) for field in nic.__slots__ if field[0] != "_"}
print(json.dumps(what), flush=True)
sys.stdin.read()
"""
TRY = """
import sys, tapster
try:
    tapster.attach().close()
except tapster.TapsterError as error:
    sys.exit(error.oneline())
"""


@pytest.fixture(scope="module", autouse=True)
def possible(lab: Lab) -> None:
    for program in ("pasta", "dnsmasq"):
        if lab.host.run("sh", "-c", f"PATH=$PATH:/usr/sbin command -v {program}",
                        check=False).returncode:  # fmt: skip
            pytest.skip(f"{program} is not installed")
    probe = lab.host.run("unshare", "--user", "--net", "true", user=USER, check=False)
    if probe.returncode:
        pytest.skip(f"no unprivileged user namespaces: {probe.stderr.strip()}")
    lab.host.run("mkdir", "-p", "-m0755", "/run/config")


@pytest.fixture(autouse=True)
def nothing_left(lab: Lab) -> Iterator[None]:
    """A user's broker ends with all that it started, and the host has nothing
    of it at any time."""
    lab.config("[broker]\nidle_seconds = 0.5\nnetwork_grace_seconds = 0.1\n")
    yield
    try:
        until("its end", lambda: not of_users(), 15)
    finally:
        left = of_users()
        for pid in left:
            os.kill(pid, signal.SIGKILL)
    assert left == {}, left
    assert links(lab.host, "tap") == []
    assert ruleset(lab.host) == []
    assert not os.path.exists(inside(lab, SOCKET))


def of_users(uid: int = USER) -> dict[int, str]:
    """Every living process of the user, in whatever namespace. (ps(1) breaks
    lines where a command line does.)"""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        try:
            status = Path(f"/proc/{name}/status").read_text()
            words = Path(f"/proc/{name}/cmdline").read_bytes()
        except OSError:
            continue
        if f"\nUid:\t{uid}\t" in status and "\nState:\tZ" not in status:
            found[int(name)] = words.replace(b"\0", b" ").decode()
    return found


def having(word: str) -> list[int]:
    return sorted(pid for pid, text in of_users().items() if word in text)


def is_one_of_each() -> bool:
    """Not so for a moment while dnsmasq forks."""
    return len(having("pasta")) == len(having("dnsmasq")) == 1


def brokers() -> tuple[int, int]:
    """The supervisor and the broker, as soon as there are these two."""
    found: tuple[int, int] = until("two", _brokers)
    return found


def _brokers() -> tuple[int, int] | None:
    pids = having("--rootless")
    parents = {}
    for pid in pids:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None  # it has just ended
        parents[pid] = int(stat[1])
    inner = [pid for pid in pids if parents[pid] in pids]
    return (parents[inner[0]], inner[0]) if len(pids) == 2 and inner else None


class Holder:
    """A user's program with a NIC."""

    def __init__(self, lab: Lab, name: str = "", user: int = USER) -> None:
        self.process = lab.host.popen(
            lab.python, "-c", HOLD, *([name] if name else []), user=user,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def nic(self) -> dict[str, Any]:
        assert self.process.stdout is not None and self.process.stderr is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(self.process.stderr.read())
        return dict(json.loads(line))

    def close(self) -> None:
        self.process.communicate(timeout=10)

    def __enter__(self) -> Holder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture
def served(lab: Lab) -> Iterator[subprocess.Popen[Any]]:
    """A broker that was started by hand, with the tests' short times: one that
    a client starts reads the system's configuration."""
    lab.host.run("install", "-d", "-m0700", RUNTIME, user=USER)
    with open(inside(lab, f"{RUNTIME}/log"), "w") as log:
        process = lab.host.popen(
            lab.python, "-m", "tapster.daemon.main", "--rootless",
            "--config", "/run/config", user=USER, stdout=log, stderr=log,
        )  # fmt: skip
    until("its socket", lambda: os.path.exists(inside(lab, SOCKET)))
    yield process
    process.wait(15)


def listed(lab: Lab) -> list[dict[str, Any]]:
    done = lab.host.run(*lab.tapster("ls", "--json"), user=USER)
    return list(json.loads(done.stdout))


def stop_by_hand() -> None:
    """For one that a client started: its idle minute is too long for a test."""
    os.kill(brokers()[0], signal.SIGTERM)


class TestStart:
    def test_the_first_client_starts_a_broker_that_others_share(self, lab: Lab) -> None:
        with Holder(lab, "a") as one:
            first = one.nic()
            assert first["network"] == "default" and first["ipv4"]
            pids = brokers()
            with Holder(lab, "b") as two:
                second = two.nic()
                assert second["bridge"] == first["bridge"]
                assert brokers() == pids
                assert [n["name"] for n in listed(lab)] == ["a", "b"]
            assert os.stat(inside(lab, SOCKET)).st_mode & 0o777 == 0o600
            assert os.stat(inside(lab, RUNTIME)).st_mode & 0o777 == 0o700
        stop_by_hand()

    def test_two_first_clients_start_one_broker(self, lab: Lab) -> None:
        with Holder(lab) as one, Holder(lab) as two:
            nics = [one.nic(), two.nic()]
            assert nics[0]["bridge"] == nics[1]["bridge"]
            assert nics[0]["ipv4"] != nics[1]["ipv4"]
            until("one broker", lambda: len(having("--rootless")) == 2)
            assert len(having("pasta")) == 1
        stop_by_hand()

    def test_a_broker_is_nobodys_child_and_holds_nothing_of_its_client(
        self, lab: Lab
    ) -> None:
        with Holder(lab) as one:
            one.nic()
            client = one.process.pid
            for pid in brokers():
                shared = open_files(pid) & open_files(client)
                assert not any(target.startswith("pipe:") for target in shared)
            children = Path(f"/proc/{one.process.pid}/task/{one.process.pid}/children")
            assert children.read_text() == ""
        stop_by_hand()

    def test_each_user_has_a_broker_of_its_own(self, lab: Lab) -> None:
        with Holder(lab) as one, Holder(lab, user=OTHER) as two:
            assert one.nic()["ifname"] != two.nic()["ifname"]
            assert len(listed(lab)) == 1
        stop_by_hand()
        for pid, text in of_users(OTHER).items():
            if "--rootless" in text:
                os.kill(pid, signal.SIGTERM)
        until("the other's end", lambda: not of_users(OTHER))


def open_files(pid: int) -> set[str]:
    """What a process has open, as far as it does not close it meanwhile."""
    found = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
        except FileNotFoundError:
            continue
    return found


class TestEnd:
    def test_a_broker_ends_when_nobody_needs_it(
        self, lab: Lab, served: subprocess.Popen[Any]
    ) -> None:
        with Holder(lab) as one:
            one.nic()
            until("one of each", is_one_of_each)
            time.sleep(0.8)  # longer than the idle time: a NIC is a need
            assert served.poll() is None
        assert served.wait(10) == 0

    def test_a_broker_ends_on_request_even_with_a_guest(
        self, lab: Lab, served: subprocess.Popen[Any]
    ) -> None:
        with Holder(lab) as one:
            one.nic()
            served.terminate()
            assert served.wait(10) == 0
            until("its end", lambda: not having("pasta") and not having("dnsmasq"))

    def test_a_broker_that_dies_is_started_again(
        self, lab: Lab, served: subprocess.Popen[Any]
    ) -> None:
        with Holder(lab, "a") as one:
            nic = one.nic()
            supervisor, broker = brokers()
            pasta = having("pasta")
            os.kill(broker, signal.SIGKILL)
            until("another", lambda: brokers()[1] != broker)
            (known,) = listed(lab)
            assert (known["ifname"], known["ipv4"]) == (nic["ifname"], nic["ipv4"])
            assert brokers()[0] == supervisor
            with Holder(lab, "b") as two:
                assert two.nic()["bridge"] == nic["bridge"]
            until("one of each", is_one_of_each)
            assert having("pasta") == pasta

    def test_all_processes_end_with_the_supervisor(
        self, lab: Lab, served: subprocess.Popen[Any]
    ) -> None:
        with Holder(lab) as one:
            one.nic()
            os.kill(brokers()[0], signal.SIGKILL)
            until("the end", lambda: not having("--rootless") and not having("pasta")
                  and not having("dnsmasq"))  # fmt: skip
        if os.path.exists(inside(lab, SOCKET)):
            os.unlink(inside(lab, SOCKET))  # of a process that could not

    def test_a_killed_supervisor_does_not_keep_the_next_from_starting(
        self, lab: Lab
    ) -> None:
        with Holder(lab) as one:
            one.nic()
            os.kill(brokers()[0], signal.SIGKILL)
            until("the end", lambda: not having("--rootless"))
        with Holder(lab) as two:
            assert two.nic()["ipv4"]
        stop_by_hand()


class TestMissing:
    """What is missing is said in one line, with what to install."""

    def attempt(
        self, lab: Lab, space: Space | None = None, *prefix: str, **env: str
    ) -> str:
        done = (space or lab.host).run(
            *prefix, lab.python, "-c", TRY, user=USER, check=False, env=env
        )
        assert done.returncode == 1, done.stdout
        assert len(done.stderr.splitlines()) == 1, done.stderr
        return done.stderr.strip()

    @pytest.fixture
    def tools(self, lab: Lab) -> Iterator[str]:
        """A PATH with nothing in it but what a test puts there."""
        path = f"/run/user/{USER}/bin"
        lab.host.run("install", "-d", path, user=USER)
        yield path
        lab.host.run("rm", "-r", path)

    def test_missing_pasta_is_told(self, lab: Lab, tools: str) -> None:
        said = self.attempt(lab, PATH=tools)
        assert "pasta is not installed" in said and "passt" in said

    def test_missing_dnsmasq_is_told(
        self, lab: Lab, tools: str, tmp_path: Path
    ) -> None:
        with Lab(tmp_path) as own:
            own.host.run("sh", "-ec", HIDE.format(name="dnsmasq"))
            said = self.attempt(own)
            assert "dnsmasq is not installed" in said and "dnsmasq-base" in said
            assert of_users() == {}

    def test_missing_access_to_tun_is_told(self, lab: Lab, tmp_path: Path) -> None:
        with Lab(tmp_path) as own:
            own.host.run("chmod", "0600", "/dev/net/tun")
            said = self.attempt(own)
            assert "/dev/net/tun" in said and "chmod 0666" in said
            assert "Permission denied" in said
            own.host.run("umount", "/dev/net/tun", check=False)
            assert of_users() == {}

    def test_missing_user_namespaces_are_told(self, lab: Lab) -> None:
        """In a user namespace that may have no others in it."""
        # setpriv as the user, then a namespace of its own with the limit at 0.
        limit = 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"'
        done = lab.host.run(
            "unshare", "--user", "--map-root-user", "sh", "-ec", limit, "sh",
            lab.python, "-c", TRY, user=USER, check=False,
        )  # fmt: skip
        if "max_user_namespaces" in done.stderr and "sysctl" not in done.stderr:
            pytest.skip(f"the limit can't be set: {done.stderr.strip()}")
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert "user namespaces are not available" in done.stderr
        assert "sysctl user.max_user_namespaces" in done.stderr


HIDE = """
for directory in $(echo "$PATH:/usr/sbin:/sbin" | tr : ' '); do
    [ -e "$directory/{name}" ] || continue
    : > /run/nothing; chmod 0644 /run/nothing
    mount --bind /run/nothing "$directory/{name}"
done
"""


def test_a_rootless_broker_has_two_capabilities_and_no_more(
    lab: Lab, served: subprocess.Popen[Any]
) -> None:
    with Holder(lab) as one:
        one.nic()
        _, broker = brokers()
        status = Path(f"/proc/{broker}/status").read_text()
        for kind in ("Eff", "Prm", "Bnd"):
            assert f"Cap{kind}:\t0000000000001400" in status
        assert "CapAmb:\t0000000000000000" in status
        assert f"Uid:\t{USER}\t{USER}" in status


def test_the_host_is_untouched_by_a_rootless_broker(
    lab: Lab, served: subprocess.Popen[Any]
) -> None:
    with Holder(lab) as one:
        nic = one.nic()
        assert links(lab.host, "tap") == [] and ruleset(lab.host) == []
        names = commands(lab.host).values()
        assert not any("dnsmasq" in name for name in names)
        assert lab.host.run("cat", "/proc/sys/net/ipv4/ip_forward").stdout == "0\n"
        # In its own namespace there is all of it.
        _, broker = brokers()
        shown = subprocess.run(
            ["nsenter", "-t", str(broker), "--net", "ip", "-j", "link"],
            capture_output=True, text=True,
        ).stdout  # fmt: skip
        inside_names = {entry["ifname"] for entry in json.loads(shown)}
        assert {nic["ifname"], nic["bridge"], "uplink0"} <= inside_names
