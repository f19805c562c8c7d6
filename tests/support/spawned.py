# SPDX-License-Identifier: LGPL-2.1-or-later
"""The spawner itself, as a process, with the test in the broker's place."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from tapster.daemon.process import spawner


class Spawned:
    """The spawner, and the sockets to it."""

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
