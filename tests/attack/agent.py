# SPDX-License-Identifier: LGPL-2.1-or-later
"""An unprivileged user's process on a lab's host, told from outside what to do.

What root does in a user's name proves little: the kernel asks the process for its
capabilities, not the test for its intentions. So a process with the user's ids
alone runs the functions of acts.py; descriptors that it gets stay its own.
"""

from __future__ import annotations

import os
import pickle
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any

from lab import Space

PATH = ":".join(f"/run/checkout/{part}" for part in ("src", "tests", "tools"))
_LENGTH = struct.Struct("!I")
_PATIENCE = 60.0  # seconds for one act


class Gone(Exception):
    """The process ended, or was killed."""


class Agent:
    """Such a process, from the outside. `close()` ends it."""

    def __init__(self, space: Space, uid: int, python: str) -> None:
        self.uid, self._space = uid, space
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(_PATIENCE)
        with theirs:
            self._process = space.popen(
                python, "-m", "attack.agent", str(theirs.fileno()),
                user=uid, env={"PYTHONPATH": PATH}, pass_fds=[theirs.fileno()],
                cwd="/",
            )  # fmt: skip
        self.pid: int = self(os.getpid)
        if self(os.geteuid) != uid:
            raise RuntimeError("an attacker with another uid proves nothing")

    def __call__(self, function: Callable[..., Any], *args: Any, **named: Any) -> Any:
        """What the function returns there; an exception of it is raised here."""
        try:
            _send(self._socket, pickle.dumps((function, args, named)))
            good, value = pickle.loads(_receive(self._socket))  # noqa: S301 - our own
        except (Gone, BrokenPipeError, ConnectionResetError):
            status = self._process.wait(5)
            raise Gone(f"{function.__name__}: ended with status {status}") from None
        if not good:
            raise value
        return value

    def lend(self, fd: int) -> int:
        """A duplicate of its descriptor, for us to close."""
        self(_lend, fd)
        _, (got,), _, _ = socket.recv_fds(self._socket, 1, 1)
        return got

    def forget(self) -> None:
        """Have it close all that it opened."""
        self(_forget)

    def close(self) -> None:
        self._socket.close()
        self._process.kill()
        self._process.wait()


def _send(sock: socket.socket, data: bytes) -> None:
    sock.sendall(_LENGTH.pack(len(data)) + data)


def _receive(sock: socket.socket) -> bytes:
    def exactly(count: int) -> bytes:
        data = b""
        while len(data) < count:
            chunk = sock.recv(count - len(data))
            if not chunk:
                raise Gone
            data += chunk
        return data

    return exactly(_LENGTH.unpack(exactly(_LENGTH.size))[0])


_commands: socket.socket
_keep: set[int] = set()


def _lend(fd: int) -> None:
    _after.append(fd)


_after: list[int] = []


def _forget() -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in _keep:
            try:
                os.close(int(name))
            except OSError:
                pass  # listdir's own


def main() -> None:
    commands = socket.socket(fileno=int(sys.argv[1]))
    # Frames of two processes are in order only where they are sent by one
    # processor: support.frames takes this one, too.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    _keep.update((0, 1, 2, commands.fileno()))
    # It runs as __main__; what is asked for is in the module of its real name.
    from attack import agent

    agent._keep.update(_keep)
    while True:
        try:
            function, args, named = pickle.loads(_receive(commands))  # noqa: S301
        except Gone:
            return
        answer: tuple[bool, Any]
        try:
            answer = True, function(*args, **named)
        except Exception as error:  # noqa: BLE001 - raised where it was asked
            answer = False, error
        _send(commands, pickle.dumps(answer))
        while agent._after:
            socket.send_fds(commands, [b"\0"], [agent._after.pop()])


if __name__ == "__main__":
    main()
