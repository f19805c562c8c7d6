# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs one executable to its end: feeds it, listens to it, and limits its time.

What is run is a descriptor that was checked, never a path: between a check and an
execve(2) a path can come to mean another file. No shell is involved, and nothing that
a caller chose is on the command line. The input is written before the executable
starts, so that one that does not read keeps nobody waiting. The output is told line by
line, up to a limit. The spawner starts the executable, and kills what is left of it
when it has ended or when its time is over.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import NamedTuple

from ....errors import BrokerFailure
from ...process.programs import Ended, Hook, Programs
from ...process.spawned.hook import MARK, processes_with

STDIN_LIMIT = 32 * 1024  # bytes; a pipe takes 64 KiB without waiting
LINES = 100  # of one run's output that are told
LINE = 1000  # bytes of a line that are told

_READ = 64 * 1024
_LAST_READS = 64  # after the end; the pipe may hold that much, and no more
_KILL_LIMIT = 3.0  # seconds for the kernel to end what was killed
_POLL = 0.01  # seconds


class Lines:
    """Output, cut into lines. Lines beyond `LINES` are counted and left out."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        """:param tell: is given each line."""
        self._tell = tell
        self._rest = b""
        self._count = 0
        self.last = ""  # the last line that says anything

    def feed(self, data: bytes) -> None:
        """Take more of the output."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            self._line(line)
        if len(self._rest) > LINE:  # no more than that would be told, anyway
            self._rest = self._rest[: LINE + 1]

    def finish(self) -> None:
        """Tell what is left when the output has ended."""
        if self._rest:
            self._line(self._rest)
        self._rest = b""
        if self._count > LINES:
            self._tell(f"... and {self._count - LINES} more lines")

    def _line(self, line: bytes) -> None:
        if not line.strip():
            return
        self._count += 1
        cut = "..." if len(line) > LINE else ""
        self.last = line[:LINE].decode("utf-8", "backslashreplace").rstrip() + cut
        if self._count <= LINES:
            self._tell(self.last)


class Order(NamedTuple):
    """What is to be run, and how."""

    name: str  # of the file in hooks.d
    fd: int  # of the file, checked; the caller closes it
    argument: str
    environment: Mapping[str, str]
    stdin: bytes  # at most `STDIN_LIMIT`
    seconds: float  # that the run may take


async def run(
    programs: Programs,
    order: Order,
    tell: Callable[[str], None],
    started: Callable[[], None] = lambda: None,
) -> str | None:
    """Run an executable to its end.

    :param programs: starts it.
    :param order: what is run, and how.
    :param tell: is given each line of its output.
    :param started: is called when `order.fd` is not needed any more.
    :returns: None if the executable ended with status 0; otherwise how it ended, and
        the last line that it wrote.
    :raises BrokerFailure: it was not started.
    """
    output, hook = await _start(programs, order)
    lines = Lines(tell)
    loop = asyncio.get_running_loop()

    def listen() -> None:
        if _read(output, lines) == 0:
            loop.remove_reader(output)  # its output is closed; it may still run

    loop.add_reader(output, listen)
    try:
        os.close(hook.pidfd)
        started()
        # When the broker ends this is cancelled, and the spawner kills what runs.
        await asyncio.wait([hook.ended], timeout=order.seconds + _KILL_LIMIT)
        if not hook.ended.done():
            return f"took longer than {order.seconds:g} s and can't be killed"
        ended = hook.ended.result()
        for _ in range(_LAST_READS):
            if not _read(output, lines):
                break
        lines.finish()
    finally:
        loop.remove_reader(output)
        os.close(output)
    return _verdict(ended, order.seconds, lines.last)


async def _start(programs: Programs, order: Order) -> tuple[int, Hook]:
    """
    :returns: the reading end of its output, which the caller closes; and the process.
    :raises BrokerFailure: it was not started.
    """
    if len(order.stdin) > STDIN_LIMIT:
        raise BrokerFailure("it would be told too much")
    with ExitStack() as stack:
        try:
            feed, fill = os.pipe2(os.O_CLOEXEC)
            stack.callback(os.close, feed)
            try:
                # A user who has very many pipes gets small ones: pipe(7), on limits.
                os.set_blocking(fill, False)
                written = os.write(fill, order.stdin)
            finally:
                os.close(fill)
            if written < len(order.stdin):
                raise BrokerFailure("a pipe does not take what it would be told")
            output, say = os.pipe2(os.O_CLOEXEC)
            stack.callback(os.close, say)
        except OSError as err:
            raise BrokerFailure(f"no pipe: {err.strerror}") from err
        os.set_blocking(output, False)
        try:
            fds = order.fd, feed, say
            return output, await programs.start_hook(
                order.name, order.argument, order.environment, order.seconds, fds
            )
        except BaseException:
            os.close(output)
            raise


def _read(output: int, lines: Lines) -> int | None:
    """:returns: the bytes that were read; 0 at the end, None if there are none yet."""
    try:
        data = os.read(output, _READ)
    except BlockingIOError:
        return None
    lines.feed(data)
    return len(data)


def _verdict(ended: Ended, seconds: float, last: str) -> str | None:
    if ended.is_late:
        text = f"took longer than {seconds:g} s and was killed"
    elif ended.status < 0:
        text = f"was killed by signal {-ended.status}"
    elif ended.status > 0:
        text = f"ended with status {ended.status}"
    else:
        return None
    return f"{text}: {last}" if last else text


def kill_leftovers(directory: str) -> None:
    """Kill the hooks of an earlier broker whose spawner died with it, and wait until
    they have ended.

    :param directory: their runs have a `MARK` below it.
    """
    wanted = f"{MARK}={directory}/".encode()
    # Another broker, in another network namespace, can have a directory of that name.
    here, user = os.stat("/proc/self/ns/net"), os.geteuid()
    killed: list[int] = []
    for pid, pidfd in processes_with(lambda entry: entry.startswith(wanted), user):
        try:
            if os.path.samestat(os.stat(f"/proc/{pid}/ns/net"), here):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                killed.append(os.dup(pidfd))
        except OSError:
            pass  # it has ended
    _wait_for_ends(killed)


def _wait_for_ends(pidfds: list[int]) -> None:
    """:param pidfds: are closed."""
    poll = select.poll()
    for pidfd in pidfds:
        poll.register(pidfd, select.POLLIN)
    deadline = time.monotonic() + _KILL_LIMIT
    while pidfds and time.monotonic() < deadline:
        for pidfd, _ in poll.poll(_POLL * 1000):
            poll.unregister(pidfd)
            pidfds.remove(pidfd)
            os.close(pidfd)
    for pidfd in pidfds:
        os.close(pidfd)
