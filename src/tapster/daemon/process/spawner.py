# SPDX-License-Identifier: LGPL-2.1-or-later
"""The one process that starts programs, as the broker itself may not.

It is a program of its own, started before the broker has met anybody, and of
the standard library alone. It starts two kinds of program and nothing else:
dnsmasq, on the configuration of one of our networks, of which it knows each
line; and hooks, which are in the administrator's directory. It signals its
dnsmasqs, which are another user's, and reads what program a process runs, both
of which take capabilities that the broker does without. A broker that is not
ours any more can have it do no more than that.

Requests and answers are datagrams of words that end with a NUL; descriptors
come along. It ends when the broker does. dnsmasq goes on then, hooks do not.
"""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import socket
import stat
import sys
import time

MAX_MESSAGE = 64 * 1024  # bytes
MAX_CONFIG = 64 * 1024
MARK = "TAPSTER_RUN"  # a variable of each hook, different for each run
MAX_SECONDS = 3600.0  # that a hook may take
DEFAULT_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

_BRIDGE = re.compile(r"tapbr[0-9a-z]{1,10}")
_HOOK = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_VARIABLE = re.compile(r"(TAPSTER_[A-Z0-9_]+)=([^\0]*)", re.DOTALL)
_ARGUMENT = re.compile(r"[A-Za-z0-9_-]{1,32}")
_DEFAULTS = (
    *(signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP, signal.SIGINT),
    *(signal.SIGTERM, signal.SIGCHLD),
)

_SIGNALS = {
    "SIGHUP": signal.SIGHUP,
    "SIGTERM": signal.SIGTERM,
    "SIGKILL": signal.SIGKILL,
}

# What dnsmasq may be told. None of it names a program, or a file but those of
# the network's own directory.
_WORDS = (
    *("except-interface=lo", "bind-interfaces", "keep-in-foreground", "no-hosts"),
    *("no-ping", "dhcp-authoritative", "dhcp-ignore-names", "domain-needed"),
    *("bogus-priv", "enable-ra", "no-resolv", "log-facility=-"),
)
_VALUES = re.compile(
    r"(domain|local|dhcp-option|dhcp-range|ra-param|server)=[A-Za-z0-9.:,/_-]+"
)


class Refused(Exception):
    """What was asked for is not started; the message says why."""


def check_configuration(
    text: str, bridge: str, directory: str, user: str, group: str
) -> None:
    """Whether dnsmasq may be started on this: pure.

    :raises Refused: a line is none that a network of ours has.
    """
    exact = {
        *_WORDS,
        f"interface={bridge}",
        f"pid-file={directory}/dnsmasq.pid",
        f"dhcp-leasefile={directory}/leases",
        f"dhcp-hostsdir={directory}/dhcp",
        f"hostsdir={directory}/hosts",
        f"user={user}",
        f"group={group}",
    }
    lines = text.split("\n")
    for line in lines:
        if line and line not in exact and not _VALUES.fullmatch(line):
            raise Refused(f"dnsmasq is not started on {line[:80]!r}")
    for needed in (f"interface={bridge}", f"user={user}", f"group={group}"):
        if needed not in lines:
            raise Refused(f"dnsmasq is not started without {needed!r}")


def find_dnsmasq(path: str) -> str | None:
    """Where dnsmasq is; Debian has it in /usr/sbin, which users' PATHs lack."""
    for directory in (*path.split(":"), "/usr/sbin", "/sbin"):
        name = f"{directory}/dnsmasq"
        if name.startswith("/") and os.path.isfile(name) and os.access(name, os.X_OK):
            return name
    return None


def _cloexec(fds: list[int]) -> None:
    for fd in fds:
        os.set_inheritable(fd, False)


class _Child:
    def __init__(self, request: str, pid: int, limit: float | None) -> None:
        self.request = request
        self.pid = pid
        self.limit = limit  # time.monotonic() by when a hook has to have ended
        self.is_late = False
        self.mark = ""  # what all that it starts has in its environment


class Spawner:
    """One broker's. `run` returns when that is gone."""

    def __init__(
        self,
        control: socket.socket,
        questions: socket.socket,
        networks: str,
        hooks: str,
        user: str,
        group: str,
    ) -> None:
        self._control = control
        self._networks = networks
        self._hooks = hooks
        self._user = user
        self._group = group
        self._children: dict[int, _Child] = {}  # by pid
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._questions = questions
        self._poll.register(questions, select.POLLIN)
        # Not a pidfd for each child: there is one for each network, and they
        # would be more than the descriptors that programs should be left with.
        self._ended, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._poll.register(self._ended, select.POLLIN)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def run(self) -> None:
        while True:
            for fd, _ in self._poll.poll(self._patience()):
                if fd == self._control.fileno():
                    if not self._serve():
                        self._end_hooks(time.monotonic() + 1e9)
                        return
                elif fd == self._questions.fileno():
                    if not self._tell_program():
                        self._poll.unregister(self._questions)
                elif fd == self._ended:
                    os.read(fd, 4096)
                    self._reap()
            self._end_hooks(time.monotonic())

    def _patience(self) -> int | None:
        """Milliseconds until some hook's time is over."""
        running = [c for c in self._children.values() if not c.is_late]
        limits = [c.limit for c in running if c.limit is not None]
        if not limits:
            return None
        return max(0, int((min(limits) - time.monotonic()) * 1000) + 1)

    def _serve(self) -> bool:
        """One request; False if there will be no more."""
        try:
            data, fds, flags, _ = socket.recv_fds(self._control, MAX_MESSAGE, 8)
        except ConnectionResetError:  # it was killed before it read our last word
            return False
        _cloexec(fds)
        if not data:
            return False
        words = data.decode("utf-8", "surrogateescape").split("\0")
        request = words[1] if len(words) > 1 else ""
        try:
            if words[0] == "signal":
                self._signal(fds, words[-1])
                return True
            if words[0] == "end":
                self._end(request)
                return True
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise Refused("the request is too long")
            if words[0] == "dnsmasq" and len(words) == 3:
                child = self._dnsmasq(request, words[2])
            elif words[0] == "hook" and len(words) >= 5 and len(fds) == 3:
                child = self._hook(request, words[2:], fds)
            else:
                raise Refused(f"no such request: {words[0][:20]!r}")
        except (Refused, OSError, ValueError) as err:
            self._answer(f"refused\0{request}\0{err}")
        else:
            self._children[child.pid] = child
            self._tell_started(child)
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _answer(self, text: str, *fds: int) -> None:
        data = text.encode("utf-8", "surrogateescape")[:MAX_MESSAGE]
        try:
            socket.send_fds(self._control, [data], list(fds))
        except (BrokenPipeError, ConnectionResetError):
            pass  # the next read says so, too

    def _tell_started(self, child: _Child) -> None:
        word = f"started\0{child.request}\0{child.pid}"
        try:
            pidfd = os.pidfd_open(child.pid)
        except OSError:
            self._answer(word)  # without it, the broker has it ended
            return
        try:
            self._answer(word, pidfd)
        finally:
            os.close(pidfd)

    # What is started

    def _dnsmasq(self, request: str, bridge: str) -> _Child:
        if not _BRIDGE.fullmatch(bridge):
            raise Refused(f"not a bridge of ours: {bridge[:20]!r}")
        program = find_dnsmasq(os.environ.get("PATH", DEFAULT_PATH))
        if program is None:
            raise Refused("dnsmasq is not installed")
        directory = f"{self._networks}/{bridge}"
        flags = os.O_NOFOLLOW | os.O_CLOEXEC
        parent = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | flags)
        opened = [parent]
        try:
            with open(
                os.open("dnsmasq.conf", os.O_RDONLY | flags, dir_fd=parent), "rb"
            ) as file:
                text = file.read(MAX_CONFIG)
            check_configuration(
                text.decode(), bridge, directory, self._user, self._group
            )
            # It reads what was looked at, and not what is in the file by then.
            config = os.memfd_create("dnsmasq.conf", os.MFD_CLOEXEC | 2)
            opened.append(config)
            os.write(config, text)
            seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK
            fcntl.fcntl(config, fcntl.F_ADD_SEALS, seals | fcntl.F_SEAL_SEAL)
            log = os.open(
                "dnsmasq.log",
                os.O_WRONLY | os.O_CREAT | os.O_APPEND | flags,
                0o640,
                dir_fd=parent,
            )
            opened.append(log)
            pid = os.posix_spawn(
                program,
                # The pid file is what it is known by again (networks/dnsmasq.py).
                [
                    "dnsmasq",
                    "--conf-file=/proc/self/fd/0",
                    f"--pid-file={directory}/dnsmasq.pid",
                ],
                {"PATH": DEFAULT_PATH, "LC_ALL": "C"},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, config, 0),
                    (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_DUP2, log, 2),
                ],
                setsid=True,
                setsigmask=(),
                setsigdef=_DEFAULTS,
            )
        finally:
            for fd in opened:
                os.close(fd)
        return _Child(request, pid, None)

    def _hook(self, request: str, words: list[str], fds: list[int]) -> _Child:
        """
        :param words: the file's name, seconds, one argument, then the variables.
        :param fds: the file itself, its stdin, its output.
        """
        name, seconds, argument, *variables = words
        self._check_hook(name, fds[0])
        if not _ARGUMENT.fullmatch(argument):
            raise Refused("not an argument of a hook")
        environment = {"PATH": DEFAULT_PATH, "LC_ALL": "C.UTF-8"}
        for text in filter(None, variables):
            found = _VARIABLE.fullmatch(text)
            if found is None:
                raise Refused("not a variable of a hook")
            environment[found[1]] = found[2]
        limit = min(float(seconds), MAX_SECONDS)
        if not limit >= 0:  # nor is it "nan", which never comes
            raise Refused("not a time that a hook may take")
        before = os.umask(0o022)
        try:
            pid = self._spawn_hook(name, argument, environment, fds)
        finally:
            os.umask(before)
        child = _Child(request, pid, time.monotonic() + limit)
        if MARK in environment:
            child.mark = f"{MARK}={environment[MARK]}"
        return child

    def _spawn_hook(
        self, name: str, argument: str, environment: dict[str, str], fds: list[int]
    ) -> int:
        executable, stdin, output = fds
        return os.posix_spawn(
            "/proc/self/fd/3",  # what was checked; a script's interpreter opens it
            [f"{self._hooks}/{name}", argument],
            environment,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, stdin, 0),
                (os.POSIX_SPAWN_DUP2, output, 1),
                (os.POSIX_SPAWN_DUP2, output, 2),
                (os.POSIX_SPAWN_DUP2, executable, 3),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=_DEFAULTS,
        )

    def _check_hook(self, name: str, executable: int) -> None:
        """What is run is in the hooks' directory, and nobody else could have
        written it: neither a broker that lies, nor another user."""
        if not _HOOK.fullmatch(name):
            raise Refused(f"not a hook's name: {name[:64]!r}")
        directory = os.stat(self._hooks, follow_symlinks=False)
        there = os.stat(f"{self._hooks}/{name}", follow_symlinks=False)
        given = os.fstat(executable)
        if (there.st_dev, there.st_ino) != (given.st_dev, given.st_ino):
            raise Refused(f"{name} is not in the hooks' directory")
        if not stat.S_ISREG(given.st_mode) or not stat.S_ISDIR(directory.st_mode):
            raise Refused(f"{name} is no regular file in a directory")
        for status in (directory, given):
            if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
                raise Refused(f"others than root may write to {name}")

    # What is signalled, and looked at

    def _end(self, request: str) -> None:
        """Kill what was started by this request."""
        for child in self._children.values():
            if child.request == request:
                end_group(child.pid)

    def _signal(self, fds: list[int], number: str) -> None:
        """Signal a dnsmasq of ours. If another process has its pid by now, then it
        is gone, and nobody gets the signal."""
        try:
            (pidfd,) = fds
            with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:
                (pid,) = re.findall(r"^Pid:\t(\d+)$", file.read(), re.MULTILINE)
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
            mark = os.fsencode(f"--pid-file={self._networks}/")
            if number in _SIGNALS and any(word.startswith(mark) for word in words):
                signal.pidfd_send_signal(pidfd, _SIGNALS[number])
        except (OSError, ValueError):
            pass

    def _tell_program(self) -> bool:
        """Which file a process runs, by the descriptor of its directory in /proc."""
        try:
            data, fds, _, _ = socket.recv_fds(self._questions, 1, 1)
        except ConnectionResetError:
            return False
        _cloexec(fds)
        answer = b""
        for fd in fds:
            try:
                answer = os.readlink(b"exe", dir_fd=fd)
            except OSError:
                pass  # an empty answer says so
            os.close(fd)
        if data:
            try:
                self._questions.send(answer or b"\0")
            except OSError:
                return False
        return bool(data)

    # How it ends

    def _reap(self) -> None:
        """Tell of all that have ended."""
        how = os.WEXITED | os.WNOHANG
        while True:
            try:
                result = os.waitid(os.P_ALL, 0, how | os.WNOWAIT)
            except ChildProcessError:
                return
            if result is None:
                return
            child = self._children.pop(result.si_pid, None)
            if child is not None and child.limit is not None:
                end_group(child.pid)
            os.waitid(os.P_PID, result.si_pid, how)
            if child is None:
                continue
            status = result.si_status
            if result.si_code != os.CLD_EXITED:
                status = -status
            late = "late" if child.is_late else ""
            self._answer(f"ended\0{child.request}\0{status}\0{late}")

    def _end_hooks(self, now: float) -> None:
        for child in self._children.values():
            if child.is_late or child.limit is None:
                continue
            if child.limit <= now:
                child.is_late = True
                end_group(child.pid)
                if child.mark:
                    end_marked(child.mark)


def end_group(leader: int) -> None:
    """Kill what is left of a group. Its leader was not waited for, so that the
    number is nobody else's."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # nobody is left, or all that is has changed its user


def end_marked(mark: str) -> None:
    """Kill every process of ours with this variable in its environment, whatever
    session it made its own: what a hook has started."""
    wanted = mark.encode("utf-8", "surrogateescape")
    for name in os.listdir("/proc"):
        if not name.isdecimal() or int(name) == os.getpid():
            continue
        try:
            pidfd = os.pidfd_open(int(name))
        except OSError:
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                if wanted in file.read().split(b"\0"):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except OSError:
            pass  # it ended, or is not ours
        finally:
            os.close(pidfd)


def main() -> int:
    """Serve the broker; descriptors 0 and 1 lead to it."""
    control, questions = socket.socket(fileno=0), socket.socket(fileno=1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # It ends when the broker does, whoever else is told to.
        signal.signal(number, signal.SIG_IGN)
    user, group = (os.environ.get(f"DNSMASQ_{kind}", "") for kind in ("USER", "GROUP"))
    Spawner(control, questions, sys.argv[1], sys.argv[2], user, group).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
