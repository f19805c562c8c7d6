#!/bin/sh
""":"
# SPDX-License-Identifier: LGPL-2.1-or-later
self=$0
if [ -L "$self" ]; then self=$(readlink -f "$self"); fi
for python in "${self%/*}/python3" /usr/bin/python3 "$(command -v python3)"; do
  if [ -x "$python" ]; then exec "$python" -I -S -B -X utf8 "$self" "$@"; fi
done
echo "tapster-bridge-helper: there is no python3 (install Python 3.11 or later)" >&2
exit 1

The program that QEMU executes to get a tap: QEMU can ask for one in no other way.

`-netdev bridge` and `-netdev tap,helper=` start a program, wait for it without
any limit, and take the file descriptor that it sends. This program has no privilege:
it asks the broker and passes on the answer. QEMU stands still for as long, and so
does libvirtd with all its guests. So the program ends in a few milliseconds if all
goes well, and within five seconds whatever happens.

It is one self-contained file, run by an interpreter without `site`. Unless something
goes wrong it imports only modules written in C: `socket` and `json` alone would
double its time. The lines above this text are for the shell; to Python they are the
beginning of this string.
"""

from __future__ import annotations

import _socket
import posix
import sys
from _json import encode_basestring_ascii, make_scanner
from errno import ENOTCONN
from time import monotonic, sleep

VERSION = "0.1.0"  # tests keep this equal to tapster.version
USAGE = "Usage: tapster-bridge-helper [--use-vnet] --br=BRIDGE --fd=SOCKET"
HELP = f"""{USAGE}

Asks the tapster broker for a tap on BRIDGE, which is a Linux bridge or one of
the broker's networks, and sends it over SOCKET, an inherited unix stream socket.
QEMU calls this: -netdev bridge,br=BRIDGE,helper=/path/to/tapster-bridge-helper

  --use-vnet  the tap has virtio-net headers (IFF_VNET_HDR)
  --version   print the version and exit

The broker is at $TAPSTER_SOCKET, or else the system's, or else the user's own,
which is started if need be.
"""

TIME_LIMIT = 4.5  # seconds; with the interpreter's start, well within five
REPLY_LIMIT = 1 << 16
SYSTEM_SOCKET = b"/run/tapster/io.tapster.Broker"
SOCKET_NAME = b"io.tapster.Broker"
# What connect(2) fails with if no broker is there, or none that we may talk to.
UNREACHABLE = (
    FileNotFoundError,
    NotADirectoryError,
    ConnectionRefusedError,
    PermissionError,
)
# What a service manager told one of our ancestors. The broker must not obey it.
NOT_INHERITED = (
    b"LISTEN_FDNAMES",
    b"LISTEN_FDS",
    b"LISTEN_PID",
    b"NOTIFY_SOCKET",
    b"WATCHDOG_PID",
    b"WATCHDOG_USEC",
)


class Failure(Exception):
    """Why the program fails; its text is the one line on stderr."""

    def __init__(self, cause: str, remedy: object = None) -> None:
        super().__init__(cause)
        self.remedy = remedy

    def __str__(self) -> str:
        line = " ".join(self.args[0].split()) + (
            f" ({' '.join(str(self.remedy).split())})" if self.remedy else ""
        )
        return "".join(c if c.isprintable() else "?" for c in line)


class Usage(Exception):
    """The arguments are not those that QEMU passes."""


class Gone(Exception):
    """The broker closed the connection without a reply: it may have been exiting."""


def parse_arguments(arguments: list[bytes]) -> tuple[bool, bytes, int]:
    """Whether vnet headers are wanted, the bridge's name, the socket's number.

    Options may come in any order and the last one wins, as with QEMU's own helper.
    Two plain words are accepted too, as in the interface first proposed to QEMU.

    :raises Usage: the arguments are anything else.
    """
    vnet = False
    bridge: bytes | None = None
    number: bytes | None = None
    words = []
    for argument in arguments:
        if argument == b"--use-vnet":
            vnet = True
        elif argument.startswith(b"--br="):
            bridge = argument[5:]
        elif argument.startswith(b"--fd="):
            number = argument[5:]
        elif argument.startswith(b"-"):
            raise Usage
        else:
            words.append(argument)
    if len(words) == 2 and bridge is None and number is None:
        bridge, number = words
    elif words:
        raise Usage
    if bridge is None or number is None or not number.isdigit() or len(number) > 9:
        raise Usage
    return vnet, bridge, int(number)


def check_bridge(name: bytes) -> str:
    """The name of a bridge as text.

    The broker checks it again; a check here can say better what is wrong.

    :raises Failure: no bridge can have this name.
    """
    try:
        text = name.decode()
    except UnicodeDecodeError:
        raise Failure(f"the bridge name {name!r} is not UTF-8") from None
    if not 1 <= len(name) <= 15:
        remedy = "names of bridges have 1 to 15 bytes"
        raise Failure(f"there is no bridge named '{text}'", remedy)
    # Linux takes the byte 0xa0 for white space, too: see tapster.syntax.
    if name in (b".", b"..") or any(c in b"/:\0 \t\n\v\f\r\xa0" for c in name):
        raise Failure(f"'{text}' cannot be the name of a bridge")
    return text


def parse_reply(message: bytes) -> None:
    """Return if the broker granted the tap as descriptor 0 of this message.

    :raises Failure: it did not, or what it said makes no sense.
    """

    # This is json.loads() without json's Python modules: its scanner reads the
    # settings of a decoder from any object that has them.
    class Decoder:
        strict = True
        object_hook = object_pairs_hook = array_hook = None
        parse_float = float
        parse_int = int
        parse_constant = float

    nonsense = Failure("the broker's answer makes no sense", "is it a tapster broker?")
    try:
        text = message.decode().strip(" \t\r\n")
        reply, end = make_scanner(Decoder())(text, 0)  # type: ignore[arg-type]
    except (ValueError, StopIteration, RecursionError):
        raise nonsense from None
    if end != len(text) or not isinstance(reply, dict):
        raise nonsense
    parameters = reply.get("parameters")
    if parameters is None:
        parameters = {}
    error = reply.get("error")
    if not isinstance(parameters, dict) or not isinstance(error, str | None):
        raise nonsense
    if error is None:
        index = parameters.get("fd")
        if type(index) is not int or index != 0 or reply.get("continues"):
            raise nonsense
        return
    kind = error.rpartition(".")[2]
    if kind == "InvalidParameter":
        name = parameters.get("parameter")
        raise Failure(f"the broker did not accept the parameter '{name}'")
    cause = parameters.get("message")
    if not isinstance(cause, str) or not cause.strip():
        cause = f"the broker answered {error}"
    raise Failure(cause, parameters.get("hint"))


def too_late() -> Failure:
    return Failure("the broker did not answer in time", "see the broker's log")


def remaining(deadline: float) -> float:
    """Seconds until the deadline.

    :raises Failure: it has passed.
    """
    left = deadline - monotonic()
    if left <= 0:
        raise too_late()
    return left


def connect(path: bytes, deadline: float) -> _socket.socket:
    """Connect to a socket; if the broker's backlog is full, wait for a place in it.

    :raises OSError: connect(2) failed.
    :raises Failure: the deadline has passed.
    """
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        sock.settimeout(remaining(deadline))
        try:
            sock.connect(path)
        except BlockingIOError:
            connect_in_line(sock, path, deadline)
        return sock
    except BaseException:
        sock.close()
        raise


def connect_in_line(sock: _socket.socket, path: bytes, deadline: float) -> None:
    """Connect to a socket whose backlog is full; see `tapster.client.connection`."""
    sock.settimeout(None)
    while True:
        left = remaining(deadline)
        size = 8 if sys.maxsize > 1 << 32 else 4
        limit = (int(left), int(left % 1 * 1e6) or 1)
        words = [number.to_bytes(size, sys.byteorder) for number in limit]
        sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, b"".join(words))
        try:
            sock.connect(path)
            sock.getpeername()
            return
        except BlockingIOError:
            continue
        except OSError as error:
            if error.errno != ENOTCONN:
                raise


def find_broker(deadline: float) -> tuple[_socket.socket, bool]:
    """A connection to the user's broker, and whether that is the rootless one."""
    override = posix.environ.get(b"TAPSTER_SOCKET")
    for path in [override] if override else [SYSTEM_SOCKET]:
        try:
            return connect(path, deadline), False
        except OSError as error:
            if not override and isinstance(error, UNREACHABLE):
                continue
            # The errno of an over-long path is None.
            cause = error.strerror or error
            where = path.decode(errors="replace")
            remedy = "see TAPSTER_SOCKET" if override else "see the log of tapsterd"
            raise Failure(f"no broker at {where}: {cause}", remedy) from None
    runtime = runtime_directory()
    directory = runtime + b"/tapster"
    path = directory + b"/" + SOCKET_NAME
    try:
        if private_directory(directory, 0o022):
            return connect(path, deadline), True
    except UNREACHABLE:
        pass
    except OSError as error:
        where = path.decode(errors="replace")
        raise Failure(f"no broker at {where}: {error.strerror or error}") from None
    return start_broker(runtime, path, deadline), True


def private_directory(path: bytes, forbidden: int) -> bool:
    """Whether the directory exists. One that does is this user's own.

    :raises Failure: it belongs to somebody else, or its mode has `forbidden` bits.
    """
    try:
        status = posix.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    good = status.st_mode & 0o170000 == 0o040000 and not status.st_mode & forbidden
    if good and status.st_uid == posix.geteuid():
        return True
    where = path.decode(errors="replace")
    remedy = "remove it, or set XDG_RUNTIME_DIR"
    raise Failure(f"{where} is not a private directory of this user", remedy)


def runtime_directory() -> bytes:
    """The directory of the user's own broker, the one of `tapster.paths`."""
    path = posix.environ.get(b"XDG_RUNTIME_DIR", b"")
    if path.startswith(b"/"):
        return path
    user = posix.geteuid()
    try:
        if private_directory(b"/run/user/%d" % user, 0):
            return b"/run/user/%d" % user
    except (Failure, OSError):
        pass
    path = b"/tmp/tapster-%d" % user
    private_directory(path, 0o077)
    return path


def start_broker(runtime: bytes, path: bytes, deadline: float) -> _socket.socket:
    """Start the rootless broker and connect to it as soon as it listens.

    The broker is our child only until we exit, so QEMU never has to wait for it.

    :param runtime: the directory that is its XDG_RUNTIME_DIR.
    :param path: of the socket at which it will listen.
    :param deadline: of `monotonic()`.
    :raises Failure: it did not start.
    """
    program = find_daemon()
    directory = runtime + b"/tapster"
    log_path = directory + b"/broker.log"
    flags = posix.O_RDWR | posix.O_CREAT | posix.O_APPEND
    try:
        for needed, forbidden in (runtime, 0), (directory, 0o022):
            if not private_directory(needed, forbidden):
                try:
                    posix.mkdir(needed, 0o700)
                except FileExistsError:
                    private_directory(needed, forbidden)
        log = posix.open(log_path, flags | posix.O_NOFOLLOW | posix.O_CLOEXEC, 0o600)
    except OSError as error:
        where = directory.decode(errors="replace")
        cause = f"cannot start a broker in {where}: {error.strerror}"
        raise Failure(cause, "see XDG_RUNTIME_DIR") from None
    remedy = f"see {log_path.decode(errors='replace')}"
    child = 0
    patience = 0.0
    try:
        while (now := monotonic()) < deadline:
            if not child and now > patience:
                start = posix.fstat(log).st_size
                child = spawn(program, runtime, log)
            try:
                return connect(path, deadline)
            except UNREACHABLE:
                sleep(0.01)
            ended, status = posix.waitpid(child, posix.WNOHANG) if child else (0, 0)
            if ended and status:
                words = posix.pread(log, REPLY_LIMIT, start).decode(errors="replace")
                last = (words.strip() or "it said nothing").splitlines()[-1]
                cause = "cannot start a broker: " + last.removeprefix("tapsterd: ")
                raise Failure(cause, remedy)
            if ended:
                # Another broker holds the lock. It is about to serve, or it is
                # about to exit; then ours is started again.
                child, patience = 0, now + 0.3
        raise Failure("the broker did not start in time", remedy)
    finally:
        posix.close(log)


def find_daemon() -> bytes:
    """The path of `tapsterd`: beside this file, or else where PATH says."""
    here = __file__.encode(sys.getfilesystemencoding(), "surrogateescape")
    if not here.startswith(b"/"):
        here = posix.getcwdb() + b"/" + here
    path = posix.environ.get(b"PATH", b"/usr/local/bin:/usr/bin:/bin")
    for directory in [here.rpartition(b"/")[0], *path.split(b":")]:
        program = directory + b"/tapsterd"
        if program.startswith(b"/") and posix.access(program, posix.X_OK):
            return program
    remedy = "ask the administrator to start tapsterd, or put it in PATH"
    raise Failure("no broker is running and tapsterd is not found", remedy)


def spawn(program: bytes, runtime: bytes, log: int) -> int:
    """Fork a daemon that inherits nothing from QEMU.

    :param program: path of the daemon.
    :param runtime: the directory that is its XDG_RUNTIME_DIR.
    :param log: descriptor that its stderr is written to.
    :returns: its pid.
    """
    import signal

    # If SIGCHLD were ignored, we could not tell how the child ended.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    environment = {k: v for k, v in posix.environ.items() if k not in NOT_INHERITED}
    environment[b"XDG_RUNTIME_DIR"] = runtime
    pid = posix.fork()
    if pid:
        return pid
    try:
        posix.setsid()
        posix.chdir("/")
        null = posix.open("/dev/null", posix.O_RDWR)
        for source, target in (null, 0), (null, 1), (log, 2):
            posix.dup2(source, target)
        posix.closerange(3, posix.sysconf("SC_OPEN_MAX"))
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        posix.execve(program, [program, b"--rootless"], environment)
    except BaseException as error:  # noqa: BLE001
        posix.write(2, f"tapsterd: cannot be started: {error}\n".encode())
    finally:
        posix._exit(127)


def receive(sock: _socket.socket, answer: bytearray, fds: list[int]) -> None:
    """Append one piece of the answer, and the descriptors that came with it.

    :raises Gone: the broker closed the connection without a word.
    :raises Failure: the broker hung up too early, or says too much.
    """
    data, ancillary, flags, _ = sock.recvmsg(
        REPLY_LIMIT, _socket.CMSG_SPACE(64), _socket.MSG_CMSG_CLOEXEC
    )
    answer += data
    for level, kind, octets in ancillary:
        if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
            words = [octets[i : i + 4] for i in range(0, len(octets) - 3, 4)]
            fds += [int.from_bytes(word, sys.byteorder) for word in words]
    if not data and not answer:
        raise Gone
    if not data:
        raise Failure("the broker hung up in the middle of its answer")
    if flags & _socket.MSG_CTRUNC or len(answer) > REPLY_LIMIT:
        raise Failure("the broker's answer is too long")


def ask(sock: _socket.socket, request: bytes, deadline: float) -> int:
    """Send the request; return the tap, which the caller closes.

    :raises Gone: the broker closed the connection without a word.
    :raises Failure: there is no tap.
    """
    answer = bytearray()
    fds: list[int] = []
    try:
        try:
            sock.settimeout(remaining(deadline))
            sock.sendall(request, _socket.MSG_NOSIGNAL)
            while b"\0" not in answer:
                sock.settimeout(remaining(deadline))
                receive(sock, answer, fds)
        except TimeoutError:
            raise too_late() from None
        except (BrokenPipeError, ConnectionResetError):
            if not answer:
                raise Gone from None
            raise
        message, _, more = bytes(answer).partition(b"\0")
        parse_reply(message)
        if more or len(fds) != 1:
            raise Failure(f"the broker sent {len(fds)} descriptors, or two answers")
        return fds.pop()
    finally:
        for fd in fds:
            posix.close(fd)


def open_requester(number: int) -> _socket.socket:
    """The inherited socket. Others may have the descriptor too: it is not closed.

    :raises Failure: it is not what QEMU passes; nothing was sent.
    """
    try:
        sock = _socket.socket(fileno=number)
    except OSError as error:
        cause = f"--fd={number} is not a socket: {error.strerror}"
        raise Failure(cause, "QEMU starts this program; people do not") from None
    try:
        sock.getpeername()
        good = sock.family == _socket.AF_UNIX and sock.type == _socket.SOCK_STREAM
    except OSError:
        good = False
    if not good:
        sock.detach()
        raise Failure(f"--fd={number} is not a connected unix stream socket")
    return sock


def deliver(requester: _socket.socket, tap: int, deadline: float) -> None:
    """Send a zero byte and the tap, which QEMU waits for.

    Another process may use the socket too, so its O_NONBLOCK is not changed.

    :param requester: the socket that QEMU passed.
    :param tap: the descriptor, which the caller closes.
    :param deadline: of `monotonic()`.
    :raises Failure: QEMU does not take it.
    """
    rights = tap.to_bytes(4, sys.byteorder)
    ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)]
    flags = _socket.MSG_NOSIGNAL | _socket.MSG_DONTWAIT
    while True:
        try:
            requester.sendmsg([b"\0"], ancillary, flags)
            return
        except BlockingIOError:
            if monotonic() > deadline:
                raise Failure(
                    "QEMU does not take the tap: its socket is full"
                ) from None
            sleep(0.01)
        except OSError as error:
            raise Failure(f"QEMU does not take the tap: {error.strerror}") from None


def attach(vnet: bool, bridge: str, number: int, deadline: float) -> None:
    """Ask the broker for a tap and send it to QEMU.

    :param vnet: whether frames carry a virtio-net header.
    :param bridge: name of the bridge.
    :param number: of the descriptor that QEMU passed.
    :param deadline: of `monotonic()`.
    :raises Failure: QEMU got nothing.
    """
    requester = open_requester(number)
    try:
        request = (
            '{"method":"io.tapster.Broker.Attach","parameters":{"bridge":'
            + encode_basestring_ascii(bridge)
            + (',"vnet_hdr":true' if vnet else ',"vnet_hdr":false')
            + ',"for_parent":true}}\0'
        ).encode()
        while True:
            broker, rootless = find_broker(deadline)
            try:
                tap = ask(broker, request, deadline)
                break
            except Gone:
                # An idle rootless broker may have been exiting. If it had made a
                # tap, it could not send it, and the tap is gone: ask again.
                if not rootless:
                    raise Failure("the broker hung up without an answer") from None
                rootless = False
            finally:
                broker.close()
        try:
            deliver(requester, tap, deadline)
        finally:
            posix.close(tap)
    finally:
        requester.detach()


def complain(line: str, deadline: float) -> None:
    """Write a line to stderr, unless nobody reads there and it would block."""
    import select

    poll = select.poll()
    poll.register(2, select.POLLOUT)
    if poll.poll(max(0, deadline - monotonic()) * 1000):
        posix.write(2, line.encode(errors="replace")[:2000].rstrip(b"\n") + b"\n")


def main(arguments: list[bytes], time_limit: float = TIME_LIMIT) -> int:
    """Run the program.

    :param arguments: those of the command line.
    :param time_limit: seconds until it has to end.
    :returns: the exit status: 0 only if the descriptor was sent.
    """
    deadline = monotonic() + time_limit
    for word, text in (b"--help", HELP), (b"--version", f"{VERSION}\n"):
        if arguments == [word]:
            posix.write(1, text.encode())
            return 0  # QEMU adds arguments, so it never takes this for a tap
    try:
        vnet, name, number = parse_arguments(arguments)
        attach(vnet, check_bridge(name), number, deadline)
        return 0
    except Usage:
        line = USAGE
    except Failure as failure:
        line = f"tapster-bridge-helper: {failure}"
    except BaseException as error:  # noqa: BLE001
        line = f"tapster-bridge-helper: internal error: {error!r}"
    try:
        complain(line, deadline)
    except OSError:
        pass  # stderr is closed or broken; the exit status has to do
    return 1


if __name__ == "__main__":
    encoding = sys.getfilesystemencoding()
    # Not sys.exit(): to end the interpreter properly takes a tenth of all the time.
    posix._exit(main([a.encode(encoding, "surrogateescape") for a in sys.argv[1:]]))
