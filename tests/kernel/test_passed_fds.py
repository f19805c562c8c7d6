# SPDX-License-Identifier: LGPL-2.1-or-later
"""Descriptors that a client sends, on a kernel that can't have them refused.

How long it takes to close one is the client's choice; it is nobody else's time.
"""

from __future__ import annotations

import array
import os
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from lab import OTHER, USER, Daemon, Lab, until
from support.host import ask, attach, plain_socket
from support.raw import GET_INFO, Lingering, descriptors, messages, receive
from support.serving import serving

CONFIG = """
[limits]
idle_connection_seconds = 2
connections_per_user = 4
[broker]
network_grace_seconds = 0.1
"""
WITHOUT = """
from tapster.daemon.server import passed_fds
passed_fds.SO_PASSRIGHTS = 0x7fff
"""


@pytest.fixture(scope="module")
def daemon(lab: Lab) -> Iterator[Daemon]:
    with serving(lab, CONFIG, script=WITHOUT) as running:
        yield running


@pytest.fixture(autouse=True)
def not_more_than_before(lab: Lab, daemon: Daemon) -> Iterator[None]:
    before = descriptors(daemon)
    yield
    assert ask(lab, OTHER, "GetInfo")["tier"] == "system"
    until("its descriptors", lambda: descriptors(daemon) <= before)


def test_descriptors_that_a_client_sends_are_closed(lab: Lab, daemon: Daemon) -> None:
    reading, writing = os.pipe()
    try:
        with plain_socket(lab, USER) as sock:
            socket.send_fds(sock, [GET_INFO], [writing] * 4)
            messages(sock, 1)
            os.close(writing)
            writing = -1
            # All copies are closed: the pipe has no writer any more.
            assert os.read(reading, 1) == b""
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)


def test_descriptors_with_every_byte_end_the_connection(
    lab: Lab, daemon: Daemon
) -> None:
    memory = os.memfd_create("x")
    try:
        with plain_socket(lab, USER) as sock:
            sent = 0
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                for byte in GET_INFO[:-1] * 100:
                    socket.send_fds(sock, [bytes((byte,))], [memory])
                    sent += 1
                    time.sleep(0.001)
            assert sent < 500
    finally:
        os.close(memory)


def test_too_many_descriptors_end_the_connection(lab: Lab, daemon: Daemon) -> None:
    with open("/dev/null") as null, plain_socket(lab, USER) as sock:
        fds = array.array("i", [null.fileno()] * 200).tobytes()
        for _ in range(3):
            try:
                sock.sendmsg([b" "], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
            except OSError:
                break
        assert receive(sock) == b""


def test_a_connection_that_is_sent_over_itself_does_no_harm(
    lab: Lab, daemon: Daemon
) -> None:
    """In a circle, read and unread: the kernel has to find out."""
    for data in (GET_INFO, b"half"):
        for _ in range(5):
            with plain_socket(lab, USER) as sock:
                socket.send_fds(sock, [data], [sock.fileno()] * 3)
                if data is GET_INFO:
                    messages(sock, 1)


def test_descriptors_that_are_slow_to_close_keep_nobody_waiting(
    lab: Lab, daemon: Daemon
) -> None:
    slow = [Lingering(60) for _ in range(6)]
    try:
        for each in slow[:3]:  # received
            with plain_socket(lab, USER) as sock:
                socket.send_fds(sock, [GET_INFO], [each.ours.fileno()])
                each.ours.close()
                messages(sock, 1)
        for each in slow[3:]:  # and not received, when the connection ends
            with plain_socket(lab, USER) as sock:
                sock.sendall(b"x\0")
                try:
                    socket.send_fds(sock, [b" "], [each.ours.fileno()])
                except OSError:
                    pass  # it has ended
                each.ours.close()
                assert receive(sock) == b""
        for uid in (USER, OTHER):
            with attach(lab, uid):
                pass
    finally:
        for each in slow:
            each.close()


def test_very_many_descriptors_that_are_slow_to_close_keep_nobody_waiting(
    lab: Lab, daemon: Daemon
) -> None:
    slow = Lingering(60)
    try:
        with open("/dev/null") as null, plain_socket(lab, USER) as sock:
            fds = [*[null.fileno()] * 40, slow.ours.fileno()]
            socket.send_fds(sock, [GET_INFO], fds)
            slow.ours.close()
            assert receive(sock) == b""
        with attach(lab, OTHER):
            pass
    finally:
        slow.close()


def test_descriptors_on_connections_that_are_turned_away_keep_nobody_waiting(
    lab: Lab, daemon: Daemon
) -> None:
    slow = [Lingering(60) for _ in range(3)]
    idle = [plain_socket(lab, USER) for _ in range(4)]
    turned_away: list[socket.socket] = []
    try:
        for sock in idle:
            sock.sendall(GET_INFO)
            messages(sock, 1)
        os.kill(daemon.process.pid, signal.SIGSTOP)
        try:
            for each in slow:  # sent before they are accepted
                sock = plain_socket(lab, USER)
                turned_away.append(sock)
                socket.send_fds(sock, [GET_INFO], [each.ours.fileno()])
                each.ours.close()
        finally:
            os.kill(daemon.process.pid, signal.SIGCONT)
        for sock in turned_away:
            assert b"BrokerBusy" in receive(sock)
        with attach(lab, OTHER):
            pass
    finally:
        for each in slow:
            each.close()
        for sock in (*idle, *turned_away):
            sock.close()
