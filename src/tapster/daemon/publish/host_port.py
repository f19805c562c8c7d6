# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ports of the host that are forwarded: no other program may bind them, and flows that
the kernel knows already follow a forward that is opened or shut.
"""

from __future__ import annotations

import errno
import logging
import socket

from ...kernel.conntrack import ConntrackSocket
from ...model import Port

_log = logging.getLogger(__name__)

_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


def hold(port: Port) -> list[socket.socket]:
    """Bind a port of this host, so that no other program can.

    :returns: a socket for each of IPv4 and IPv6 that the host has; the caller closes
        them.
    :raises OSError: the port can't be bound; EADDRINUSE if another program has it.
    """
    kind = socket.SOCK_STREAM if port.protocol == "tcp" else socket.SOCK_DGRAM
    held: list[socket.socket] = []
    try:
        for family, anywhere in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):  # noqa: S104
            try:
                sock = socket.socket(family, kind | socket.SOCK_CLOEXEC)
            except OSError as err:
                if err.errno in _NO_IPV6:
                    continue
                raise
            held.append(sock)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                _bind_alone(sock, anywhere, port)
            except OSError as err:
                if family == socket.AF_INET6 and err.errno in _NO_IPV6:
                    held.pop().close()
                    continue
                raise
    except BaseException:
        for sock in held:
            sock.close()
        raise
    return held


def _bind_alone(sock: socket.socket, address: str, port: Port) -> None:
    """Bind a port so that nobody else can, and do not listen on it.

    Connections in TIME_WAIT, which a program that ended has left, keep a TCP port from
    whoever does not set SO_REUSEADDR. Whoever sets it shares the port with all others
    that do, until one of them listens. So this sets it, listens for a moment, and
    takes it back.
    """
    if port.protocol != "tcp":
        sock.bind((address, port.first))
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((address, port.first))
    sock.listen(0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    sock.shutdown(socket.SHUT_RDWR)


def forget_flows(port: Port) -> None:
    """Have the kernel forget the flows to a port of this host, so that their next
    packet goes where the port leads now.

    The kernel decides once for each flow where it goes. Clients that were there before
    would stay with a guest that has given the port up, or never reach the one that has
    got it.
    """
    tcp = port.protocol == "tcp"
    protocol = socket.IPPROTO_TCP if tcp else socket.IPPROTO_UDP
    try:
        with ConntrackSocket() as flows:
            flows.forget(protocol, port.first, lambda flow: _is_of_host(flow.address))
    except OSError as err:
        _log.warning("flows to %s stay where they were: %s", port, err)


def _is_of_host(address: str) -> bool:
    """Whether an address is one of this host's, which only then can be bound."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.bind((address, 0))
        except OSError:
            return False
    return True
