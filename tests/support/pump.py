# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest with a kernel's own IP stack: a namespace whose card is the tap of a NIC.

A tap's descriptor is the far end of a cable, and a stack is to be on it. So the
namespace has a tap of its own, and a thread puts what comes out of either
descriptor into the other, in order.
"""

from __future__ import annotations

import os
import secrets
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_interface
from typing import Any

from lab import Lab, Space
from support.host import attach, in_network
from tapster.client import attach as client
from tapster.kernel import tun

CARD = "eth0"
ROUTER6 = "fe80::1"
PATIENCE = 5.0  # seconds for what is expected
TCP, UDP = socket.SOCK_STREAM, socket.SOCK_DGRAM
V4, V6 = socket.AF_INET, socket.AF_INET6
FAMILIES = (V4, V6)
_FRAME = 70_000  # bytes, more than any


class Pump:
    """Moves frames between two taps. Owns its thread, not the descriptors."""

    def __init__(self, one: int, other: int) -> None:
        self._other = {one: other, other: one}
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._work, name="pump")
        self._thread.start()

    def close(self) -> None:
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        os.close(self._stop)

    def _work(self) -> None:
        poll = select.poll()
        for fd in (self._stop, *self._other):
            poll.register(fd, select.POLLIN)
        while True:
            for fd, what in poll.poll():
                if fd == self._stop:
                    return
                if not what & select.POLLIN:  # its device was deleted
                    poll.unregister(fd)
                    continue
                try:
                    os.write(self._other[fd], os.read(fd, _FRAME))
                except OSError:
                    pass  # a cable whose far end is down loses frames


class Stack:
    """A namespace on a NIC, with the NIC's addresses and its gateway as the way
    out, whether the network offers one or not. `close()` leaves the NIC."""

    def __init__(
        self, nic: client.Nic, *, length: int = 24, slaac: bool = False
    ) -> None:
        """:param slaac: leave IPv6 to the kernel and router advertisements."""
        self.nic = nic
        self._closing = ExitStack()
        with ExitStack() as undo:
            self.space = Space()
            undo.callback(self.space.close)
            card = in_network(self.space, lambda: tun.create(CARD, vnet_hdr=False))
            undo.callback(os.close, card)
            run = self.space.run
            run("ip", "link", "set", CARD, "address", str(nic.mac), "mtu", str(nic.mtu))
            if slaac:  # without a probe, and with a first solicitation at once
                run("sh", "-c", f"cd /proc/sys/net/ipv6/conf/{CARD}; echo 0 >"
                    " accept_dad; echo 0 > router_solicitation_delay")  # fmt: skip
            undo.callback(Pump(nic.fd, card).close)
            commands = [f"link set {CARD} up"]
            if nic.ipv4 is not None:
                own = ip_interface(f"{nic.ipv4}/{length}")
                commands.append(f"address add {own} dev {CARD}")
                commands.append(f"route add default via {own.network[1]}")
            if nic.ipv6 is not None and not slaac:
                commands.append(f"address add {nic.ipv6}/64 dev {CARD} nodad")
                commands.append(f"route add ::/0 via {ROUTER6} dev {CARD}")
            run("ip", "-batch", "-", input="\n".join(commands))
            self.settle()
            if nic.ipv6 is not None and not slaac:
                self.settle(ROUTER6)
                self.settle(self.gateway(V6))
            self._closing = undo.pop_all()

    def close(self) -> None:
        self._closing.close()

    def bound(
        self, kind: int, port: int = 0, family: int = V4, address: str = ""
    ) -> socket.socket:
        """`bound` in here; closed with this."""
        sock = bound(self.space, kind, port, family, address)
        self._closing.callback(sock.close)
        return sock

    def settle(self, gateway: str = "") -> None:
        """Wait until the host has handled all that was sent before: until it
        answers what is sent now. A guest's frames stay in order, but those of two
        guests are not in step.

        :param gateway: one of its addresses; their neighbour entries differ.
        """
        gateway = gateway or self.gateway()
        number = secrets.token_bytes(2)
        # A name without a dot is never looked up outside.
        question = number + b"\1\0\0\1" + bytes(6) + b"\7settled\0\0\1\0\1"
        with bound(self.space, UDP, 0, V6 if ":" in gateway else V4) as sock:
            sock.settimeout(0.25)
            for _ in range(20):
                sock.sendto(question, self._name_server(gateway))
                try:
                    while sock.recv(4096)[:2] != number:
                        pass
                except TimeoutError:
                    continue
                return
        raise AssertionError(f"the name server at {gateway} does not answer")

    def _name_server(self, gateway: str) -> tuple[str, int] | tuple[str, int, int, int]:
        if not gateway.startswith("fe80:"):
            return gateway, 53
        return gateway, 53, 0, in_network(self.space, socket.if_nametoindex, CARD)

    def address(self, family: int) -> str:
        return str(self.nic.ipv4 if family == V4 else self.nic.ipv6)

    def gateway(self, family: int = V4) -> str:
        length = 24 if family == V4 else 64
        return str(ip_interface(f"{self.address(family)}/{length}").network[1])

    def __enter__(self) -> Stack:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def bound(
    space: Space, kind: int, port: int = 0, family: int = V4, address: str = ""
) -> socket.socket:
    """A socket in a space, on that port; one of TCP with a port listens."""
    sock: socket.socket = in_network(space, socket.socket, family, kind)
    sock.settimeout(PATIENCE)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == V6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        sock.bind((address, port))
    except OSError:
        sock.close()
        raise
    if kind == TCP and port:
        sock.listen()
    return sock


def connected(
    space: Space, address: str, port: int, seconds: float = PATIENCE
) -> socket.socket:
    """A TCP connection from a space; :raises OSError: there is none in the time."""
    family = V6 if ":" in address else V4
    sock: socket.socket = in_network(space, socket.socket, family, TCP)
    sock.settimeout(seconds)
    try:
        sock.connect((address, port))
    except OSError:
        sock.close()
        raise
    return sock


@contextmanager
def guests(lab: Lab, *wanted: tuple[int, dict[str, Any]]) -> Iterator[list[Stack]]:
    """Stacks on NICs: for each a user, and what `attach` takes."""
    with ExitStack() as held:
        made = []
        for uid, what in wanted:
            nic = held.enter_context(attach(lab, uid, vnet_hdr=False, **what))
            made.append(held.enter_context(Stack(nic)))
        yield made
