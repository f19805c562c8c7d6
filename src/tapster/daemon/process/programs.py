# SPDX-License-Identifier: LGPL-2.1-or-later
"""Other programs, started by a process that may, as the broker may not.

The broker's end of daemon/process/spawner.py: requests, and the answers to them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ...errors import BrokerFailure, BrokerUnavailable
from ...kernel import process
from ...networks import dnsmasq
from . import spawner

_log = logging.getLogger(__name__)

_PATIENCE = 1.0  # seconds for a question, which takes some 50 µs


class Ended(NamedTuple):
    """How a program ended."""

    status: int  # negative: by that signal
    is_late: bool  # it was killed, as its time was over


class Hook(NamedTuple):
    """A running hook. Whoever has it closes the pidfd."""

    pid: int
    pidfd: int
    ended: asyncio.Future[Ended]


class Programs:
    """The spawner, and what it has started. `close` ends it, and hooks; dnsmasq
    goes on."""

    def __init__(
        self,
        control: socket.socket,
        questions: socket.socket,
        pid: int,
        user: str | None,
    ) -> None:
        """Use `start`.

        :param control, questions: become this object's.
        :param user: whom dnsmasq becomes; None: it stays who we are.
        """
        self.user = user
        self.capabilities = process.effective_capabilities()  # dnsmasq's, too
        self.pid = pid
        self._control = control
        self._questions = questions
        questions.settimeout(_PATIENCE)
        self._count = 0
        self._asked: dict[str, asyncio.Future[tuple[int, int]]] = {}
        self._running: dict[str, asyncio.Future[Ended]] = {}
        self._lost: Callable[[], None] | None = None
        self.is_lost = False

    @classmethod
    def start(cls, runtime: str, config: str) -> Programs:
        """Start the spawner; to be called before there is much in this process
        that it could inherit.

        :raises BrokerUnavailable: it can't be started.
        """
        user = dnsmasq.service_user()
        group = dnsmasq.group_of(user) if user is not None else ""
        if not sys.executable:
            raise BrokerUnavailable("where Python is, is not known")
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        questions, others = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [
            # No directory but Python's own: not even that of the file.
            *(sys.executable, "-I", "-S", os.path.abspath(spawner.__file__)),
            *(os.path.join(runtime, "networks"), os.path.join(config, "hooks.d")),
        ]
        try:
            pid = os.posix_spawn(
                sys.executable,
                command,
                # Not on the command line: it is no dnsmasq.
                {**os.environ, "DNSMASQ_USER": user or "", "DNSMASQ_GROUP": group},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, theirs.fileno(), 0),
                    (os.POSIX_SPAWN_DUP2, others.fileno(), 1),
                ],
                setsid=True,  # what a terminal tells us is not meant for it
                setsigmask=(),
                setsigdef=(signal.SIGPIPE, signal.SIGCHLD),
            )
        except OSError as err:
            control.close()
            questions.close()
            raise BrokerUnavailable(
                f"cannot start {sys.executable}: {err.strerror}"
            ) from err
        finally:
            theirs.close()
            others.close()
        return cls(control, questions, pid, user)

    def watch(self, lost: Callable[[], None]) -> None:
        """Hear its answers from now on, in the running loop.

        :param lost: called when the spawner has died.
        """
        self._control.setblocking(False)
        self._lost = lost
        asyncio.get_running_loop().add_reader(self._control, self._hear)

    def close(self) -> None:
        """End the spawner, and wait until it has ended the hooks."""
        self._lost = None  # the loop, and its reader, have ended
        self._control.close()
        self._questions.close()
        try:
            os.waitpid(self.pid, 0)
        except ChildProcessError:
            pass
        self._fail("the broker ends")

    # Requests

    async def start_dnsmasq(self, bridge: str) -> process.Process:
        """Start dnsmasq on the configuration of that bridge's network.

        :returns: the caller closes it.
        :raises BrokerFailure: it was not started; the message says why.
        """
        number = self._number()
        pid, pidfd = await self._ask("dnsmasq", number, [bridge], [])
        return process.Process(pid, pidfd)

    async def start_hook(
        self,
        name: str,
        argument: str,
        environment: Mapping[str, str],
        seconds: float,
        fds: tuple[int, int, int],
    ) -> Hook:
        """Start a hook.

        :param name: of the file in hooks.d.
        :param environment: TAPSTER_* alone; PATH is the spawner's.
        :param seconds: after which it is killed, and all that it has started.
        :param fds: the file itself, its stdin, and where it writes to; they
            stay the caller's.
        :raises BrokerFailure: it was not started; the message says why.
        """
        words = [name, f"{seconds:.3f}", argument]
        words += [f"{key}={value}" for key, value in environment.items()]
        number = self._number()
        ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self._running[number] = ended
        try:
            pid, pidfd = await self._ask("hook", number, words, list(fds))
        except BaseException:
            del self._running[number]
            raise
        return Hook(pid, pidfd, ended)

    def signal(self, running: process.Process, number: signal.Signals) -> None:
        """Signal a dnsmasq, which may be another user's; nothing happens if it is
        gone."""
        data = f"signal\0\0{number.name}".encode()
        try:
            socket.send_fds(self._control, [data], [running.pidfd])
        except OSError:
            try:
                running.send_signal(number)
            except PermissionError as err:
                _log.error("dnsmasq %d could not be signalled: %s", running.pid, err)

    def executable(self, directory: int) -> str | None:
        """The file that a process runs; None if it is not to be known.

        :param directory: of the process, in /proc.
        """
        if self._questions.fileno() < 0:
            return None
        try:
            socket.send_fds(self._questions, [b"?"], [directory])
            answer = self._questions.recv(os.pathconf("/", "PC_PATH_MAX"))
        except OSError:
            self._questions.close()  # it may be late, and answer another question
            return None
        return None if answer in (b"", b"\0") else os.fsdecode(answer)

    def _number(self) -> str:
        self._count += 1
        return str(self._count)

    async def _ask(
        self, what: str, number: str, words: list[str], fds: list[int]
    ) -> tuple[int, int]:
        if self._lost is None:
            raise BrokerFailure("the broker ends")
        if any("\0" in word for word in words):
            raise BrokerFailure("a NUL in what a program is told")
        data = "\0".join([what, number, *words]).encode("utf-8", "surrogateescape")
        asked: asyncio.Future[tuple[int, int]]
        asked = asyncio.get_running_loop().create_future()
        self._asked[number] = asked
        try:
            # It reads at once, or is dead: what waits to be read is a program
            # being started.
            while True:
                try:
                    socket.send_fds(self._control, [data], fds)
                    break
                except BlockingIOError:
                    await asyncio.sleep(0.001)
            return await asyncio.shield(asked)
        except asyncio.CancelledError:
            asked.add_done_callback(lambda asked: self._end_unwanted(number, asked))
            raise
        except OSError as err:
            raise BrokerFailure(f"no program can be started: {err}") from err
        finally:
            if asked.done():
                self._asked.pop(number, None)

    # Answers

    def _hear(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self._control, spawner.MAX_MESSAGE, 1)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        if not data:
            self._died()
            return
        for fd in fds:
            os.set_inheritable(fd, False)
        what, number, *rest = data.decode("utf-8", "replace").split("\0")
        asked = self._asked.pop(number, None)
        if what == "started" and asked is not None and fds:
            asked.set_result((int(rest[0]), fds[0]))
            return
        if what == "started" and asked is not None:
            self._end(number)
            asked.set_exception(BrokerFailure("no descriptor for another program"))
        for fd in fds:
            os.close(fd)
        if what == "refused" and asked is not None:
            asked.set_exception(BrokerFailure(rest[0]))
        elif what == "ended":
            ended = self._running.pop(number, None)
            if ended is not None and not ended.done():
                ended.set_result(Ended(int(rest[0]), bool(rest[1])))

    def _died(self) -> None:
        asyncio.get_running_loop().remove_reader(self._control)
        self.is_lost = True
        lost, self._lost = self._lost, None
        _log.critical("the process that starts programs has died")
        self._fail("the process that starts programs has died")
        if lost is not None:
            lost()

    def _fail(self, reason: str) -> None:
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(BrokerFailure(reason))
        for ended in self._running.values():
            if not ended.done():
                ended.set_exception(BrokerFailure(reason))
                ended.exception()  # whether or not anybody waits for it
        self._asked.clear()
        self._running.clear()

    def _end_unwanted(
        self, number: str, asked: asyncio.Future[tuple[int, int]]
    ) -> None:
        """A program that nobody waits for any more."""
        if not asked.cancelled() and asked.exception() is None:
            os.close(asked.result()[1])
            self._end(number)

    def _end(self, number: str) -> None:
        try:
            self._control.send(f"end\0{number}".encode())
        except OSError as err:
            _log.error("a program goes on that nobody wants: %s", err)
