# SPDX-License-Identifier: LGPL-2.1-or-later
"""A client of the broker that is a process of its own, with one user's ids.

Run in the lab. Each line of its input is a method and its parameters; each line
of its output the reply's parameters, or the name of an error. What descriptors
it got stay open until it ends. With "--orphan" it asks over a connection whose
owner, by the kernel's account, has ended.
"""

from __future__ import annotations

import json
import os
import socket
import sys

from tapster.client.connection import Connection
from tapster.errors import TapsterError


def connect(path: str, orphan: bool) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    if not orphan:
        sock.connect(path)
    elif (child := os.fork()) == 0:
        sock.connect(path)
        os._exit(0)
    else:
        os.waitpid(child, 0)
    return sock


def main() -> None:
    path, *options = sys.argv[1:]
    held: list[int] = []
    connection = Connection(connect(path, "--orphan" in options), 60)
    print("ready", flush=True)
    for line in sys.stdin:
        method, parameters = json.loads(line)
        try:
            reply, fds = connection.call(method, parameters, fds=True)
        except TapsterError as err:
            reply, fds = {"error": type(err).__name__}, []
        held += fds
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
