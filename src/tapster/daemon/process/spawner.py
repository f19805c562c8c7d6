# SPDX-License-Identifier: LGPL-2.1-or-later
"""The process that starts programs, because the broker itself may not.

It is a program of its own, and starts before the broker has met any caller. It starts
two kinds of program and nothing else: dnsmasq, on the configuration of one of our
networks, and hooks, which are in the administrator's directory. It also signals
dnsmasq, which may run as another user, and reads which file a process runs; both take
capabilities that the broker does without. Somebody who has taken over the broker can
have the spawner do no more than that.

Requests on the control socket, and the answers; words are separated by NULs:

    dnsmasq N BRIDGE                             → started N PID, with a pidfd
    hook N NAME SECONDS ARGUMENT [VARIABLE…]     → refused N REASON
      with 3 descriptors: file, stdin, output    → ended N STATUS [late], afterwards
    end N                                        kill what request N started
    signal "" SIGNAL, with a pidfd               signal that dnsmasq

On the other socket a descriptor of /proc/PID is a question, and the answer is the path
of the program; one NUL says that it is not known.

The spawner ends when the broker does. Hooks are killed then, dnsmasq goes on.
"""

from __future__ import annotations

import math
import os
import select
import signal
import socket
import sys
import time

if __name__ == "__main__":
    # Started by spawner_process.py as a file, isolated (-I -S) from all modules but
    # Python's own. For this one import our own package can be found, too.
    sys.path.append(os.path.abspath(f"{__file__}/../../../.."))
from tapster.daemon.process.spawned import Refused, dnsmasq, hook

if __name__ == "__main__":
    sys.path.pop()

MAX_MESSAGE = 64 * 1024  # bytes


class _Child:
    """A program that was started, until its end has been told."""

    def __init__(self, request: str, pid: int) -> None:
        self.request = request
        self.pid = pid

        # Of a hook alone:
        self.limit: float | None = None  # time.monotonic() at which it is late
        self.is_late = False
        self.mark = ""  # an entry of its environment, or empty


class Spawner:
    """Serves one broker, until that is gone."""

    def __init__(
        self,
        control: socket.socket,
        questions: socket.socket,
        networks: str,
        hooks: str,
        account: dnsmasq.Account,
    ) -> None:
        """
        :param control: for requests and their answers.
        :param questions: for questions about processes.
        :param networks: the directory that networks' directories are in.
        :param hooks: the hooks' directory.
        :param account: whom dnsmasq changes to.
        """
        self._control = control
        self._questions = questions
        self._networks = networks
        self._hooks = hooks
        self._account = account
        self._children: dict[int, _Child] = {}  # by pid
        # One pipe tells that some child has ended. A pidfd for each child would be
        # one for each network: they could use up the descriptors that we may have.
        self._ended, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self._poll = select.poll()
        for readable in (control, questions, self._ended):
            self._poll.register(readable, select.POLLIN)

    def run(self) -> None:
        """Serve until the broker has closed its end of the control socket."""
        while True:
            for fd, _ in self._poll.poll(self._timeout()):
                if fd == self._control.fileno():
                    if not self._serve():
                        self._kill_hooks(math.inf)
                        return
                elif fd == self._questions.fileno():
                    if not self._answer_question():
                        self._poll.unregister(self._questions)
                elif fd == self._ended:
                    os.read(fd, 4096)
                    self._reap()
            self._kill_hooks(time.monotonic())

    def _timeout(self) -> int | None:
        """Milliseconds until the next hook is late; None if there is none."""
        running = [c for c in self._children.values() if not c.is_late]
        limits = [c.limit for c in running if c.limit is not None]
        if not limits:
            return None
        return max(0, int((min(limits) - time.monotonic()) * 1000) + 1)

    # Requests

    def _serve(self) -> bool:
        """Carry out one request.

        :returns: False if there will be no more.
        """
        try:
            data, fds, flags, _ = socket.recv_fds(self._control, MAX_MESSAGE, 8)
        except ConnectionResetError:  # the broker was killed, and an answer not read
            return False
        _set_cloexec(fds)
        if not data:
            return False
        what, *words = data.decode("utf-8", "surrogateescape").split("\0")
        request = words.pop(0) if words else ""
        is_cut = bool(flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC))
        try:
            if what == "signal":
                self._signal(words, fds)
            elif what == "end":
                self._kill_child(request)
            else:
                self._start(what, request, words, fds, is_cut)
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _start(
        self, what: str, request: str, words: list[str], fds: list[int], is_cut: bool
    ) -> None:
        """Start a program and answer.

        :param what: the kind of program.
        :param request: its number.
        :param words: the rest of it.
        :param fds: that came with it.
        :param is_cut: whether a part of it did not fit.
        """
        try:
            if is_cut:
                raise Refused("the request is too long")
            if what == "dnsmasq" and len(words) == 1:
                child = self._start_dnsmasq(request, words[0])
            elif what == "hook" and len(words) >= 3 and len(fds) == 3:
                child = self._start_hook(request, words, fds)
            else:
                raise Refused(f"no such request: {what[:20]!r}")
        except (Refused, OSError, ValueError) as err:
            self._answer(f"refused\0{request}\0{err}")
        else:
            self._children[child.pid] = child
            self._tell_started(child)

    def _start_dnsmasq(self, request: str, bridge: str) -> _Child:
        return _Child(request, dnsmasq.start(bridge, self._networks, self._account))

    def _start_hook(self, request: str, words: list[str], fds: list[int]) -> _Child:
        started = hook.start(words, fds, self._hooks)
        child = _Child(request, started.pid)
        child.limit = time.monotonic() + started.seconds
        child.mark = started.mark
        return child

    def _tell_started(self, child: _Child) -> None:
        word = f"started\0{child.request}\0{child.pid}"
        try:
            pidfd = os.pidfd_open(child.pid)
        except OSError:
            self._answer(word)  # the broker answers `end` to one without a pidfd
            return
        try:
            self._answer(word, pidfd)
        finally:
            os.close(pidfd)

    def _answer(self, text: str, *fds: int) -> None:
        data = text.encode("utf-8", "surrogateescape")[:MAX_MESSAGE]
        try:
            socket.send_fds(self._control, [data], list(fds))
        except (BrokenPipeError, ConnectionResetError):
            pass  # the broker is gone, which the next read tells, too

    def _signal(self, words: list[str], fds: list[int]) -> None:
        if words and len(fds) == 1:
            dnsmasq.send_signal(fds[0], words[-1], self._networks)

    def _kill_child(self, request: str) -> None:
        for child in self._children.values():
            if child.request == request:
                hook.kill_group(child.pid)

    def _answer_question(self) -> bool:
        """Tell which file a process runs.

        :returns: False if there will be no more questions.
        """
        try:
            data, fds, _, _ = socket.recv_fds(self._questions, 1, 1)
        except ConnectionResetError:
            return False
        _set_cloexec(fds)
        answer = b""
        for fd in fds:
            try:
                answer = os.readlink(b"exe", dir_fd=fd)
            except OSError:
                pass  # not known
            os.close(fd)
        if data:
            try:
                self._questions.send(answer or b"\0")
            except OSError:
                return False
        return bool(data)

    # How children end

    def _reap(self) -> None:
        """Wait for all children that have ended, and tell the broker of each."""
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
                hook.kill_group(child.pid)  # before the leader is waited for
            os.waitid(os.P_PID, result.si_pid, how)
            if child is not None:
                status = result.si_status
                if result.si_code != os.CLD_EXITED:
                    status = -status
                late = "late" if child.is_late else ""
                self._answer(f"ended\0{child.request}\0{status}\0{late}")

    def _kill_hooks(self, now: float) -> None:
        """Kill the hooks that are late by `now`, and whatever they have started."""
        for child in self._children.values():
            if child.limit is None or child.is_late or child.limit > now:
                continue
            child.is_late = True
            hook.kill_group(child.pid)
            if child.mark:
                hook.kill_marked(child.mark)


def _set_cloexec(fds: list[int]) -> None:
    for fd in fds:
        os.set_inheritable(fd, False)


def main() -> int:
    """Serve the broker; descriptors 0 and 1 lead to it."""
    control, questions = socket.socket(fileno=0), socket.socket(fileno=1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Only the end of the broker ends the spawner.
        signal.signal(number, signal.SIG_IGN)
    account = dnsmasq.Account(
        os.environ.get("DNSMASQ_USER", ""), os.environ.get("DNSMASQ_GROUP", "")
    )
    networks, hooks = sys.argv[1:]
    Spawner(control, questions, networks, hooks, account).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
