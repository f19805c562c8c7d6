# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the process that starts programs starts, and what not, whoever asks it."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapster.daemon.process import spawner
from tapster.networks import dnsmasq

BRIDGE = "tapbr0a1b2c3d"
SIX = IPv6Network("fd12:3456:789a:1::/64")
DIRECTORY = f"/run/tapster/networks/{BRIDGE}"


def configuration(**changes: object) -> str:
    made = dnsmasq.Settings(
        bridge=BRIDGE,
        subnet4=IPv4Network("10.70.1.0/24"),
        subnet6=SIX,
        domain="default.internal",
        mtu=1500,
        directory=DIRECTORY,
        upstream=("192.0.2.1", "2001:db8::1"),
        user=None,
    )
    return dnsmasq.configuration(made._replace(**changes))  # type: ignore[arg-type]


def check(text: str, user: str = "") -> None:
    spawner.check_configuration(text, BRIDGE, DIRECTORY, user, user)


class TestConfiguration:
    """dnsmasq's: what it may be told, line by line."""

    @pytest.mark.parametrize("changes", [
        {}, {"subnet6": None}, {"upstream": None}, {"upstream": ()}, {"dhcp": False},
        {"slaac": False}, {"routed": False}, {"domain": "a-b.c_d.example"},
    ])  # fmt: skip
    def test_ours_is_taken(self, changes: dict[str, object]) -> None:
        check(configuration(**changes))

    @pytest.mark.parametrize("line", [
        "dhcp-script=/bin/sh", "dhcp-luascript=/tmp/x.lua", "conf-file=/tmp/x",
        "conf-dir=/tmp", "conf-script=/bin/sh", "servers-file=/etc/shadow",
        "addn-hosts=/etc/shadow", "resolv-file=/etc/shadow", "enable-tftp",
        "tftp-root=/", "log-facility=/etc/cron.d/x", "dumpfile=/etc/x",
        "pid-file=/etc/x", "dhcp-leasefile=/etc/x", "hostsdir=/etc", "user=root",
        "dhcp-hostsdir=/etc", "interface=eth0", "no-daemon", "group=root",
        " dhcp-script=/bin/sh", "dhcp-script /bin/sh", "domain=x\rdhcp-script=/bin/sh",
        'domain="a\\ndhcp-script=/bin/sh"', "#", "local=/x/#", "dbus", "ubus",
        f"pid-file={DIRECTORY}/../x", f"hostsdir={DIRECTORY}/hosts/",
    ])  # fmt: skip
    def test_another_line_is_not(self, line: str) -> None:
        with pytest.raises(spawner.Refused):
            check(configuration() + line + "\n")

    @pytest.mark.parametrize("word", ["interface", "user", "group"])
    def test_without_the_line_that_narrows_it_it_is_not(self, word: str) -> None:
        lines = configuration().split("\n")
        with pytest.raises(spawner.Refused, match="without"):
            check("\n".join(x for x in lines if not x.startswith(f"{word}=")))

    def test_another_user_is_not(self) -> None:
        with pytest.raises(spawner.Refused):
            check(configuration(), user="dnsmasq")

    @given(st.text(max_size=60))
    def test_whatever_else_names_no_program_and_no_file(self, line: str) -> None:
        try:
            check(configuration() + line)
        except spawner.Refused:
            return
        known = set(configuration().split("\n")) | set(spawner._WORDS)
        for part in line.split("\n"):
            word = part.partition("=")[0]
            assert part in known or word in (
                *("domain", "local", "dhcp-option", "dhcp-range", "ra-param"),
                "server",
            )


class Spawned:
    """The program itself, with this test for its broker."""

    def __init__(self, networks: Path, hooks: Path) -> None:
        kind = socket.AF_UNIX, socket.SOCK_SEQPACKET
        self.control, theirs = socket.socketpair(*kind)
        self.questions, others = socket.socketpair(*kind)
        with theirs, others:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", spawner.__file__, networks, hooks],
                stdin=theirs.fileno(),
                stdout=others.fileno(),
            )
        self.control.settimeout(10)
        self.questions.settimeout(10)

    def ask(self, *words: str, fds: tuple[int, ...] = ()) -> list[str]:
        socket.send_fds(self.control, ["\0".join(words).encode()], list(fds))
        return self.answer()

    def answer(self) -> list[str]:
        data, fds, _, _ = socket.recv_fds(self.control, 65536, 4)
        for fd in fds:
            os.close(fd)
        return data.decode().split("\0")

    def close(self) -> None:
        self.control.close()
        self.questions.close()
        assert self.process.wait(10) == 0


@pytest.fixture
def hooks(tmp_path: Path) -> Path:
    path = tmp_path / "hooks.d"
    path.mkdir(mode=0o755)
    return path


@pytest.fixture
def spawned(tmp_path: Path, hooks: Path) -> Iterator[Spawned]:
    (tmp_path / "networks").mkdir()
    made = Spawned(tmp_path / "networks", hooks)
    yield made
    made.close()


def written(path: Path, text: str, mode: int = 0o755) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(mode)
    return path


class TestHook:
    Run = Callable[..., list[str]]

    @pytest.fixture
    def run(self, spawned: Spawned, tmp_path: Path) -> Run:
        def ran(
            file: Path, *words: str, name: str = "", limit: str = "10"
        ) -> list[str]:
            with (
                file.open("rb") as executable,
                (tmp_path / "out").open("wb") as output,
                open(os.devnull, "rb") as null,
            ):
                fds = executable.fileno(), null.fileno(), output.fileno()
                words = ("7", name or file.name, limit, "attach", *words)
                return spawned.ask("hook", *words, fds=fds)

        return ran

    def test_is_run_and_its_end_told(
        self, run: Run, spawned: Spawned, hooks: Path, tmp_path: Path
    ) -> None:
        file = written(hooks / "it", 'echo "$1 $TAPSTER_X $PATH"; exit 3')
        assert run(file, "TAPSTER_X=y")[:2] == ["started", "7"]
        assert spawned.answer() == ["ended", "7", "3", ""]
        assert (tmp_path / "out").read_text() == f"attach y {spawner.DEFAULT_PATH}\n"

    def test_has_no_descriptor_but_its_own(
        self, run: Run, spawned: Spawned, hooks: Path, tmp_path: Path
    ) -> None:
        run(written(hooks / "it", "ls /proc/self/fd"))
        assert spawned.answer()[2] == "0"
        # Its script, which sh reads, and what ls looks at.
        assert (tmp_path / "out").read_text().split() == ["0", "1", "2", "3", "4"]

    def test_is_killed_with_all_that_it_started(
        self, run: Run, spawned: Spawned, hooks: Path, tmp_path: Path
    ) -> None:
        note = tmp_path / "pid"
        text = f"setsid sh -c 'echo $$ > {note}; exec sleep 99' & wait"
        mark = f"TAPSTER_RUN={tmp_path}/1"
        assert run(written(hooks / "it", text), mark, limit="0.5")[0] == "started"
        assert spawned.answer() == ["ended", "7", "-9", "late"]
        self.is_gone(int(note.read_text()))

    def test_ends_with_the_broker(
        self, run: Run, spawned: Spawned, hooks: Path, tmp_path: Path
    ) -> None:
        note = tmp_path / "pid"
        text = f"echo $$ > {note}.new; mv {note}.new {note}; sleep 99"
        run(written(hooks / "it", text))
        deadline = time.monotonic() + 10
        while not note.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        spawned.close()
        self.is_gone(int(note.read_text()))

    @staticmethod
    def is_gone(pid: int) -> None:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            assert select.select([pidfd], [], [], 5)[0]
        finally:
            os.close(pidfd)

    @pytest.mark.parametrize("limit", ["nan", "-1", "-inf", "soon"])
    def test_without_an_end_is_refused(self, run: Run, hooks: Path, limit: str) -> None:
        assert run(written(hooks / "it", "echo no"), limit=limit)[0] == "refused"

    def test_elsewhere_is_refused(self, run: Run, tmp_path: Path, hooks: Path) -> None:
        elsewhere = written(tmp_path / "it", "echo no")
        assert run(elsewhere)[0] == "refused"
        written(hooks / "it", "echo yes")
        assert run(elsewhere)[0] == "refused"  # another file than its name's
        assert run(Path("/bin/sh"), name="it")[0] == "refused"

    def test_that_others_may_write_to_is_refused(self, run: Run, hooks: Path) -> None:
        assert run(written(hooks / "it", "true", 0o775))[0] == "refused"
        hooks.chmod(0o777)
        assert run(written(hooks / "at", "true"))[0] == "refused"

    @pytest.mark.parametrize("name", ["../it", "a/b", ".it", "", "it\n", "x" * 65])
    def test_of_another_name_is_refused(self, run: Run, hooks: Path, name: str) -> None:
        assert run(written(hooks / "it", "true"), name=name or "/")[0] == "refused"

    @pytest.mark.parametrize("word", [
        "LD_PRELOAD=/tmp/x", "PATH=/tmp", "TAPSTER_", "TAPSTER_a=b", "BASH_ENV=x", "=",
    ])  # fmt: skip
    def test_variable_that_is_not_ours_is_refused(
        self, run: Run, hooks: Path, word: str
    ) -> None:
        assert run(written(hooks / "it", "true"), word)[0] == "refused"


class TestRequests:
    @pytest.mark.parametrize("bridge", [
        "eth0", "../networks/tapbr0", "tapbr0/../../x", "", "tapbr", "tapbr0\n",
    ])  # fmt: skip
    def test_dnsmasq_of_no_network_of_ours(self, spawned: Spawned, bridge: str) -> None:
        assert spawned.ask("dnsmasq", "1", bridge)[0] == "refused"

    def test_dnsmasq_on_a_link(self, spawned: Spawned, tmp_path: Path) -> None:
        directory = tmp_path / "networks" / BRIDGE
        directory.mkdir()
        (directory / "dnsmasq.conf").symlink_to("/etc/hostname")
        assert spawned.ask("dnsmasq", "1", BRIDGE)[0] == "refused"

    @pytest.mark.parametrize("words", [
        ("exec", "1", "/bin/sh"), ("", ""), ("hook",), ("hook", "1", "a", "1", "x"),
        ("dnsmasq",), ("\xff",), ("dnsmasq", "1", BRIDGE, "more"),
    ])  # fmt: skip
    def test_that_are_none(self, spawned: Spawned, words: tuple[str, ...]) -> None:
        assert spawned.ask(*words)[0] == "refused"

    def test_signal_reaches_no_other_program(self, spawned: Spawned) -> None:
        other = subprocess.Popen(["sleep", "99"])
        pidfd = os.pidfd_open(other.pid)
        try:
            word = b"signal\0\0SIGKILL"
            socket.send_fds(spawned.control, [word], [pidfd])
        finally:
            os.close(pidfd)
        assert spawned.ask("x", "1")[0] == "refused"  # it has seen both
        assert other.poll() is None
        other.kill()
        other.wait()

    def test_program_of_a_process(self, spawned: Spawned) -> None:
        for _ in range(3):
            with_fd = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY)
            socket.send_fds(spawned.questions, [b"?"], [with_fd])
            os.close(with_fd)
            assert spawned.questions.recv(4096).decode() == os.readlink(
                "/proc/self/exe"
            )
        spawned.questions.send(b"?")
        assert spawned.questions.recv(4096) == b"\0"

    def test_it_minds_no_terminal(self, spawned: Spawned) -> None:
        assert spawned.ask("x", "1")[0] == "refused"  # it is up
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            spawned.process.send_signal(number)
        assert spawned.ask("x", "1")[0] == "refused"
