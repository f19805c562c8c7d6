# SPDX-License-Identifier: LGPL-2.1-or-later
"""The rootless tier: a user's own broker, without anybody's help.

Two processes. The supervisor stays in the user's own namespaces: it holds the
listening socket, and a fresh user and network namespace by their descriptors; it runs
pasta, which connects the two network namespaces; and it starts the broker again if
that dies. The broker inside is the system's broker with three capabilities, all of
them over its own namespace only.
"""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import logging
import os
import select
import shutil
import signal
import socket
import sys
import time
import traceback

from ..errors import BrokerUnavailable, TapsterError
from ..kernel import process, tun
from ..paths import is_private
from .process import listening, pasta, rootless_namespaces
from .process.options import BROKEN, Options
from .process.pasta import Pasta
from .process.rootless_namespaces import Namespaces
from .process.spawned import dnsmasq

_log = logging.getLogger(__name__)

_RESTARTS = 5  # a minute
_SIGNALS = signal.SIGTERM, signal.SIGINT, signal.SIGHUP


def supervise(options: Options) -> int:
    """Run the calling user's broker until nobody needs it.

    :returns: the exit status.
    :raises BrokerUnavailable: something is missing; the message says what.
    """
    _check_requirements()
    _make_directory(options.runtime)
    lock = _lock(options.runtime)
    if lock is None:
        return 0  # another supervisor serves already
    try:
        pasta.kill_left_behind(options.runtime)  # by a supervisor that was killed
        listener = listening.listen(options.socket, 0o600)
        try:
            return _Supervisor(options, listener).run()
        finally:
            listener.close()
            try:
                os.unlink(options.socket)
            except FileNotFoundError:
                pass
    finally:
        os.close(lock)


def _check_requirements() -> None:
    if shutil.which("pasta") is None:
        raise BrokerUnavailable("pasta is not installed", "apt install passt")
    if dnsmasq.find() is None:
        raise BrokerUnavailable("dnsmasq is not installed", "apt install dnsmasq-base")
    try:
        os.close(tun.open_device())
    except OSError as err:
        hint = "modprobe tun"
        if err.errno in (errno.EACCES, errno.EPERM):
            hint = f"as root: chmod 0666 {tun.TUN_DEVICE}, udev's own default"
        raise BrokerUnavailable(f"cannot {err}", hint) from err


def _make_directory(runtime: str) -> None:
    try:
        os.makedirs(runtime, mode=0o700, exist_ok=True)
    except OSError as err:
        raise BrokerUnavailable(
            f"cannot make {runtime}: {err.strerror}", "see XDG_RUNTIME_DIR"
        ) from err
    is_private(runtime, 0o077)


def _lock(runtime: str) -> int | None:
    """Become the only supervisor of a runtime directory.

    :returns: a descriptor that holds the lock until it is closed; None if another
        supervisor has it.
    """
    path = os.path.join(runtime, "supervisor.lock")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


class _Supervisor:
    def __init__(self, options: Options, listener: socket.socket) -> None:
        """
        :param options: the command line's.
        :param listener: what brokers serve; the caller closes it.
        """
        self._options = options
        self._listener = listener
        self._avoid = (
            *rootless_namespaces.host_networks(),
            ipaddress.IPv4Network(f"{pasta.RESOLVER}/32"),
        )
        self._namespaces: Namespaces | None = None  # made by the first broker
        self._pasta: Pasta | None = None
        self._starts: list[float] = []  # of brokers after the first, time.monotonic()
        self._is_stopping = False
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def run(self) -> int:
        """Start brokers, one after the other, until there is no need for another.

        :returns: the exit status.
        """
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)
        try:
            status = None
            while status is None:
                broker = self._start_broker()
                try:
                    ended = self._wait(broker)
                finally:
                    broker.close()
                status = self._status_after(ended)
            return status
        finally:
            if self._pasta is not None:
                self._pasta.stop()
            if self._namespaces is not None:
                self._namespaces.close()

    def _on_signal(self, *_: object) -> None:
        self._is_stopping = True

    def _wait(self, broker: process.Process) -> int:
        """Wait until the broker has ended; tell it to when a signal came.

        :returns: its exit status; negative if a signal ended it.
        """
        while True:
            self._poll(broker)
            if self._is_stopping:
                broker.send_signal(signal.SIGTERM)
            result = os.waitid(os.P_PIDFD, broker.pidfd, os.WEXITED | os.WNOHANG)
            if result is not None:
                exited = result.si_code == os.CLD_EXITED
                return result.si_status if exited else -result.si_status
            self._check_pasta()

    def _poll(self, broker: process.Process) -> None:
        """Wait until the broker or pasta has ended, or a signal came. A broker that
        was told to end is told again every 100 ms."""
        poll = select.poll()
        poll.register(broker.pidfd, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        if self._pasta is not None:
            poll.register(self._pasta.pidfd, select.POLLIN)
        poll.poll(100 if self._is_stopping else None)
        try:
            os.read(self._wake_read, 256)
        except BlockingIOError:
            pass

    def _check_pasta(self) -> None:
        status = self._pasta.reap() if self._pasta is not None else None
        if self._pasta is not None and status is not None:
            _log.warning(
                "pasta ended (%d): guests reach each other, not the outside; see %s",
                status,
                self._pasta.log,
            )
            self._pasta = None

    def _status_after(self, ended: int) -> int | None:
        """Decide how to go on after a broker has ended.

        :param ended: how the broker ended.
        :returns: the supervisor's exit status; None: another broker is wanted.
        """
        if self._is_stopping:
            return 0
        if ended == 0 and not self._is_client_waiting():
            return 0
        if ended not in (0, BROKEN) and ended > 0:
            return ended  # it said why itself
        if not self._may_start_again():
            _log.error("the broker keeps dying; giving up")
            return 1
        if ended:
            _log.error("the broker died (%d); starting it again", ended)
        return None

    def _is_client_waiting(self) -> bool:
        """Whether somebody has connected while the broker was ending."""
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        return bool(poll.poll(0))

    def _may_start_again(self) -> bool:
        now = time.monotonic()
        self._starts = [start for start in self._starts if now - start < 60]
        self._starts.append(now)
        return len(self._starts) <= _RESTARTS

    # The broker

    def _start_broker(self) -> process.Process:
        """Fork the broker. Once the first one is in its namespaces, keep those, and
        start pasta before it goes on.

        :returns: the broker, which the caller closes.
        """
        ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
        go_read, go_write = os.pipe2(os.O_CLOEXEC)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            os.close(ready_read)
            os.close(go_write)
            self._be_broker(ready_write, go_read, parent)
        os.close(ready_write)
        os.close(go_read)
        broker = process.Process(pid)
        with os.fdopen(ready_read, "rb") as ready, os.fdopen(go_write, "wb") as go:
            if ready.read() and self._namespaces is None:
                self._namespaces = Namespaces.of(pid)
                self._pasta = Pasta(pid, self._options.runtime)
                go.write(b"1")
        return broker

    def _be_broker(self, ready: int, go: int, parent: int) -> None:
        """What the child does after the fork; it ends here.

        :param ready: where to write that the namespaces are entered.
        :param go: where the supervisor's word comes, or the end of the file.
        :param parent: pid of the supervisor.
        """
        try:
            status = self._enter_and_serve(ready, go, parent)
        except TapsterError as err:
            print(f"tapsterd: {err.oneline()}", file=sys.stderr)
            status = 1
        except BaseException:  # noqa: BLE001 - a fork must not return
            traceback.print_exc()
            status = BROKEN
        sys.stderr.flush()
        os._exit(status)

    def _enter_and_serve(self, ready: int, go: int, parent: int) -> int:
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        rootless_namespaces.enter(self._namespaces)
        # Only now: the change of credentials would have cleared it.
        process.prctl(process.PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            return 0
        os.write(ready, b"1")
        os.close(ready)
        os.read(go, 1)
        os.close(go)
        rootless_namespaces.set_loopback_up()
        return self._serve(parent)

    def _serve(self, parent: int) -> int:
        from .process import sandbox, spawner_process

        sandbox.restrict_children()
        spawner = spawner_process.start(self._options.runtime, self._options.config)
        try:
            from .serve import Rootless, run

            return run(
                self._options,
                spawner,
                Rootless(self._listener, (pasta.RESOLVER,), self._avoid),
            )
        finally:
            spawner.close()
            if os.getppid() != parent:  # the supervisor has died and can't do it
                pasta.kill_left_behind(self._options.runtime)
