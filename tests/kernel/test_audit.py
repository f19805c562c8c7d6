# SPDX-License-Identifier: LGPL-2.1-or-later
"""The audit log of a real broker: as lines, and as the journal has it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lab import OTHER, USER, Daemon, Lab, until
from support.host import Watcher, ask, attach, inside, plain_socket
from support.managing import forward, reload, remove
from support.records import check, fields, of_entry, of_log, rows
from tapster import errors
from tapster.daemon.audit.journal import SOCKET
from tapster.daemon.fairness.throttle import BURST

CONFIG = f"""
[[rules]]
networks = ["default"]

[[rules]]
networks = ["closed"]
users = [{OTHER}]
effect = "deny"

[networks.closed]
"""
DENIED_BY = "/run/config/tapster.toml:5"
# As in a unit of systemd's: stderr is what JOURNAL_STREAM says.
AS_A_UNIT = """
import os
status = os.fstat(2)
os.environ["JOURNAL_STREAM"] = f"{status.st_dev}:{status.st_ino}"
"""
PROGRAM = """if True:
    import sys, tapster
    with tapster.attach(name="web") as nic:
        print(nic.ifname, flush=True)
        sys.stdin.read()
"""
JOURNALD = "/lib/systemd/systemd-journald"


@pytest.fixture(scope="module", autouse=True)
def config(lab: Lab) -> None:
    lab.config(CONFIG)
    lab.bridge_conf("")


@contextmanager
def broker(lab: Lab, **how: Any) -> Iterator[Daemon]:
    running = lab.daemon("--config", "/run/config", **how)
    try:
        yield running
    finally:
        status = running.stop()
    assert status == 0 and "Traceback" not in running.log, running.log


@pytest.fixture(scope="class")
def daemon(lab: Lab) -> Iterator[Daemon]:
    with broker(lab) as running:
        yield running


@contextmanager
def program(lab: Lab, text: str = PROGRAM) -> Iterator[tuple[int, str]]:
    """A process of USER's that does that; its pid, and the line that it says."""
    child = lab.host.popen(
        lab.python, "-c", text, user=USER, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdin is not None and child.stdout is not None
    with child.stdin, child.stdout:
        yield child.pid, child.stdout.readline().decode().strip()
    assert child.wait(10) == 0


class TestLines:
    @pytest.fixture
    def wait(self, daemon: Daemon) -> Callable[..., dict[str, Any]]:
        """Waits for the next record, since the test began, with these values."""
        start = len(daemon.log)

        def wait(**wanted: Any) -> dict[str, Any]:
            def found() -> list[dict[str, Any]]:
                records = of_log(daemon.log[start:].rpartition("\n")[0])
                return [r for r in records if wanted.items() <= r.items()]

            first: dict[str, Any] = until(f"{wanted}", found)[0]
            return first

        return wait

    def test_an_attach_and_its_end_are_lines(
        self, lab: Lab, wait: Callable[..., dict[str, Any]]
    ) -> None:
        with program(lab) as (pid, ifname):
            made = wait(event="attached", ifname=ifname)
            # The child of nsenter, env and the like is still that process.
            assert made["pid"] == pid
            assert made["executable"] == os.readlink(f"/proc/{pid}/exe")
            assert made["command"] == Path(f"/proc/{pid}/comm").read_text().strip()
        assert (made["uid"], made["gid"], made["owner"]) == (USER, USER, USER)
        assert (made["verb"], made["name"], made["network"]) == (
            "attach", "web", "default",
        )  # fmt: skip
        assert made["rule"] == "/run/config/tapster.toml:2"
        assert made["mac"] and made["ipv4"] and made["bridge"] and not made["port"]
        assert 0 < made["duration"] < 60_000_000
        gone = wait(event="detached", ifname=ifname)
        assert (gone["verb"], gone["uid"], gone["pid"]) == (None, USER, pid)
        assert gone["executable"] is gone["command"] is gone["duration"] is None

    def test_a_detach_by_another_says_who_did_it(
        self, lab: Lab, wait: Callable[..., dict[str, Any]]
    ) -> None:
        with attach(lab, USER) as nic, Watcher(lab, USER) as watcher:
            ask(lab, 0, "Detach", {"ifname": nic.ifname})
            gone = wait(event="detached", ifname=nic.ifname)
            assert (gone["verb"], gone["uid"], gone["owner"]) == ("detach", 0, USER)
            told = watcher.wait("detached")
            assert (told["uid"], told["user"], told["owner"]) == (0, "root", USER)
            assert told["executable"] is None

    def test_a_denial_says_why(
        self, lab: Lab, wait: Callable[..., dict[str, Any]]
    ) -> None:
        with Watcher(lab, 0) as root, Watcher(lab, OTHER) as own:
            with pytest.raises(errors.NotAuthorized):
                attach(lab, OTHER, network="closed", name="web")
            denied = wait(event="denied", uid=OTHER)
            assert (denied["verb"], denied["network"]) == ("attach", "closed")
            assert denied["rule"] == DENIED_BY and denied["reason"]
            assert denied["name"] == "web" and denied["ifname"] is None
            assert check(root.wait("denied")) == denied
            told = check(own.wait("denied"))
            hidden = ("executable", "rule", "reason", "duration")
            assert [told[key] for key in hidden] == [None] * 4
            open_to_it = set(denied) - {*hidden, "time"}
            assert {k: told[k] for k in open_to_it} == {
                k: denied[k] for k in open_to_it
            }

    def test_what_does_not_exist_is_denied_in_the_same_words(self, lab: Lab) -> None:
        with Watcher(lab, OTHER) as own:
            seen = []
            for network in ("closed", "nowhere"):
                with pytest.raises(errors.NotAuthorized):
                    attach(lab, OTHER, network=network)
                told = own.wait("denied")
                seen.append({**told, "time": "", "network": "", "command": ""})
        assert seen[0] == seen[1]

    def test_a_forward_and_its_end_are_lines(
        self, lab: Lab, wait: Callable[..., dict[str, Any]]
    ) -> None:
        forward(lab, USER, "tcp/8080", "web", 80)
        added = wait(event="forward-added")
        assert (added["uid"], added["verb"]) == (USER, "add-forward")
        assert (added["port"], added["network"]) == ("tcp/8080", "default")
        remove(lab, USER, "tcp/8080")
        removed = wait(event="forward-removed")
        assert (removed["uid"], removed["port"]) == (USER, "tcp/8080")
        with pytest.raises(errors.ForwardRefused):
            forward(lab, USER, "tcp/80", "web", 80)
        denied = wait(event="denied", uid=USER)
        assert (denied["verb"], denied["port"]) == ("add-forward", "tcp/80")

    def test_a_reload_is_a_line(
        self, lab: Lab, daemon: Daemon, wait: Callable[..., dict[str, Any]]
    ) -> None:
        reload(lab)
        assert wait(event="reloaded")["uid"] == 0
        with pytest.raises(errors.NotAuthorized):
            reload(lab, USER)
        assert wait(event="denied", verb="reload")["uid"] == USER

    def test_a_request_that_is_allowed_and_fails_is_a_line(
        self, lab: Lab, wait: Callable[..., dict[str, Any]]
    ) -> None:
        with attach(lab, USER, name="web"), pytest.raises(errors.NameInUse):
            attach(lab, USER, name="web")
        failed = wait(event="failed")
        assert (failed["uid"], failed["name"]) == (USER, "web")

    def test_no_caller_can_write_a_line_of_its_own(
        self, lab: Lab, daemon: Daemon
    ) -> None:
        for name in ("a\ntapsterd: ERROR: b", "\x1b[2J"):
            for what in ({"network": name}, {"bridge": name}, {"name": name}):
                with pytest.raises(errors.RequestError):
                    ask(lab, USER, "Attach", what)
        for line in daemon.log.splitlines():
            assert line.isprintable() and line.startswith(("tapsterd: ", "{"))
        assert "ERROR: b" not in daemon.log


def test_a_flood_is_a_few_lines_and_a_number(lab: Lab) -> None:
    rounds, connections = 40, 4
    with broker(lab) as daemon:
        held = [plain_socket(lab, USER) for _ in range(connections)]
        call = {"method": "io.tapster.Broker.Attach", "parameters": {"bridge": "no"}}
        for sock in held:
            sock.sendall((json.dumps(call).encode() + b"\0") * rounds)
        for sock in held:
            answers = b""
            with sock:
                while answers.count(b"\0") < rounds:
                    more = sock.recv(65536)
                    assert more
                    answers += more
            assert answers.count(b"NotAuthorized") == rounds
        with pytest.raises(errors.NotAuthorized):
            attach(lab, OTHER, bridge="no")
    told = [r for r in of_log(daemon.log) if r["outcome"] == "denied"]
    one_by_one = [r for r in told if r["event"] == "denied" and r["uid"] == USER]
    numbers = [r["count"] for r in told if r["event"] == "suppressed"]
    assert BURST <= len(one_by_one) < rounds * connections
    assert numbers and len(one_by_one) + sum(numbers) == rounds * connections
    assert [r["event"] for r in told if r["uid"] == OTHER] == ["denied"]


class TestJournal:
    """Under systemd, of which there is nothing here but a socket."""

    @pytest.fixture
    def journal(self, lab: Lab) -> Iterator[socket.socket]:
        path = inside(lab, SOCKET)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.bind(path)
            sock.settimeout(10)
            yield sock
        os.unlink(path)

    def test_an_entry_of_the_journal_has_the_fields(
        self, lab: Lab, journal: socket.socket
    ) -> None:
        found: dict[str, dict[str, str]] = {}

        def read_until(event: str) -> None:
            while event not in found:
                entry = of_entry(journal.recv(65536))
                assert entry["SYSLOG_IDENTIFIER"] == "tapsterd" and entry["MESSAGE"]
                found[entry.get("TAPSTER_EVENT", entry["MESSAGE"])] = entry

        with broker(lab, script=AS_A_UNIT) as daemon:
            with program(lab) as (pid, ifname):
                # What it runs is looked up after the reply: it must be there.
                read_until("attached")
            with pytest.raises(errors.NotAuthorized):
                attach(lab, OTHER, network="closed")
            read_until("denied")
        assert daemon.log == ""
        assert found["serving /run/tapster/io.tapster.Broker"]["PRIORITY"] == "6"
        attached, denied = found["attached"], found["denied"]
        assert attached["MESSAGE"].startswith(f"attached {ifname}: user {USER} ")
        assert (attached["PRIORITY"], denied["PRIORITY"]) == ("6", "4")
        assert attached["MESSAGE_ID"] != denied["MESSAGE_ID"]
        assert attached["TAPSTER_PID"] == str(pid)
        assert attached["TAPSTER_EXECUTABLE"].startswith("/")
        assert denied["TAPSTER_RULE"] == DENIED_BY
        for entry in (attached, denied):
            check(record_of(entry))

    def test_a_journal_that_is_away_or_full_keeps_nobody_waiting(
        self, lab: Lab, journal: socket.socket
    ) -> None:
        """A journal that does not read, and then one that is not there."""
        with broker(lab, script=AS_A_UNIT) as daemon:
            for _ in range(2000):
                with attach(lab, USER):
                    pass
                if of_log(daemon.log):
                    break
            assert of_log(daemon.log)[0]["event"] in ("attached", "detached")
            os.rename(inside(lab, SOCKET), inside(lab, f"{SOCKET}.away"))
            with attach(lab, OTHER):
                pass
            until("it", lambda: any(r["uid"] == OTHER for r in of_log(daemon.log)))
            os.rename(inside(lab, f"{SOCKET}.away"), inside(lab, SOCKET))


def record_of(entry: dict[str, str]) -> dict[str, Any]:
    """The record that an entry was made from, but for its time."""
    kinds = fields()
    told = {
        name.removeprefix("TAPSTER_").lower(): value
        for name, value in entry.items()
        if name.startswith("TAPSTER_")
    }
    assert set(told) <= set(kinds)
    made = {name: kinds[name][0](value) for name, value in told.items()}
    return {**dict.fromkeys(kinds), **made, "time": ""}


class TestJournald:
    """The same with systemd's own journal, in the lab's mounts."""

    @pytest.fixture
    def journald(self, lab: Lab, tmp_path: Path) -> Iterator[None]:
        if not os.path.exists(JOURNALD) or not shutil.which("systemd-cat"):
            pytest.skip("systemd-journald is not installed")
        # It is to leave the kernel's own log and its auditing alone.
        lab.host.run(
            "sh", "-ec",
            "mount -t cgroup2 lab /sys/fs/cgroup;"
            "mkdir -p /run/log/journal /run/systemd/journal"
            " /run/systemd/journald.conf.d;"
            "printf '[Journal]\\nStorage=volatile\\nAudit=\\nReadKMsg=no\\n'"
            " > /run/systemd/journald.conf.d/test.conf",
        )  # fmt: skip
        log = tmp_path / "journald"
        with log.open("w") as output:
            running = lab.host.popen(
                JOURNALD, stdout=output, stderr=output,
                env={"SYSTEMD_LOG_TARGET": "console"},
            )  # fmt: skip
        path = inside(lab, "/run/systemd/journal/stdout")
        until("journald", lambda: os.path.exists(path) or running.poll() is not None)
        assert running.poll() is None, log.read_text()
        yield
        running.terminate()
        running.wait(10)
        lab.host.run("rm", "-rf", "/run/systemd", "/run/log/journal")
        lab.host.run("umount", "/sys/fs/cgroup")

    def found(self, lab: Lab, *matches: str) -> list[dict[str, Any]]:
        done = lab.host.run(
            "journalctl", "-D", "/run/log/journal", "-o", "json", *matches
        )
        return [json.loads(line) for line in done.stdout.splitlines()]

    def test_journalctl_finds_records_by_what_is_in_them(
        self, lab: Lab, journald: None
    ) -> None:
        with broker(lab, prefix=["systemd-cat"], script=AS_A_UNIT):
            with program(lab) as (pid, ifname):
                pass
            with pytest.raises(errors.NotAuthorized):
                attach(lab, OTHER, network="closed")
            until("it", lambda: self.found(lab, "TAPSTER_OUTCOME=denied"))
        (attached,) = self.found(lab, f"TAPSTER_IFNAME={ifname}", f"TAPSTER_PID={pid}",
                                 "TAPSTER_EVENT=attached")  # fmt: skip
        check(record_of(attached))
        assert (attached["_TRANSPORT"], attached["PRIORITY"]) == ("journal", "6")
        ids = {row[0]: row[2] for row in rows("Events")}
        (denied,) = self.found(lab, f"MESSAGE_ID={ids['denied']}")
        assert denied["TAPSTER_RULE"] == DENIED_BY
        others = self.found(lab, "-t", "tapsterd", "-p", "info")
        assert any("serving" in entry["MESSAGE"] for entry in others)
