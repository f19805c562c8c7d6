# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.client.start`: the user's own broker is started, and how that fails."""

from __future__ import annotations

import glob
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from fakes import broker as fake
from tapster import errors
from tapster.client import attach as client
from tapster.client import start
from tapster.version import __version__

pytestmark = pytest.mark.usefixtures("no_leaked_fd")


@pytest.fixture
def daemon(runtime: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """`tapsterd` is a fake; it is ended after the test. The runtime directory."""
    command = [sys.executable, "-I", fake.__file__, "--rootless"]
    monkeypatch.setattr(start, "daemon_command", lambda: command)
    yield runtime
    fake.end_daemons(runtime)


def children() -> str:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return file.read()


def test_the_daemon_of_this_installation_is_started() -> None:
    result = subprocess.run(
        [*start.daemon_command(), "--version"], capture_output=True, text=True
    )
    assert result.stdout == f"tapsterd {__version__}\n", result.stderr
    assert start.daemon_command()[0] == sys.executable


def test_broker_is_started_with_a_clean_process(
    daemon: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = ("LISTEN_FDS", "WATCHDOG_PID", "WATCHDOG_USEC")
    for name in told:
        monkeypatch.setenv(name, "1")
    extra, other = socket.socketpair()
    os.set_inheritable(extra.fileno(), True)
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM, signal.SIGCHLD})
    handler = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    before = children()
    try:
        client.attach(name="first").close()
        client.attach(name="second").close()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
        signal.signal(signal.SIGUSR2, handler)
        extra.close()
        other.close()
    (facts,) = fake.daemon_facts(daemon)
    assert children() == before
    assert os.stat(f"/proc/{facts['pid']}")
    assert facts["sid"] == facts["pid"]
    assert facts["cwd"] == "/"
    assert facts["blocked"] == facts["ignored"] == 0
    log = f"{daemon}/tapster/broker.log"
    assert facts["fds"] == {"0": "/dev/null", "1": "/dev/null", "2": log}
    assert facts["others"] == []
    assert not set(told) & set(facts["environ"])
    assert os.stat(f"{daemon}/tapster").st_mode & 0o777 == 0o700
    assert os.stat(log).st_mode & 0o777 == 0o600
    assert not glob.glob(f"{daemon}/tapster/ready-*")


def test_broker_is_started_although_sigchld_is_ignored(daemon: str) -> None:
    handler = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        client.attach().close()
    finally:
        signal.signal(signal.SIGCHLD, handler)


def test_failed_start_repeats_the_last_line_of_the_log(
    daemon: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TAPSTERD", "fail")
    before = children()
    with pytest.raises(errors.BrokerUnavailable) as caught:
        client.attach()
    assert caught.value.message == "cannot start a broker: no user namespaces here"
    assert caught.value.hint == f"see {daemon}/tapster/broker.log"
    assert children() == before


def test_broker_that_another_process_started_is_used(
    daemon: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours finds the lock taken, by one that exits: another is started."""
    monkeypatch.setenv("FAKE_TAPSTERD", "locked-once")
    client.attach().close()
    assert len(fake.daemon_facts(daemon)) == 2


def test_broker_that_does_not_start_in_time_is_an_error(
    daemon: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TAPSTERD", "hang")
    monkeypatch.setattr(start, "START_TIMEOUT", 1.0)
    with pytest.raises(errors.BrokerUnavailable, match="did not start in time"):
        client.attach()


def test_missing_tapsterd_is_an_error(
    runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [f"{runtime}/tapsterd", "--rootless"]
    monkeypatch.setattr(start, "daemon_command", lambda: command)
    with pytest.raises(errors.BrokerUnavailable, match=r"cannot be started.*No such"):
        client.attach()


def test_broker_outlives_the_process_that_started_it(daemon: str) -> None:
    """Also where we become another program, which must not have a child then."""
    code = f"""if True:
        import os, sys
        from tapster import paths
        from tapster.client import attach as client, start
        paths.SYSTEM_SOCKET = "/nowhere"
        start.daemon_command = lambda: {start.daemon_command()!r}
        client.attach().close()
        os.execvp("cat", ["cat", f"/proc/self/task/{{os.getpid()}}/children"])
    """
    env = {
        **os.environ,
        "PYTHONPATH": os.path.dirname(os.path.dirname(start.__file__)),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, check=True, capture_output=True
    )
    assert done.stdout + done.stderr == b""
    (facts,) = fake.daemon_facts(daemon)
    assert os.stat(f"/proc/{facts['pid']}")


def test_without_an_interpreter_the_daemon_of_path_is_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "")
    assert start.daemon_command() == ["tapsterd", "--rootless"]


@pytest.mark.parametrize(
    ("size", "kept"), [(start.LOG_LIMIT, True), (start.LOG_LIMIT + 1, False)]
)
def test_log_that_has_grown_too_long_is_emptied(
    daemon: str, size: int, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkdir(f"{daemon}/tapster", 0o700)
    log = f"{daemon}/tapster/broker.log"
    with open(log, "wb") as file:
        file.truncate(size)
    monkeypatch.setenv("FAKE_TAPSTERD", "fail")
    with pytest.raises(errors.BrokerUnavailable, match="no user namespaces here"):
        client.attach()
    with open(log, "rb") as file:
        text = file.read()
    assert text.startswith(b"\0" * size if kept else b"a warning")
