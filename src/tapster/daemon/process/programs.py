# SPDX-License-Identifier: LGPL-2.1-or-later
"""The broker's end of the spawner: asks it to start programs, and hears how they end.

The broker may not start a program itself (sandbox.py). Each request has a number;
the spawner answers it with `started` or `refused`, and a hook later with `ended`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ...errors import BrokerFailure
from ...kernel import process
from .spawner import MAX_MESSAGE
from .spawner_process import SpawnerProcess

_log = logging.getLogger(__name__)

_ANSWER_LIMIT = 1.0  # seconds for the answer to a question, which takes some 50 µs


class Ended(NamedTuple):
    """How a program ended."""

    status: int  # negative: by that signal
    is_late: bool  # it was killed because its time was over


class Hook(NamedTuple):
    """A running hook. Whoever gets it closes the pidfd."""

    pid: int
    pidfd: int
    ended: asyncio.Future[Ended]


class Programs:
    """Starts dnsmasq and hooks through the spawner, in the running event loop."""

    def __init__(self, spawner: SpawnerProcess, on_lost: Callable[[], None]) -> None:
        """
        :param spawner: the caller closes it, after the event loop has ended.
        :param on_lost: called when the spawner has died: nothing can be started any
            more.
        """
        self.user = spawner.user
        self.capabilities = process.effective_capabilities()  # dnsmasq has them, too
        self.is_lost = False
        self._on_lost = on_lost
        self._control = spawner.control
        self._questions = spawner.questions
        self._count = 0
        # By the number of the request: what waits for it to be answered, and hooks
        # that run.
        self._asked: dict[str, asyncio.Future[tuple[int, int]]] = {}
        self._running: dict[str, asyncio.Future[Ended]] = {}
        self._questions.settimeout(_ANSWER_LIMIT)
        self._control.setblocking(False)
        asyncio.get_running_loop().add_reader(self._control, self._read_answer)

    # Requests

    async def start_dnsmasq(self, bridge: str) -> process.Process:
        """Start dnsmasq on the configuration of that bridge's network.

        :returns: the process, which the caller closes.
        :raises BrokerFailure: it was not started; the message says why.
        """
        number = self._next_number()
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
        :param argument: the hook's only one, e.g. ``attach``.
        :param environment: variables TAPSTER_*; the spawner adds PATH and LC_ALL.
        :param seconds: after these the hook is killed, with all that it has started.
        :param fds: the file itself, the hook's stdin, and where its stdout and stderr
            go; the caller closes them.
        :raises BrokerFailure: it was not started; the message says why.
        """
        words = [name, f"{seconds:.3f}", argument]
        words += [f"{key}={value}" for key, value in environment.items()]
        number = self._next_number()
        ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self._running[number] = ended
        try:
            pid, pidfd = await self._ask("hook", number, words, list(fds))
        except BaseException:
            del self._running[number]
            raise
        return Hook(pid, pidfd, ended)

    def signal(self, running: process.Process, number: signal.Signals) -> None:
        """Send a signal to a dnsmasq, which may run as another user. If that process
        has ended, nothing happens."""
        data = f"signal\0\0{number.name}".encode()
        try:
            socket.send_fds(self._control, [data], [running.pidfd])
        except OSError:
            try:
                running.send_signal(number)
            except PermissionError as err:
                _log.error("dnsmasq %d could not be signalled: %s", running.pid, err)

    def executable(self, directory: int) -> str | None:
        """Find out which file a process runs.

        :param directory: descriptor of the process's directory in /proc.
        :returns: the path; None if it can't be found out.
        """
        if self._questions.fileno() < 0:
            return None
        try:
            socket.send_fds(self._questions, [b"?"], [directory])
            answer = self._questions.recv(os.pathconf("/", "PC_PATH_MAX"))
        except OSError:
            # A late answer would be taken for that to the next question.
            self._questions.close()
            return None
        return None if answer in (b"", b"\0") else os.fsdecode(answer)

    def _next_number(self) -> str:
        self._count += 1
        return str(self._count)

    async def _ask(
        self, what: str, number: str, words: list[str], fds: list[int]
    ) -> tuple[int, int]:
        """Have a program started.

        :param what: ``dnsmasq`` or ``hook``.
        :param words: without a NUL; spawner.py says which belong to which request.
        :param fds: sent along.
        :returns: its pid and a pidfd, which the caller closes.
        :raises BrokerFailure: it was not started; the message says why.
        """
        if self.is_lost:
            raise BrokerFailure("the broker ends")
        if any("\0" in word for word in words):
            raise BrokerFailure("a NUL in what a program is told")
        data = "\0".join([what, number, *words]).encode("utf-8", "surrogateescape")
        asked: asyncio.Future[tuple[int, int]]
        asked = asyncio.get_running_loop().create_future()
        self._asked[number] = asked
        try:
            await self._send(data, fds)
            return await asyncio.shield(asked)
        except asyncio.CancelledError:
            asked.add_done_callback(lambda asked: self._end_unwanted(number, asked))
            raise
        except OSError as err:
            raise BrokerFailure(f"no program can be started: {err}") from err
        finally:
            if asked.done():
                self._asked.pop(number, None)

    async def _send(self, data: bytes, fds: list[int]) -> None:
        """Send a request, once there is room for it.

        The spawner reads a request as soon as it has started the program of the one
        before, so the wait is short; if it is dead, sending fails.

        :raises OSError: the spawner is dead.
        """
        while True:
            try:
                socket.send_fds(self._control, [data], fds)
                return
            except BlockingIOError:
                await asyncio.sleep(0.001)

    # Answers

    def _read_answer(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self._control, MAX_MESSAGE, 1)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        if not data:
            self._handle_death()
            return
        for fd in fds:
            os.set_inheritable(fd, False)
        what, number, *rest = data.decode("utf-8", "replace").split("\0")
        if what == "ended":
            self._handle_ended(number, Ended(int(rest[0]), bool(rest[1])))
        asked = self._asked.pop(number, None)
        if what == "started" and asked is not None and fds:
            asked.set_result((int(rest[0]), fds[0]))
            return  # whoever asked has the descriptor now
        for fd in fds:
            os.close(fd)
        if what == "started" and asked is not None:
            self._end(number)
            asked.set_exception(BrokerFailure("no descriptor for another program"))
        elif what == "refused" and asked is not None:
            asked.set_exception(BrokerFailure(rest[0]))

    def _handle_ended(self, number: str, how: Ended) -> None:
        ended = self._running.pop(number, None)
        if ended is not None and not ended.done():
            ended.set_result(how)

    def _handle_death(self) -> None:
        """The spawner has died: fail what waits for it."""
        asyncio.get_running_loop().remove_reader(self._control)
        self.is_lost = True
        reason = "the process that starts programs has died"
        _log.critical(reason)
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(BrokerFailure(reason))
        for ended in self._running.values():
            if not ended.done():
                ended.set_exception(BrokerFailure(reason))
                ended.exception()  # seen, even if nobody waits for it
        self._asked.clear()
        self._running.clear()
        self._on_lost()

    def _end_unwanted(
        self, number: str, asked: asyncio.Future[tuple[int, int]]
    ) -> None:
        """Kill a program that was started for a request that was cancelled."""
        if not asked.cancelled() and asked.exception() is None:
            os.close(asked.result()[1])
            self._end(number)

    def _end(self, number: str) -> None:
        try:
            self._control.send(f"end\0{number}".encode())
        except OSError as err:
            _log.error("a program goes on that nobody wants: %s", err)
