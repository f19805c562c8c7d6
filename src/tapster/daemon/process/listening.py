# SPDX-License-Identifier: LGPL-2.1-or-later
"""The listening socket, made or passed, and notifications to the service manager.

sd_notify(3), sd_listen_fds(3), unix(7).
"""

from __future__ import annotations

import os
import socket

from ...errors import BrokerUnavailable

_FIRST_FD = 3  # SD_LISTEN_FDS_START
# Connections that wait to be accepted. A user who floods the socket fills the queue, so
# a short queue means a short wait for others. Whoever finds it full waits in
# connect(2), and the kernel lets them in by turns.
BACKLOG = 64


def notify(state: str) -> None:
    """Send the service manager a message such as ``READY=1`` (sd_notify(3)). If nobody
    listens, nothing happens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.sendto(state.encode(), socket.MSG_NOSIGNAL, address)
        except OSError:
            pass


def activated_socket() -> socket.socket | None:
    """Take the listening socket that a service manager has passed (sd_listen_fds(3)).

    :returns: the socket; None if none was passed.
    :raises ValueError: something else was passed, or more than one socket.
    """
    count = os.environ.pop("LISTEN_FDS", "")
    pid = os.environ.pop("LISTEN_PID", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if not count.isdecimal() or pid != str(os.getpid()) or count == "0":
        return None
    if count != "1":
        raise ValueError(f"{count} sockets were passed, one is wanted")
    os.set_inheritable(_FIRST_FD, False)
    sock = socket.socket(fileno=_FIRST_FD)
    if (
        sock.family != socket.AF_UNIX
        or sock.type != socket.SOCK_STREAM
        or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    ):
        raise ValueError("what was passed is not a listening Unix stream socket")
    sock.listen(BACKLOG)
    return sock


def listening_socket(path: str) -> socket.socket:
    """The socket to serve: the one that a service manager passed, or else one at
    `path`. Everyone may connect: who may have what is policy, not file modes.

    :returns: the socket, which the caller closes.
    :raises BrokerUnavailable: there is none to be had.
    """
    try:
        activated = activated_socket()
    except ValueError as err:
        raise BrokerUnavailable(f"socket activation: {err}") from err
    return activated if activated is not None else listen(path, 0o666)


def listen(path: str, mode: int) -> socket.socket:
    """Make a listening socket. One that a dead broker has left there is replaced.

    :param path: where it is.
    :param mode: of its file: who may connect.
    :raises BrokerUnavailable: a broker serves there, or the socket can't be made.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            try:
                probe.connect(path)
                raise BrokerUnavailable(f"another broker serves {path}")
            except (FileNotFoundError, ConnectionRefusedError):
                pass
            except BlockingIOError:
                raise BrokerUnavailable(f"another broker serves {path}") from None
        # Bound by another name first: whoever finds the socket can connect to it.
        temporary = f"{path}.new"
        try:
            os.unlink(temporary)
        except FileNotFoundError:
            pass
        sock.bind(temporary)
        os.chmod(temporary, mode)
        sock.listen(BACKLOG)
        os.rename(temporary, path)
    except OSError as err:
        sock.close()
        raise BrokerUnavailable(
            f"cannot listen on {path}: {err.strerror}", "see --socket and --runtime-dir"
        ) from err
    except BrokerUnavailable:
        sock.close()
        raise
    return sock
