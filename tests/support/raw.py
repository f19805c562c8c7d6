# SPDX-License-Identifier: LGPL-2.1-or-later
"""The wire without a client: what is sent and what comes, byte by byte."""

from __future__ import annotations

import json
import os
import socket
import struct
from typing import Any

from lab import Daemon

GET_INFO = b'{"method":"io.tapster.Broker.GetInfo"}\0'


def descriptors(daemon: Daemon) -> int:
    return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))


def receive(sock: socket.socket) -> bytes:
    """All until the other end hangs up; it has to."""
    sock.settimeout(10)
    data = b""
    try:
        while chunk := sock.recv(65536):
            data += chunk
    except ConnectionResetError:
        pass
    return data


def messages(sock: socket.socket, count: int) -> list[dict[str, Any]]:
    data = b""
    while data.count(b"\0") < count:
        chunk = sock.recv(65536)
        assert chunk, f"hung up after {data!r}"
        data += chunk
    return [json.loads(part) for part in data.split(b"\0")[:count]]


def call(method: str, **more: Any) -> bytes:
    name = method if "." in method else f"io.tapster.Broker.{method}"
    return json.dumps({"method": name, **more}).encode() + b"\0"


class Lingering:
    """A TCP connection whose last close(2) takes `seconds`, as SO_LINGER has it."""

    def __init__(self, seconds: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.ours = socket.create_connection(listening.getsockname())
            self.theirs, _ = listening.accept()
        wait = struct.pack("ii", 1, seconds)
        self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, wait)
        self.ours.setblocking(False)
        try:
            while True:  # until there is something to wait for
                self.ours.send(b"x" * 65536)
        except BlockingIOError:
            pass

    def close(self) -> None:
        """End what whoever closes the other end still waits for."""
        self.theirs.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        self.theirs.close()
