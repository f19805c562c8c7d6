# SPDX-License-Identifier: LGPL-2.1-or-later
"""Start the user's own broker, if it is not running.

The broker has to outlive the command that needs it first. So `tapsterd --rootless`
is started as nobody's child; this module waits until it serves, and if it ends
instead, repeats the last line of its log.
"""

from __future__ import annotations

import os
import socket as sockets
import time

from tapster.client.connection import REPLY_LIMIT, try_open_socket
from tapster.errors import BrokerUnavailable
from tapster.paths import is_private

START_TIMEOUT = 10.0  # seconds until a broker that we started must be ready
LOG_LIMIT = 1 << 20  # bytes; a longer log is emptied before a broker starts

# A program between us and the daemon, so that the daemon is not our child: we may
# be about to become a VMM, which must not inherit a child that it did not start.
# It is a program, not a fork of ours, because we may have threads. Its descriptor
# 0 is our socket: the program says there how the daemon ended, and ends itself when
# we close our end.
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

# Our path is appended: nothing of ours may hide a module of the standard library.
_DAEMON = """
import sys
sys.path.append(sys.argv.pop(1))
sys.argv[0] = "tapsterd"
from tapster.daemon.main import main
sys.exit(main())
"""

# What a service manager told one of our ancestors. The broker must not obey it.
_NOT_INHERITED = (
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
)


def daemon_command() -> list[str]:
    """The command that runs `tapsterd` of this installation, or else that of PATH.

    Python is run without -I: the broker has no more rights than the user, and its
    libraries may be found by PYTHONPATH or in the user's site directory only.
    """
    import sys

    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if sys.executable and os.path.isdir(os.path.join(package, "daemon")):
        parent = os.path.dirname(package)
        return [sys.executable, "-P", "-c", _DAEMON, parent, "--rootless"]
    return ["tapsterd", "--rootless"]


def start_broker(path: str, deadline: float) -> sockets.socket:
    """Start a rootless broker, wait until it serves, and connect to it.

    A log of more than LOG_LIMIT bytes is emptied first, as nothing rotates it.

    :param path: of the socket at which it will serve.
    :param deadline: of `time.monotonic()`; START_TIMEOUT is another limit.
    :raises BrokerUnavailable: it did not start, with its own last words, or it took
        too long.
    """
    directory = os.path.dirname(path)
    log_path = os.path.join(directory, "broker.log")
    hint = f"see {log_path}"
    try:
        for needed, forbidden in (os.path.dirname(directory), 0), (directory, 0o022):
            if not is_private(needed, forbidden):
                try:
                    os.mkdir(needed, 0o700)
                except FileExistsError:
                    is_private(needed, forbidden)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        log = os.open(log_path, flags, 0o600)
    except OSError as error:
        reason = f"cannot start a broker in {directory}: {error.strerror}"
        raise BrokerUnavailable(reason, "see XDG_RUNTIME_DIR") from None
    try:
        deadline = min(deadline, time.monotonic() + START_TIMEOUT)
        if os.fstat(log).st_size > LOG_LIMIT:
            os.ftruncate(log, 0)
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
            # "ended": another broker holds the lock. It is about to serve, or it is
            # about to exit; then ours is started again.
            patience = min(deadline, time.monotonic() + 0.3)
            while time.monotonic() < patience:
                sock = try_open_socket(path, deadline)
                if sock:
                    return sock
                time.sleep(0.02)
    finally:
        os.close(log)
    raise BrokerUnavailable("the broker did not start in time", hint)


def _spawn(directory: str, log: int, deadline: float) -> bytes:
    """Start a daemon, and wait until it serves or has ended.

    A daemon that has not ended goes on running. Neither a child nor a descriptor
    of it stays with us.

    :param directory: of its socket.
    :param log: descriptor that its stderr is written to.
    :param deadline: of `time.monotonic()`.
    :returns: b"ready"; b"ended" and b"failed" for a daemon that exited with status
        0 or another; b"" if the deadline has passed.
    """
    # Not an abstract name: those are not seen in the broker's network namespace.
    name = os.path.join(directory, f"ready-{os.urandom(4).hex()}")
    ours, theirs = sockets.socketpair()
    notify = sockets.socket(sockets.AF_UNIX, sockets.SOCK_DGRAM)
    stage = 0
    try:
        notify.bind(name)
        stage = _spawn_stage(os.path.dirname(directory), name, theirs.fileno(), log)
        theirs.close()
        return _wait_for_outcome(ours, notify, deadline)
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
            pass  # SIGCHLD is ignored in this process, so the kernel has reaped it


def _spawn_stage(runtime: str, notify: str, control: int, log: int) -> int:
    """Start the program between us and the daemon.

    :param runtime: the directory that is the daemon's XDG_RUNTIME_DIR.
    :param notify: path of the socket on which the daemon says that it serves.
    :param control: descriptor of the socket on which the program says how it ended.
    :param log: descriptor that the daemon's stderr is written to.
    :returns: the program's pid; the caller waits for it.
    :raises OSError: it could not be started.
    """
    import signal
    import sys

    environment = {k: v for k, v in os.environ.items() if k not in _NOT_INHERITED}
    environment["XDG_RUNTIME_DIR"] = runtime
    environment["NOTIFY_SOCKET"] = notify
    python = sys.executable or "python3"
    return os.posix_spawnp(
        python,
        [python, "-I", "-S", "-c", _STAGE, *daemon_command()],
        environment,
        file_actions=[
            (os.POSIX_SPAWN_DUP2, control, 0),
            (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_RDWR, 0),
            (os.POSIX_SPAWN_DUP2, log, 2),
        ],
        setsid=True,
        setsigmask=(),
        setsigdef=(signal.SIGCHLD,),
    )


def _wait_for_outcome(
    control: sockets.socket, notify: sockets.socket, deadline: float
) -> bytes:
    """What `_spawn` returns, as soon as it is known.

    :param control: where the program between us says how the daemon ended.
    :param notify: where the daemon says that it serves.
    :param deadline: of `time.monotonic()`.
    """
    import select

    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(notify, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        told = [fd for fd, _ in poll.poll(left * 1000)]
        if notify.fileno() in told and b"READY=1" in notify.recv(4096).split():
            return b"ready"
        if control.fileno() in told:
            return control.recv(16) or b"failed"
    return b""
