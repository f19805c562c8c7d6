# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.daemon.process.listening`: the socket that is made, and what is notified.
A socket that a service manager passes is in tests/kernel/test_listener.py."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tapster.daemon.process.listening import activated_socket, listen, notify
from tapster.errors import BrokerUnavailable


@pytest.fixture
def path(runtime: str) -> str:
    return f"{runtime}/socket"


def test_a_socket_serves_at_its_path_with_its_mode(path: str) -> None:
    with listen(path, 0o640), socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        assert Path(path).stat().st_mode & 0o777 == 0o640
        assert [name.name for name in Path(path).parent.iterdir()] == ["socket"]


def test_a_dead_brokers_socket_is_replaced(path: str) -> None:
    listen(path, 0o600).close()
    Path(f"{path}.new").touch()  # left by one that was killed earlier still
    with listen(path, 0o600), socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


def test_a_living_brokers_socket_is_not_replaced(path: str) -> None:
    with listen(path, 0o600), pytest.raises(BrokerUnavailable, match="another broker"):
        listen(path, 0o600)


def test_a_path_that_cannot_be_used_is_told(path: str) -> None:
    with pytest.raises(BrokerUnavailable, match="cannot listen"):
        listen(f"{path}/below/nothing", 0o600)


@pytest.mark.parametrize("prefix", ["/", "@"])
def test_the_service_manager_is_told(
    prefix: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = path if prefix == "/" else f"@{path}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name.replace("@", "\0"))
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        notify("READY=1")
        assert manager.recv(100) == b"READY=1"


@pytest.mark.parametrize("name", [None, "", "relative", "/nowhere/at/all"])
def test_nobody_to_be_told_is_no_error(
    name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if name is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", name)
    notify("READY=1")


@pytest.mark.parametrize("pid", ["1", "", "x"])
def test_a_socket_that_was_passed_to_another_process_is_not_taken(
    pid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_PID", pid)
    assert activated_socket() is None
