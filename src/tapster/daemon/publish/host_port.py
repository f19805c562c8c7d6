# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ports of the host: kept from everybody else, and rid of what came before."""

from __future__ import annotations

import errno
import logging
import socket

from ...kernel.conntrack import ConntrackSocket
from ...model import Port

_log = logging.getLogger(__name__)

_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


def hold(port: Port) -> list[socket.socket]:
    """Sockets that keep a port of this host from anybody else.

    :returns: one a family that the host has; the caller closes them.
    :raises OSError: EADDRINUSE, somebody has it.
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
                _take(sock, anywhere, port)
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


def _take(sock: socket.socket, address: str, port: Port) -> None:
    """Bind it so that nobody else can, without listening.

    What connections of a program that ended left in TIME_WAIT keeps a port from
    whoever does not set SO_REUSEADDR; but who sets it shares the port with all
    that do, until one has listened, if only for this moment.
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
    """Have what comes to a port of this host go where it leads now, from
    clients too that were there before: they would stay with a guest that has
    given the port up, or never reach the one that got it."""
    tcp = port.protocol == "tcp"
    protocol = socket.IPPROTO_TCP if tcp else socket.IPPROTO_UDP
    try:
        with ConntrackSocket() as flows:
            flows.forget(protocol, port.first, lambda flow: _is_of_host(flow.address))
    except OSError as err:
        _log.warning("flows to %s stay where they were: %s", port, err)


def _is_of_host(address: str) -> bool:
    """Whether this host has an address: only then can it be bound."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.bind((address, 0))
        except OSError:
            return False
    return True
