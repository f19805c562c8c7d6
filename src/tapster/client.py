# SPDX-License-Identifier: LGPL-2.1-or-later
"""Asking the broker, from a program that has no event loop.

A caller wants a tap in one function call, from a thread or a short-lived
command, without the daemon's dependencies: so this speaks Varlink (JSON and NUL
over a unix socket, descriptors by SCM_RIGHTS) with the standard library only.

Three rooms: finding a broker, starting the user's own if need be; `Connection`,
which turns bytes into replies and owns descriptors until it returns them; and
the calls themselves, with `Nic` as the owner of a tap's descriptor.
"""

from __future__ import annotations

import errno
import json
import os
import socket as sockets
import stat
import time

from tapster import errors
from tapster.errors import (
    BrokerFailure,
    BrokerUnavailable,
    InvalidRequest,
    ProtocolError,
    RequestError,
    TapsterError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Any, Self

INTERFACE = "io.tapster.Broker"
SYSTEM_SOCKET = "/run/tapster/io.tapster.Broker"
REPLY_LIMIT = 1 << 20  # bytes of one reply
FDS_LIMIT = 16  # of one reply; there is room to see, and close, unexpected ones
TIMEOUT = 30.0  # seconds: the first attach to a network may have to start it
START_TIMEOUT = 10.0  # seconds until a broker that we started must be ready

# connect() says one of these where no broker is, or none that we may talk to.
_UNREACHABLE = (errno.ENOENT, errno.ENOTDIR, errno.ECONNREFUSED, errno.EACCES)

# The fields of a Nic on the wire: type, and whether it may be null or missing.
_NIC_FIELDS: dict[str, tuple[type, bool]] = {
    "ifname": (str, False),
    "mac": (str, True),
    "ipv4": (str, True),
    "ipv6": (str, True),
    "mtu": (int, False),
    "bridge": (str, False),
    "network": (str, True),
    "uid": (int, False),
    "user": (str, False),
    "pid": (int, False),
    "name": (str, False),
    "state": (str, False),
    "reason": (str, True),
    "rx_bytes": (int, False),
    "tx_bytes": (int, False),
    "rx_packets": (int, False),
    "tx_packets": (int, False),
}


class _Gone(BrokerUnavailable):
    """The broker hung up before the first byte of a reply."""


# Finding a broker ----------------------------------------------------------


def runtime_directory() -> str:
    """Where the rootless broker's directory `tapster` is; it may not exist yet.

    `$XDG_RUNTIME_DIR`, or `/run/user/UID`, or `/tmp/tapster-UID`.

    :raise BrokerUnavailable: the last, in a place where all users may write, is
        there and is somebody else's or open to others.
    """
    path = os.environ.get("XDG_RUNTIME_DIR", "")
    if path.startswith("/"):
        return path
    uid = os.geteuid()
    path = f"/run/user/{uid}"
    try:
        status = os.lstat(path)
        if stat.S_ISDIR(status.st_mode) and status.st_uid == uid:
            return path
    except OSError:
        pass
    path = f"/tmp/tapster-{uid}"  # noqa: S108
    _is_private(path, 0o077)
    return path


def _is_private(path: str, forbidden: int) -> bool:
    """Whether the directory exists; if so it is ours and lacks these mode bits.

    :raise BrokerUnavailable: it is not.
    """
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise BrokerUnavailable(f"{path}: {error.strerror}") from None
    if (
        stat.S_ISDIR(status.st_mode)
        and status.st_uid == os.geteuid()
        and not status.st_mode & forbidden
    ):
        return True
    raise BrokerUnavailable(
        f"{path} is not a private directory of this user",
        "remove it, or set XDG_RUNTIME_DIR",
    )


def connect(
    socket: str | None = None,
    *,
    rootless: bool = False,
    start: bool = True,
    timeout: float = TIMEOUT,
) -> Connection:
    """Connect to the broker that answers first.

    In order: `socket`; `$TAPSTER_SOCKET`, and neither of these falls back; the
    system's, unless `rootless`; the user's own, which is started if it may.

    :param start: whether a rootless broker is started where none answers.
    :param timeout: seconds for this, and then for each call.
    :raise BrokerUnavailable: none answers, or none could be started.
    """
    deadline = time.monotonic() + timeout
    chosen = socket or os.environ.get("TAPSTER_SOCKET")
    if chosen:
        try:
            return Connection(_open(chosen, deadline), timeout)
        except OSError as error:
            reason = error.strerror or error
            hint = None if socket else "see TAPSTER_SOCKET"
            raise BrokerUnavailable(f"no broker at {chosen}: {reason}", hint) from None
    if not rootless:
        sock = _try_open(SYSTEM_SOCKET, deadline)
        if sock:
            return Connection(sock, timeout)
    directory = os.path.join(runtime_directory(), "tapster")
    path = os.path.join(directory, INTERFACE)
    sock = _try_open(path, deadline) if _is_private(directory, 0o022) else None
    if sock is None:
        if not start:
            raise BrokerUnavailable("no broker is running")
        sock = _start(path, min(deadline, time.monotonic() + START_TIMEOUT))
    return Connection(sock, timeout, rootless=True)


def _open(path: str, deadline: float) -> sockets.socket:
    """Connect, waiting only where the broker's backlog is full.

    :raise OSError: what connect() said.
    """
    sock = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
    try:
        while True:
            sock.settimeout(_left(deadline))
            try:
                sock.connect(path)
                return sock
            except BlockingIOError:
                time.sleep(0.005)
    except BaseException:
        sock.close()
        raise


def _try_open(path: str, deadline: float) -> sockets.socket | None:
    """As `_open()`, but None where the next place is to be tried."""
    try:
        return _open(path, deadline)
    except OSError as error:
        if error.errno in _UNREACHABLE:
            return None
        reason = error.strerror or error  # no errno: the path is too long
        raise BrokerUnavailable(f"no broker at {path}: {reason}") from None


def _left(deadline: float) -> float:
    """Seconds left.

    :raise BrokerUnavailable: none is.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise BrokerUnavailable("the broker did not answer in time")
    return left


# Starting the user's own ---------------------------------------------------

# Runs between us and the daemon, so that the daemon is never our child: we may
# be about to become a VMM, which must not inherit a child it knows nothing of.
# It is a program, not a fork of ours, as we may have threads. Its descriptor 0
# leads to us: it ends when we close that, or tells how the daemon ended.
_STAGE = """
import os, select, signal, sys
os.closerange(3, os.sysconf("SC_OPEN_MAX"))
pid = os.fork()
if not pid:
    try:
        os.setsid()
        os.chdir("/")
        os.dup2(1, 0)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        os.execvp(sys.argv[1], sys.argv[1:])
    except BaseException as error:
        os.write(2, f"tapsterd: cannot be started: {error}\\n".encode())
    os._exit(127)
ended = os.pidfd_open(pid)
poll = select.poll()
poll.register(ended, select.POLLIN)
poll.register(0, select.POLLIN)
if any(fd == ended for fd, _ in poll.poll()):
    os.write(0, b"failed" if os.waitpid(pid, 0)[1] else b"ended")
"""

# Appended, not prepended: nothing of ours may hide a module of Python's own.
_DAEMON = """
import sys
sys.path.append(sys.argv.pop(1))
sys.argv[0] = "tapsterd"
from tapster.daemon.main import main
sys.exit(main())
"""

# What a service manager told our ancestors is not meant for the broker.
_NOT_INHERITED = ("LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID", "WATCHDOG_USEC")


def _daemon_command() -> list[str]:
    """How to run this very installation's `tapsterd`, or else the one in PATH.

    Without -I, as the broker is started with the user's own rights, and its
    libraries may be where only PYTHONPATH or the user's site leads.
    """
    import sys

    package = os.path.dirname(os.path.abspath(__file__))
    if sys.executable and os.path.isdir(os.path.join(package, "daemon")):
        parent = os.path.dirname(package)
        return [sys.executable, "-P", "-c", _DAEMON, parent, "--rootless"]
    return ["tapsterd", "--rootless"]


def _start(path: str, deadline: float) -> sockets.socket:
    """Start a rootless broker, wait until it serves, and connect to `path`.

    :raise BrokerUnavailable: with the broker's own words, or it took too long.
    """
    directory = os.path.dirname(path)
    log_path = os.path.join(directory, "broker.log")
    hint = f"see {log_path}"
    try:
        for needed, forbidden in (os.path.dirname(directory), 0), (directory, 0o022):
            if not _is_private(needed, forbidden):
                try:
                    os.mkdir(needed, 0o700)
                except FileExistsError:
                    _is_private(needed, forbidden)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        log = os.open(log_path, flags, 0o600)
    except OSError as error:
        reason = f"cannot start a broker in {directory}: {error.strerror}"
        raise BrokerUnavailable(reason, "see XDG_RUNTIME_DIR") from None
    try:
        while time.monotonic() < deadline:
            old = os.fstat(log).st_size
            outcome = _spawn(directory, log, deadline)
            if outcome == b"failed":
                words = os.pread(log, REPLY_LIMIT, old).decode(errors="replace")
                last = (words.strip() or "it said nothing").splitlines()[-1]
                reason = last.removeprefix("tapsterd: ")
                raise BrokerUnavailable(f"cannot start a broker: {reason}", hint)
            if not outcome:
                break
            # "ended": another one holds the lock. It is about to serve, or to
            # exit, in which case ours is needed after all.
            patience = min(deadline, time.monotonic() + 0.3)
            while time.monotonic() < patience:
                sock = _try_open(path, deadline)
                if sock:
                    return sock
                time.sleep(0.02)
    finally:
        os.close(log)
    raise BrokerUnavailable("the broker did not start in time", hint)


def _spawn(directory: str, log: int, deadline: float) -> bytes:
    """Start a daemon; wait until it is b"ready", has b"ended", or has b"failed".

    Returns b"" when the time is over. The daemon lives on in any case, and
    nothing of it, neither child nor descriptor, stays with us.
    """
    import select
    import signal
    import sys

    # Not an abstract name: that would be lost in the broker's network namespace.
    name = os.path.join(directory, f"ready-{os.urandom(4).hex()}")
    environment = {k: v for k, v in os.environ.items() if k not in _NOT_INHERITED}
    environment["XDG_RUNTIME_DIR"] = os.path.dirname(directory)
    environment["NOTIFY_SOCKET"] = name
    python = sys.executable or "python3"
    command = [python, "-I", "-S", "-c", _STAGE, *_daemon_command()]
    ours, theirs = sockets.socketpair()
    notify = sockets.socket(sockets.AF_UNIX, sockets.SOCK_DGRAM)
    poll = select.poll()
    poll.register(ours, select.POLLIN)
    poll.register(notify, select.POLLIN)
    stage = 0
    try:
        notify.bind(name)
        stage = os.posix_spawnp(
            python,
            command,
            environment,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, theirs.fileno(), 0),
                (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_RDWR, 0),
                (os.POSIX_SPAWN_DUP2, log, 2),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGCHLD,),
        )
        theirs.close()
        while (left := deadline - time.monotonic()) > 0:
            told = [fd for fd, _ in poll.poll(left * 1000)]
            if notify.fileno() in told and b"READY=1" in notify.recv(4096).split():
                return b"ready"
            if ours.fileno() in told:
                return ours.recv(16) or b"failed"
        return b""
    except OSError as error:
        raise BrokerUnavailable(f"cannot start a broker: {error.strerror}") from None
    finally:
        for sock in ours, theirs, notify:
            sock.close()
        try:
            os.unlink(name)
        except FileNotFoundError:
            pass
        try:
            if stage:
                os.waitpid(stage, 0)
        except ChildProcessError:
            pass  # the program we are in lets the kernel reap its children


# Talking to it -------------------------------------------------------------


class Connection:
    """One connection to a broker, which carries one call at a time.

    A context manager. Any failure but the broker's own "no" closes it, as
    nobody knows what the next byte on it would mean.

    :param sock: a connected unix stream socket, owned by this object from now.
    :param timeout: seconds, for each call as a whole.
    :param rootless: whether the broker is the user's own.
    """

    def __init__(
        self, sock: sockets.socket, timeout: float = TIMEOUT, *, rootless: bool = False
    ) -> None:
        self.timeout = timeout
        self.rootless = rootless
        self._sock = sock
        self._buffer = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def fileno(self) -> int:
        """The socket's descriptor, to wait on; it stays this object's."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close the connection. Any number of times."""
        self._sock.close()

    def call(
        self, method: str, parameters: dict[str, Any], fds: bool = False
    ) -> tuple[dict[str, Any], list[int]]:
        """Call a method of the broker's interface and wait for its reply.

        :param method: the bare name, or that of another interface with dots.
        :param fds: whether descriptors are expected. If so the caller closes
            them; otherwise, and on any error, none is left open.
        :raise RequestError: the broker said no.
        :raise BrokerUnavailable: it hung up, or the time was over.
        :raise ProtocolError: its reply makes no sense.
        """
        received: list[int] = []
        try:
            deadline = time.monotonic() + self.timeout
            self._send(method, parameters, deadline, more=False)
            reply, more = parse_reply(self._receive(deadline, received))
            if more:
                raise ProtocolError("the broker announced more replies than one")
            if fds:
                result, received = received, []
                return reply, result
            return reply, []
        except RequestError:
            raise
        except BaseException:
            self.close()
            raise
        finally:
            _close_all(received)

    def stream(
        self, method: str, parameters: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        """Call a method that replies many times; yield reply after reply.

        Waits for each without any limit. The connection is of no further use
        when the caller leaves before the last reply. Raises as `call()`.
        """
        try:
            more = True
            self._send(method, parameters, time.monotonic() + self.timeout, more)
            while more:
                received: list[int] = []
                try:
                    message = self._receive(None, received)
                finally:
                    _close_all(received)
                reply, more = parse_reply(message)
                yield reply
        except RequestError:
            raise
        except BaseException:
            self.close()
            raise

    def _send(
        self, method: str, parameters: dict[str, Any], deadline: float, more: bool
    ) -> None:
        if self._buffer:
            raise ProtocolError("the broker sent a reply that nobody asked for")
        name = method if "." in method else f"{INTERFACE}.{method}"
        call: dict[str, Any] = {"method": name, "parameters": parameters}
        if more:
            call["more"] = True
        try:
            self._sock.settimeout(_left(deadline))
            self._sock.sendall(json.dumps(call).encode() + b"\0", sockets.MSG_NOSIGNAL)
        except OSError as error:
            raise self._failed(error) from None

    def _receive(self, deadline: float | None, fds: list[int]) -> bytes:
        """One message without its NUL; its descriptors are appended to `fds`."""
        searched = 0
        while (end := self._buffer.find(0, searched)) < 0:
            searched = len(self._buffer)
            if searched > REPLY_LIMIT:
                raise ProtocolError(f"the broker's reply exceeds {REPLY_LIMIT} bytes")
            try:
                self._sock.settimeout(None if deadline is None else _left(deadline))
                data, ancillary, flags, _ = self._sock.recvmsg(
                    1 << 16, sockets.CMSG_SPACE(4 * FDS_LIMIT), sockets.MSG_CMSG_CLOEXEC
                )
            except OSError as error:
                raise self._failed(error) from None
            for level, kind, octets in ancillary:
                if (level, kind) == (sockets.SOL_SOCKET, sockets.SCM_RIGHTS):
                    whole = len(octets) - len(octets) % 4
                    fds += memoryview(octets[:whole]).cast("i")
            if flags & sockets.MSG_CTRUNC or len(fds) > FDS_LIMIT:
                raise ProtocolError("the broker sent too many file descriptors")
            if not data and not self._buffer:
                raise _Gone("the broker hung up without an answer")
            if not data:
                raise ProtocolError("the broker hung up in the middle of its answer")
            self._buffer += data
        message = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return message

    def _failed(self, error: OSError) -> BrokerUnavailable:
        if isinstance(error, TimeoutError):
            return BrokerUnavailable(f"no answer of the broker in {self.timeout:g} s")
        text = f"the connection to the broker failed: {error.strerror or error}"
        if isinstance(error, ConnectionResetError | BrokenPipeError):
            return BrokerUnavailable(text) if self._buffer else _Gone(text)
        return BrokerUnavailable(text)


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def parse_reply(message: bytes) -> tuple[dict[str, Any], bool]:
    """The parameters of a reply, and whether others follow it.

    :raise RequestError: it is an error of the broker's interface.
    :raise ProtocolError: it is none that a broker sends.
    """
    try:
        reply = json.loads(message.decode())
    except (ValueError, RecursionError):
        raise ProtocolError("the broker's answer is not JSON") from None
    if not isinstance(reply, dict):
        raise ProtocolError("the broker's answer is not an object")
    parameters = reply.get("parameters")
    if parameters is None:
        parameters = {}
    error = reply.get("error")
    more = reply.get("continues") or False
    if not isinstance(parameters, dict) or not isinstance(more, bool):
        raise ProtocolError("the broker's answer is not a Varlink reply")
    if error is None:
        return parameters, more
    if not isinstance(error, str):
        raise ProtocolError("the broker's answer is not a Varlink reply")
    raise _wire_error(error, parameters)


def _wire_error(name: str, parameters: dict[str, Any]) -> TapsterError:
    """The exception that an error on the wire stands for."""
    interface, _, word = name.rpartition(".")
    if name == "org.varlink.service.InvalidParameter":
        which = parameters.get("parameter")
        return InvalidRequest(f"the broker did not accept the parameter {which!r}")
    if interface != INTERFACE:
        return ProtocolError(
            f"the broker answered {name}", "are broker and client of one version?"
        )
    message, hint = parameters.get("message"), parameters.get("hint")
    if not isinstance(message, str) or not message:
        message = f"the broker answered {word}"
    kind = getattr(errors, word, None)
    if not (isinstance(kind, type) and issubclass(kind, RequestError)):
        kind = BrokerFailure
    return kind(message, hint if isinstance(hint, str) else None)


# The calls -----------------------------------------------------------------


class Nic:
    """A network interface card of a guest: its tap, and who owns the descriptor.

    This object does: closing it, or leaving its `with` block, or losing it,
    takes the guest off the network, and the broker removes the device. `take()`
    passes the descriptor on to somebody else.

    Attributes: `fd` (int, close-on-exec), `ifname` of the tap, `mac` of the
    guest ("52:54:..."; None while it is not known), `ipv4` and `ipv6` (str
    without prefix length, or None), `mtu` (bytes), `bridge`, `network` (None
    for a plain Linux bridge) and `name` of the guest.
    """

    __slots__ = (
        "_fd",
        "bridge",
        "ifname",
        "ipv4",
        "ipv6",
        "mac",
        "mtu",
        "name",
        "network",
    )

    def __init__(self, fd: int, fields: dict[str, Any]) -> None:
        self._fd = fd
        self.ifname: str = fields["ifname"]
        self.mac: str | None = fields["mac"]
        self.ipv4: str | None = fields["ipv4"]
        self.ipv6: str | None = fields["ipv6"]
        self.mtu: int = fields["mtu"]
        self.bridge: str = fields["bridge"]
        self.network: str | None = fields["network"]
        self.name: str = fields["name"]

    @property
    def fd(self) -> int:
        """The tap's descriptor, still owned by this object.

        :raise ValueError: it was closed or taken.
        """
        if self._fd < 0:
            raise ValueError(f"the descriptor of {self.ifname} was closed or taken")
        return self._fd

    def fileno(self) -> int:
        """The same as `fd`, for select() and its like."""
        return self.fd

    def take(self) -> int:
        """The tap's descriptor, which the caller closes from now on.

        :raise ValueError: it was closed or taken.
        """
        fd = self.fd
        self._fd = -1
        return fd

    def close(self) -> None:
        """Close the tap, unless it was closed or taken. Any number of times."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            import warnings

            warnings.warn(f"unclosed {self!r}", ResourceWarning, 2, source=self)
            self.close()

    def __repr__(self) -> str:
        return f"<Nic {self.ifname} mac={self.mac} ipv4={self.ipv4} fd={self._fd}>"


def attach(
    network: str | None = None,
    bridge: str | None = None,
    name: str | None = None,
    mac: str | None = None,
    vnet_hdr: bool = True,
    socket: str | None = None,
    *,
    rootless: bool = False,
    timeout: float = TIMEOUT,
) -> Nic:
    """Attach a guest to a network: a tap, wired, locked and up.

    :param network: one of the broker's networks; its default one if None.
    :param bridge: a Linux bridge instead, 1 to 15 bytes.
    :param name: of the guest: the same name gets the same MAC and address again.
    :param mac: of the guest, "52:54:00:12:34:56"; the broker's choice if None.
    :param vnet_hdr: whether frames carry a virtio-net header (IFF_VNET_HDR).
    :param socket: path of the broker's socket; `connect()` looks for it if None.
    :param rootless: pass over the system's broker.
    :param timeout: seconds to find the broker, and again for its answer.
    :return: the owner of the tap's descriptor, which the caller closes.
    :raise InvalidRequest: a parameter cannot be right.
    :raise RequestError: the broker said no, and why.
    :raise BrokerUnavailable: no broker answers, and none could be started.
    :raise ProtocolError: the broker's answer makes no sense.
    """
    parameters = _check_request(network, bridge, name, mac)
    parameters["vnet_hdr"] = bool(vnet_hdr)
    reply, fds = _with_broker(
        lambda broker: broker.call("Attach", parameters, fds=True),
        {"socket": socket, "rootless": rootless, "timeout": timeout, "start": True},
    )
    try:
        index = reply.get("fd")
        if len(fds) != 1 or type(index) is not int or index != 0:
            count = f"{len(fds)} file descriptors instead of a tap's"
            raise ProtocolError(f"the broker sent {count}")
        nic = Nic(fds[0], _check_nic(reply.get("nic")))
    except BaseException:
        _close_all(fds)
        raise
    return nic


def detach(ifname: str, **where: Any) -> None:
    """Remove a NIC of the caller's, whoever holds its descriptor.

    :param ifname: the tap's.
    :param where: as `connect()`, but no broker is started unless asked for.
    :raise NoSuchNic: there is none, or it is not the caller's.
    """
    _with_broker(lambda broker: broker.call("Detach", {"ifname": ifname}), where)


def list_nics(**where: Any) -> list[dict[str, Any]]:
    """The NICs that the caller may see, with the fields of the wire's Nic.

    :param where: as `connect()`, but no broker is started unless asked for.
    """
    reply, _ = _with_broker(lambda broker: broker.call("List", {}), where)
    nics = reply.get("nics")
    if not isinstance(nics, list):
        raise ProtocolError("the broker's answer has no list of NICs")
    return [_check_nic(nic) for nic in nics]


def get_info(**where: Any) -> dict[str, Any]:
    """What the broker says about itself; parameters as `list_nics()`."""
    return _with_broker(lambda broker: broker.call("GetInfo", {}), where)[0]


def watch(**where: Any) -> Iterator[dict[str, Any]]:
    """Yield the broker's events, as they happen; parameters as `list_nics()`.

    Closing the generator closes the connection.
    """
    with connect(**{"start": False, **where}) as broker:
        for reply in broker.stream("Watch", {}):
            event = reply.get("event")
            if not isinstance(event, dict):
                raise ProtocolError("the broker's answer has no event")
            yield event


def _with_broker(
    call: Callable[[Connection], tuple[dict[str, Any], list[int]]],
    where: dict[str, Any],
) -> tuple[dict[str, Any], list[int]]:
    """Connect and call, twice if a rootless broker was about to exit.

    That is safe: a tap that could not be sent vanished with its descriptor.
    """
    where = {"start": False, **where}
    with connect(**where) as broker:
        try:
            return call(broker)
        except _Gone:
            if not broker.rootless:
                raise
    with connect(**where) as broker:
        return call(broker)


def _check_request(
    network: str | None, bridge: str | None, name: str | None, mac: str | None
) -> dict[str, Any]:
    """The parameters that were given, as they are sent.

    The broker checks all of it again, and more; this is for a quick answer.
    """
    given = {"network": network, "bridge": bridge, "name": name, "mac": mac}
    parameters: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    for key, value in parameters.items():
        if not isinstance(value, str):
            raise InvalidRequest(f"{key} must be a str, not {type(value).__name__}")
        # This also refuses lone surrogates, which UTF-8 cannot carry.
        if not value or not value.isprintable():
            raise InvalidRequest(f"{key} {value!r} is empty or not printable")
    if network is not None and bridge is not None:
        raise InvalidRequest("network and bridge exclude each other", "leave one out")
    if bridge is not None:
        if len(bridge.encode()) > 15:
            hint = "names of bridges have 1 to 15 bytes"
            raise InvalidRequest(f"there is no bridge named {bridge!r}", hint)
        if bridge in (".", "..") or any(c in "/:" or c.isspace() for c in bridge):
            raise InvalidRequest(f"{bridge!r} cannot be the name of a bridge")
    if mac is not None:
        octets = mac.split(":")
        digits = set("0123456789abcdefABCDEF")
        if len(octets) != 6 or any(len(o) != 2 or set(o) - digits for o in octets):
            hint = 'write it as "52:54:00:12:34:56"'
            raise InvalidRequest(f"{mac!r} is not a MAC address", hint)
        if int(octets[0], 16) & 1 or not any(int(octet, 16) for octet in octets):
            raise InvalidRequest(f"{mac} is not the MAC address of a single guest")
        parameters["mac"] = mac.lower()
    return parameters


def _check_nic(nic: object) -> dict[str, Any]:
    """A Nic of the wire with each field there is, and others untouched.

    :raise ProtocolError: a field is missing or of the wrong type.
    """
    if not isinstance(nic, dict):
        raise ProtocolError("the broker's answer has no NIC")
    checked: dict[str, Any] = dict(nic)
    for field, (kind, nullable) in _NIC_FIELDS.items():
        value = checked.setdefault(field, None)
        if not (value is None and nullable) and type(value) is not kind:
            raise ProtocolError(f"the NIC in the broker's answer has no good {field}")
    return checked
