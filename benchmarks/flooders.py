# SPDX-License-Identifier: LGPL-2.1-or-later
"""What one hostile user can do to the socket, each for as long as it is let.

A process for each, by name: `python -m benchmarks.flooders NAME…`. It has no
privilege, does its worst, and takes no answer for one.
"""

from __future__ import annotations

import json
import os
import random
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import tapster
from benchmarks import space
from tapster.errors import TapsterError

_THREADS = 8


def _connect() -> socket.socket:
    while True:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(space.BROKER_SOCKET)
            return sock
        except OSError:
            sock.close()


def _call(method: str, **more: object) -> bytes:
    return (
        json.dumps({"method": f"io.tapster.Broker.{method}", **more}).encode() + b"\0"
    )


def _over_and_over(work: Callable[[], None]) -> None:
    """In several threads, whatever comes of it."""

    def forever() -> None:
        while True:
            with suppress(OSError, TapsterError):
                work()

    for _ in range(_THREADS - 1):
        threading.Thread(target=forever, daemon=True).start()
    forever()


def _push(sock: socket.socket, data: bytes) -> None:
    """As much as it takes, until it is cut off; nothing is read."""
    with sock:
        while True:
            sock.sendall(data)


def connections() -> None:
    """As many as there may be, for good; and more of them, in vain."""
    held = []
    while True:
        sock = _connect()
        held.append(sock)
        if len(held) > 900:
            held.pop(random.randrange(len(held))).close()  # noqa: S311


def connect_and_close() -> None:
    _over_and_over(lambda: _connect().close())


def attach_and_close() -> None:
    _over_and_over(lambda: tapster.attach().close())


def refused() -> None:
    """What is not allowed, with nobody waiting for the answer."""
    wanted = _call("Attach", parameters={"bridge": "not-mine"})

    def work() -> None:
        with _connect() as sock:
            for _ in range(50):
                sock.sendall(wanted)

    _over_and_over(work)


def garbage() -> None:
    """No JSON, no objects, no methods, no end."""
    kinds: list[Callable[[], bytes]] = [
        lambda: os.urandom(4096),
        lambda: b"{}\0" * 1000,
        lambda: b"[" * 60000 + b"\0",
        lambda: (
            b'{"method":"io.tapster.Broker.' + os.urandom(20).hex().encode() + b'"}\0'
        ),
        lambda: b"x" * 65536,
    ]

    def work() -> None:
        with _connect() as sock:
            sock.settimeout(1)
            make = random.choice(kinds)  # noqa: S311
            for _ in range(100):
                sock.sendall(make())

    _over_and_over(work)


def calls() -> None:
    """What everybody may ask, without end and without a look at the answers."""
    data = _call("GetInfo") * 20 + _call("List") * 20 + _call("ListNetworks") * 20

    def work() -> None:
        _push(_connect(), data)

    _over_and_over(work)


def expensive_calls() -> None:
    data = _call("Diagnose") + _call("Explain", parameters={"network": "default"}) * 5

    def work() -> None:
        with _connect() as sock:
            sock.sendall(data)
            sock.settimeout(2)
            while sock.recv(65536):
                pass

    _over_and_over(work)


def half_messages() -> None:
    """On many connections, a byte now and then."""
    held: list[socket.socket] = []
    while True:
        while len(held) < 250:
            held.append(_connect())
        for sock in list(held):
            try:
                sock.send(b" ", socket.MSG_DONTWAIT)
            except BlockingIOError:
                pass
            except OSError:
                held.remove(sock)
                sock.close()


def deaf_watchers() -> None:
    """Who ask for all events, make many, and read none."""
    watch = _call("Watch", more=True)
    held = []
    for _ in range(64):
        sock = _connect()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(watch)
        held.append(sock)
    attach_and_close()


def descriptors() -> None:
    """With each byte some, which take a minute to close, where the kernel lets them."""

    def lingering() -> socket.socket:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            ours = socket.create_connection(listening.getsockname())
            listening.accept()[0].detach()
        wait = struct.pack("ii", 1, 60)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, wait)
        ours.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                ours.send(b"x" * 65536)
        return ours

    made = 0

    def work() -> None:
        nonlocal made
        with _connect() as sock:
            memory = os.memfd_create("x")
            fds = [memory, sock.fileno()]
            if made < 64:
                made += 1
                with lingering() as slow, suppress(PermissionError):
                    socket.send_fds(sock, [b" "], [slow.fileno()])
            try:
                while True:
                    try:
                        socket.send_fds(sock, [b" "], fds)
                    except PermissionError:
                        sock.sendall(b" ")
            finally:
                os.close(memory)

    _over_and_over(work)


def die_in_the_middle() -> None:
    """A call whose caller is gone before it is answered."""
    wanted = _call("Attach", parameters={})

    def work() -> None:
        sock = _connect()
        sock.sendall(wanted)
        sock.close()

    _over_and_over(work)


def keep_busy() -> None:
    """Ask the broker for nothing: what the processors' being busy does by itself."""
    while True:
        pass


FLOODERS = {
    function.__name__: function
    for function in (
        *(connections, connect_and_close, attach_and_close, refused, garbage, calls),
        *(expensive_calls, half_messages, deaf_watchers, descriptors),
        die_in_the_middle,
    )
}


def main() -> None:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    *others, name = sys.argv[1:]
    for other in others:  # of one session, as those of one user's login are
        if not os.fork():
            name = other
            break
    while True:
        with suppress(OSError):
            FLOODERS.get(name, keep_busy)()
        time.sleep(0.001)


if __name__ == "__main__":
    main()
