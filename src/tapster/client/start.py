# SPDX-License-Identifier: LGPL-2.1-or-later
"""Starting the user's own broker, where none runs yet.

The first guest of a user without any administrator's help needs a daemon that
outlives the command that asked: so this starts `tapsterd --rootless` as nobody's
child, waits until it serves, and says in its own words why it does not.
"""

from __future__ import annotations

import os
import socket as sockets
import time

from tapster.client.connection import REPLY_LIMIT, try_open_socket
from tapster.errors import BrokerUnavailable
from tapster.paths import is_private

START_TIMEOUT = 10.0  # seconds until a broker that we started must be ready
LOG_LIMIT = 1 << 20  # bytes of log that a broker finds at its start, at most

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
_NOT_INHERITED = (
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
)


def daemon_command() -> list[str]:
    """How to run this very installation's `tapsterd`, or else the one in PATH.

    Without -I, as the broker is started with the user's own rights, and its
    libraries may be where only PYTHONPATH or the user's site leads.
    """
    import sys

    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if sys.executable and os.path.isdir(os.path.join(package, "daemon")):
        parent = os.path.dirname(package)
        return [sys.executable, "-P", "-c", _DAEMON, parent, "--rootless"]
    return ["tapsterd", "--rootless"]


def start_broker(path: str, deadline: float) -> sockets.socket:
    """Start a rootless broker, wait until it serves, and connect to `path`.

    That takes until `deadline`, or START_TIMEOUT, at most. Its log is emptied
    first where it has grown beyond LOG_LIMIT, as nothing rotates it.

    :raises BrokerUnavailable: with the broker's own words, or it took too long.
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
            # "ended": another one holds the lock. It is about to serve, or to
            # exit, in which case ours is needed after all.
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
    command = [python, "-I", "-S", "-c", _STAGE, *daemon_command()]
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
