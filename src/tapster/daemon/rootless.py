# SPDX-License-Identifier: LGPL-2.1-or-later
"""The rootless tier: a user's own broker, with nobody's help.

Two processes. The supervisor stays in the user's own namespaces: it holds the
listening socket and the descriptors of a fresh user and network namespace,
runs pasta, which connects the one with the other, and starts the broker again
if it dies. The broker inside is the same as the system's; it has three
capabilities, all of them over its own namespace only.
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
from ipaddress import IPv4Network, IPv6Network

from ..errors import BrokerUnavailable, TapsterError
from ..kernel import capabilities, namespaces, process, rtnetlink, tun
from ..kernel.netlink import NetlinkError, NetlinkSocket
from ..paths import is_private
from .process import listening as activation
from .process.options import Options
from .process.spawned import dnsmasq

_log = logging.getLogger(__name__)

UPLINK = "uplink0"  # pasta's device in the broker's namespace
# pasta answers DNS at this address with the user's own resolver, which may be
# one that listens on the host's loopback only.
RESOLVER = "169.254.169.53"
BROKEN = 70  # the broker's exit status for an error nobody foresaw (EX_SOFTWARE)
_RESTARTS = 5  # a minute
_CAPABILITIES = [
    capabilities.NET_BIND_SERVICE,  # dnsmasq's
    capabilities.NET_ADMIN,
    capabilities.NET_RAW,  # dnsmasq's
]


def supervise(options: Options) -> int:
    """Run the calling user's broker until nobody needs it.

    :raises BrokerUnavailable: something is missing; the message says what.
    """
    _check_programs()
    _make_directory(options)
    lock = _lock(options.runtime)
    if lock is None:
        return 0  # another one serves already
    try:
        end_pasta(options.runtime)  # of a supervisor that was killed
        listening = activation.listen(options.socket, 0o600)
        try:
            return _Supervisor(options, listening).run()
        finally:
            listening.close()
            try:
                os.unlink(options.socket)
            except FileNotFoundError:
                pass
    finally:
        os.close(lock)


def _check_programs() -> None:
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


def _make_directory(options: Options) -> None:
    try:
        os.makedirs(options.runtime, mode=0o700, exist_ok=True)
    except OSError as err:
        raise BrokerUnavailable(
            f"cannot make {options.runtime}: {err.strerror}", "see XDG_RUNTIME_DIR"
        ) from err
    is_private(options.runtime, 0o077)


def _lock(runtime: str) -> int | None:
    path = os.path.join(runtime, "supervisor.lock")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def end_pasta(runtime: str) -> None:
    """End the pasta that wrote its pid in this directory, if it still runs."""
    path = os.path.join(runtime, "pasta.pid")
    try:
        with open(path, encoding="ascii") as file:
            pid = int(file.read())
        running = process.Process(pid)
    except (OSError, ValueError):
        return
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            if path.encode() in file.read().split(b"\0"):
                running.send_signal(signal.SIGKILL)
    except OSError:
        pass
    finally:
        running.close()


def host_networks() -> tuple[IPv4Network | IPv6Network, ...]:
    """What the host has addresses in and routes to: the broker can't see it."""
    try:
        with NetlinkSocket() as netlink:
            found = {net for _, net in rtnetlink.used_networks(netlink)}
    except NetlinkError as err:
        _log.warning("the host's routes are not known: %s", err)
        return ()
    return tuple(sorted(found, key=str))


class _Supervisor:
    def __init__(self, options: Options, listening: socket.socket) -> None:
        self._options = options
        self._listening = listening
        self._avoid = (*host_networks(), ipaddress.IPv4Network(f"{RESOLVER}/32"))
        self._namespaces: tuple[int, int] | None = None  # user, network
        self._pasta: process.Process | None = None
        self._starts: list[float] = []
        self._stopping = False
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def run(self) -> int:
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        try:
            return self._loop()
        finally:
            self._stop_pasta()
            for fd in self._namespaces or ():
                os.close(fd)

    def _on_signal(self, *_: object) -> None:
        self._stopping = True

    def _loop(self) -> int:
        broker = self._start_broker()
        while True:
            self._wait(broker)
            if self._stopping:
                broker.send_signal(signal.SIGTERM)
            status = self._status(broker)
            if status is None:
                self._mind_pasta()
                continue
            broker.close()
            if self._stopping:
                return 0
            if status == 0 and not self._somebody_waits():
                return 0
            if status not in (0, BROKEN) and status > 0:
                return status  # it said why itself
            if not self._may_start_again():
                _log.error("the broker keeps dying; giving up")
                return 1
            if status:
                _log.error("the broker died (%d); starting it again", status)
            broker = self._start_broker()

    def _wait(self, broker: process.Process) -> None:
        """Until the broker or pasta ended, or a signal came."""
        poll = select.poll()
        poll.register(broker.pidfd, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        if self._pasta is not None:
            poll.register(self._pasta.pidfd, select.POLLIN)
        if not self._stopping:
            poll.poll()
        else:
            poll.poll(100)
        try:
            os.read(self._wake_read, 256)
        except BlockingIOError:
            pass

    @staticmethod
    def _status(broker: process.Process) -> int | None:
        """None: it runs. Negative: a signal ended it."""
        result = os.waitid(os.P_PIDFD, broker.pidfd, os.WEXITED | os.WNOHANG)
        if result is None:
            return None
        return (
            result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
        )

    def _somebody_waits(self) -> bool:
        """Whether a client came while the broker was ending."""
        poll = select.poll()
        poll.register(self._listening, select.POLLIN)
        return bool(poll.poll(0))

    def _may_start_again(self) -> bool:
        now = time.monotonic()
        self._starts = [start for start in self._starts if now - start < 60]
        self._starts.append(now)
        return len(self._starts) <= _RESTARTS

    # The broker

    def _start_broker(self) -> process.Process:
        """Fork the broker; the first one makes the namespaces."""
        ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
        go_read, go_write = os.pipe2(os.O_CLOEXEC)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(ready_read)
                os.close(go_write)
                status = self._broker(ready_write, go_read, parent)
            except TapsterError as err:
                print(f"tapsterd: {err.oneline()}", file=sys.stderr)
                status = 1
            except BaseException:  # noqa: BLE001 - a fork must not return
                traceback.print_exc()
                status = BROKEN
            sys.stderr.flush()
            os._exit(status)
        os.close(ready_write)
        os.close(go_read)
        broker = process.Process(pid)
        with os.fdopen(ready_read, "rb") as ready, os.fdopen(go_write, "wb") as go:
            if ready.read() and self._namespaces is None:
                self._namespaces = (
                    os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC),
                    os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC),
                )
                self._start_pasta(pid)
                go.write(b"1")
        return broker

    def _broker(self, ready: int, go: int, parent: int) -> int:
        """The child: enter the namespaces, keep three capabilities, serve."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        if self._namespaces is None:
            try:
                namespaces.enter_new()
            except OSError as err:
                raise BrokerUnavailable(
                    f"unprivileged user namespaces are not available: {err.strerror}",
                    "as root: sysctl user.max_user_namespaces=10000"
                    " kernel.unprivileged_userns_clone=1",
                ) from err
        else:
            namespaces.setns(self._namespaces[0], namespaces.CLONE_NEWUSER)
            namespaces.setns(self._namespaces[1], namespaces.CLONE_NEWNET)
        capabilities.bound(_CAPABILITIES)
        # SETPCAP, to have less later (process/sandbox.py).
        capabilities.keep([*_CAPABILITIES, capabilities.SETPCAP], _CAPABILITIES)
        # After the change of credentials, which would clear it.
        process.prctl(process.PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            return 0
        os.write(ready, b"1")
        os.close(ready)
        os.read(go, 1)
        os.close(go)
        with NetlinkSocket() as netlink:
            loopback = rtnetlink.get_link(netlink, "lo")
            if loopback is not None:
                netlink.transact([rtnetlink.set_link(loopback.ifindex, "lo", up=True)])
        from .process import sandbox, spawner_process

        sandbox.restrict_children()
        spawner = spawner_process.start(self._options.runtime, self._options.config)
        try:
            from .serve import Rootless, run

            return run(
                self._options,
                spawner,
                Rootless(self._listening, (RESOLVER,), self._avoid),
            )
        finally:
            spawner.close()
            if os.getppid() != parent:  # nobody else is left to do it
                end_pasta(self._options.runtime)

    # pasta

    def _start_pasta(self, pid: int) -> None:
        """Connect the namespace of `pid` with ours. Without a route of the
        host's own there is nothing to connect with: the guests still have
        each other."""
        command = [
            "pasta",
            "--foreground",
            "--quiet",
            "--config-net",
            "--no-map-gw",  # nothing leads to the host's loopback
            *("--tcp-ports", "none", "--udp-ports", "none"),
            *("--tcp-ns", "none", "--udp-ns", "none"),
            *("--dns-forward", RESOLVER),
            *("--ns-ifname", UPLINK),
            *("--log-file", os.path.join(self._options.runtime, "pasta.log")),
            *("--pid", os.path.join(self._options.runtime, "pasta.pid")),
        ]
        if os.geteuid() == 0:
            command += ["--runas", "0"]
        command.append(str(pid))
        child = os.posix_spawnp(
            "pasta",
            command,
            {**os.environ, "LC_ALL": "C"},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0),
                (os.POSIX_SPAWN_DUP2, 0, 1),
                (os.POSIX_SPAWN_DUP2, 0, 2),
            ],
            setsigmask=(),
            # pasta takes a SIGPIPE that is ignored already, as Python has it,
            # for a failure.
            setsigdef=(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE),
        )
        self._pasta = process.Process(child)

    def _mind_pasta(self) -> None:
        """Say so when pasta has ended: guests have no uplink then."""
        if self._pasta is not None:
            status = self._pasta.reap()
            if status is not None:
                _log.warning(
                    "pasta ended (%d): guests reach each other, not the outside; see %s",  # noqa: E501
                    status,
                    os.path.join(self._options.runtime, "pasta.log"),
                )
                self._pasta.close()
                self._pasta = None

    def _stop_pasta(self) -> None:
        if self._pasta is not None:
            self._pasta.send_signal(signal.SIGTERM)
            poll = select.poll()
            poll.register(self._pasta.pidfd, select.POLLIN)
            if not poll.poll(2000):
                self._pasta.send_signal(signal.SIGKILL)
                poll.poll(2000)
            self._pasta.reap()
            self._pasta.close()
            self._pasta = None
