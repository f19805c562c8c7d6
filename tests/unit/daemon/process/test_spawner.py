# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.daemon.process.spawner`: what it answers, and what ends it."""

from __future__ import annotations

import os
import signal
import socket

import pytest

from support.spawned import Spawned

BRIDGE = "tapbr0a1b2c3d"


@pytest.mark.parametrize("words", [
    ("exec", "1", "/bin/sh"), ("", ""), ("hook",), ("hook", "1", "a", "1", "x"),
    ("dnsmasq",), ("\xff",), ("dnsmasq", "1", BRIDGE, "more"),
])  # fmt: skip
def test_an_unknown_request_is_refused(
    spawned: Spawned, words: tuple[str, ...]
) -> None:
    assert spawned.ask(*words)[0] == "refused"


def test_the_program_of_a_process_is_told(spawned: Spawned) -> None:
    for _ in range(3):
        with_fd = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY)
        socket.send_fds(spawned.questions, [b"?"], [with_fd])
        os.close(with_fd)
        assert spawned.questions.recv(4096).decode() == os.readlink("/proc/self/exe")
    spawned.questions.send(b"?")
    assert spawned.questions.recv(4096) == b"\0"


def test_signals_of_a_terminal_do_not_end_it(spawned: Spawned) -> None:
    assert spawned.ask("x", "1")[0] == "refused"  # it is up
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        spawned.process.send_signal(number)
    assert spawned.ask("x", "1")[0] == "refused"
