# SPDX-License-Identifier: LGPL-2.1-or-later
"""One executable, run to its end: fed, listened to, and never for too long.

What is run is a descriptor that was checked, never a path: between a check and
an execve(2) a path can come to mean another file. There is no shell and nothing
of a caller's on the command line. What it is to know comes on stdin, written
before it starts, so that one that does not read keeps nobody waiting; what it
says goes line by line to whoever wants it, within a measure. The spawner starts
it, and kills what is left of it at its end or at its time's.
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
LINES = 100  # of one run that are told
LINE = 1000  # bytes of a line that are told

_READ = 64 * 1024
_LAST_READS = 64  # after the end: what a pipe holds, and no more than that
_KILL_LIMIT = 3.0  # seconds for the kernel to end what was killed
_POLL = 0.01


class Lines:
    """Output, cut into lines; more than `LINES` are counted and left out."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._rest = b""
        self._count = 0
        self.last = ""  # the last that says anything

    def feed(self, data: bytes) -> None:
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            self._line(line)
        if len(self._rest) > LINE:  # of one without an end the first is enough
            self._rest = self._rest[: LINE + 1]

    def finish(self) -> None:
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
    fd: int  # of it, checked; the caller's
    argument: str
    environment: Mapping[str, str]
    stdin: bytes  # at most `STDIN_LIMIT`
    seconds: float  # that it may take


async def run(
    programs: Programs,
    order: Order,
    tell: Callable[[str], None],
    started: Callable[[], None] = lambda: None,
) -> str | None:
    """Run it to its end.

    :param tell: is given each line of its output.
    :param started: called when `order.fd` is not needed any more.
    :returns: None if it ended with status 0, else what it did, with the last
        line that it said.
    :raises BrokerFailure: it was not started.
    """
    output, hook = await _start(programs, order)
    lines = Lines(tell)
    loop = asyncio.get_running_loop()

    def listen() -> None:
        if _read(output, lines) == 0:
            loop.remove_reader(output)  # it closed both; its end is another matter

    loop.add_reader(output, listen)
    try:
        os.close(hook.pidfd)
        started()
        # Cancelled when the broker ends, and the spawner ends it then.
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
    :returns: the reading end of its output, which the caller closes, and it.
    :raises BrokerFailure: it was not started.
    """
    if len(order.stdin) > STDIN_LIMIT:
        raise BrokerFailure("it would be told too much")
    with ExitStack() as stack:
        try:
            feed, fill = os.pipe2(os.O_CLOEXEC)
            stack.callback(os.close, feed)
            try:
                # Who has very many pipes gets small ones: pipe(7), on limits.
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
    """How many bytes there were; 0 at the end, None if there are none yet."""
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


def end_marked(directory: str) -> int:
    """Kill every process of ours in this network namespace whose `MARK` is below
    that directory: hooks of an earlier broker whose spawner died with it.

    :returns: how many there were.
    """
    wanted = f"{MARK}={directory}/".encode()
    here, we, killed = os.stat("/proc/self/ns/net"), os.geteuid(), []
    for pid, pidfd in processes_with(lambda entry: entry.startswith(wanted)):
        try:
            if os.stat(f"/proc/{pid}").st_uid != we:
                continue
            if os.path.samestat(os.stat(f"/proc/{pid}/ns/net"), here):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                killed.append(os.dup(pidfd))
        except OSError:
            pass  # it ended
    _until_ended(killed)
    return len(killed)


def _until_ended(pidfds: list[int]) -> None:
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
