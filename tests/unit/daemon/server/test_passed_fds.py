# SPDX-License-Identifier: LGPL-2.1-or-later
"""`daemon.server.passed_fds`: descriptors that clients send are closed elsewhere."""

from __future__ import annotations

import os
import socket
import threading
import time

import pytest

from tapster.daemon.server import passed_fds
from tapster.daemon.server.passed_fds import (
    PENDING,
    THREADS,
    THREADS_PER_USER,
    FdReaper,
    PassedFds,
)


def closing(reaper: FdReaper, uid: int) -> bool:
    """Whether some of the user's are not closed yet."""
    return bool(reaper._pending[uid])


def wait_until_closed(reaper: FdReaper, uid: int) -> None:
    deadline = time.monotonic() + 10
    while closing(reaper, uid):
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Closing waits for this."""
    go, close = threading.Event(), os.close

    def slow(fd: int) -> None:
        if threading.current_thread().name == "close":
            go.wait(10)
        close(fd)

    monkeypatch.setattr(os, "close", slow)
    return go


def test_descriptors_are_closed_in_other_threads(stuck: threading.Event) -> None:
    reaper = FdReaper()
    start = time.monotonic()
    reaper.close(1, [os.dup(0) for _ in range(3)])
    assert time.monotonic() - start < 5
    assert closing(reaper, 1)
    stuck.set()
    wait_until_closed(reaper, 1)


def test_a_user_with_many_that_are_not_closed_is_behind(
    stuck: threading.Event,
) -> None:
    reaper = FdReaper()
    reaper.close(1, [os.dup(0) for _ in range(PENDING + 1)])
    assert reaper.is_behind(1)
    assert not reaper.is_behind(2)
    stuck.set()
    wait_until_closed(reaper, 1)
    assert not reaper.is_behind(1)


def test_a_user_whose_are_slow_to_close_leaves_threads_for_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go, close, slow = threading.Event(), os.close, [os.dup(0) for _ in range(THREADS)]

    def slow_for_some(fd: int) -> None:
        if fd in slow:
            go.wait(10)
        close(fd)

    monkeypatch.setattr(os, "close", slow_for_some)
    reaper = FdReaper()
    reaper.close(1, slow)
    reaper.close(2, [os.dup(0)])
    wait_until_closed(reaper, 2)
    assert reaper._closing[1] == THREADS_PER_USER
    go.set()
    wait_until_closed(reaper, 1)


def test_one_that_can_t_be_closed_does_not_end_its_thread() -> None:
    reaper = FdReaper()
    reaper.close(1, [1 << 20])
    wait_until_closed(reaper, 1)
    reaper.close(1, [os.dup(0)])
    wait_until_closed(reaper, 1)


@pytest.mark.parametrize("may_come", [True, False])
def test_a_socket_is_closed_by_a_thread_if_descriptors_may_be_in_it(
    monkeypatch: pytest.MonkeyPatch, stuck: threading.Event, may_come: bool
) -> None:
    monkeypatch.setattr(passed_fds, "may_carry_fds", lambda _: may_come)
    reaper = FdReaper()
    ours, client = socket.socketpair()
    with client:
        PassedFds(reaper, 1, ours).close(ours)
        assert ours.fileno() < 0
        assert closing(reaper, 1) == may_come
        assert client.recv(1) == b""  # the client does not wait for that
        stuck.set()
        wait_until_closed(reaper, 1)


def test_a_kernel_that_has_no_such_option_is_taken_at_its_worst(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(passed_fds, "SO_PASSRIGHTS", 0x7FFF)
    ours, client = socket.socketpair()
    with ours, client:
        passed_fds.disable_fd_passing(ours)
        assert passed_fds.may_carry_fds(ours)


def test_a_thread_that_can_not_be_started_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reaper = FdReaper()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", _no_thread)
        for _ in range(THREADS + 1):
            reaper.close(1, [os.dup(0)])
    assert closing(reaper, 1)
    reaper.close(1, [os.dup(0)])
    wait_until_closed(reaper, 1)


def _no_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")
