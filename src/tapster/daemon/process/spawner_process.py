# SPDX-License-Identifier: LGPL-2.1-or-later
"""Starts the spawner (spawner.py) as a process of its own, and ends it.

The broker can't do this once it is in its sandbox, and should not do it once it has
met a caller: the spawner would inherit what the caller may have caused.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import NamedTuple

from ...errors import BrokerUnavailable
from ...networks import dnsmasq
from . import spawner


class SpawnerProcess(NamedTuple):
    """The running spawner. Whoever started it calls `close`."""

    pid: int
    control: socket.socket  # requests to start, end and signal; see programs.py
    questions: socket.socket  # which program does a process run?
    user: str | None  # account that dnsmasq changes to; None: it stays who we are

    def close(self) -> None:
        """End the spawner, and wait until it has killed the hooks that it runs.

        dnsmasq processes go on.
        """
        self.control.close()
        self.questions.close()
        try:
            os.waitpid(self.pid, 0)
        except ChildProcessError:
            pass


def start(runtime: str, config: str) -> SpawnerProcess:
    """Start the spawner. Call this early: it inherits whatever this process has.

    :param runtime: the runtime directory, which networks' directories are in.
    :param config: the configuration directory, which `hooks.d` is in.
    :raises BrokerUnavailable: it can't be started.
    """
    user = dnsmasq.service_user()
    group = dnsmasq.group_of(user) if user is not None else ""
    if not sys.executable:
        raise BrokerUnavailable("where Python is, is not known")
    control, their_control = _socketpair()
    questions, their_questions = _socketpair()
    command = [
        # Isolated: modules come from Python's own directories alone.
        *(sys.executable, "-I", "-S", os.path.abspath(spawner.__file__)),
        *(os.path.join(runtime, "networks"), os.path.join(config, "hooks.d")),
    ]
    try:
        pid = os.posix_spawn(
            sys.executable,
            command,
            # Not on the command line, by which a dnsmasq is recognised.
            {**os.environ, "DNSMASQ_USER": user or "", "DNSMASQ_GROUP": group},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, their_control.fileno(), 0),
                (os.POSIX_SPAWN_DUP2, their_questions.fileno(), 1),
            ],
            setsid=True,  # a terminal's Ctrl-C is not for the spawner
            setsigmask=(),
            setsigdef=(signal.SIGPIPE, signal.SIGCHLD),
        )
    except OSError as err:
        control.close()
        questions.close()
        raise BrokerUnavailable(
            f"cannot start {sys.executable}: {err.strerror}"
        ) from err
    finally:
        their_control.close()
        their_questions.close()
    return SpawnerProcess(pid, control, questions, user)


def _socketpair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets that keep each message whole."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
