# SPDX-License-Identifier: LGPL-2.1-or-later
"""Processes, held by a descriptor: a pid may be another process's by now.

pidfd_open(2), pidfd_send_signal(2), prctl(2), capabilities(7), proc(5).
"""

from __future__ import annotations

import ctypes
import os
import select
import signal

from .libc import libc, oserror

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2

CAP_SETUID = 7
CAP_NET_BIND_SERVICE = 10
CAP_NET_ADMIN = 12
CAP_NET_RAW = 13

COMMAND_LINE = 16 * 1024  # bytes; no program that we start has as many


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0) -> None:
    """prctl(2); the fifth argument is zero.

    :param option: PR_*.
    :param arg2: the second argument. Its meaning depends on the option.
    :param arg3: the third argument, likewise.
    :param arg4: the fourth argument, likewise.
    :raises OSError: the kernel refused.
    """
    args = [ctypes.c_ulong(value) for value in (arg2, arg3, arg4, 0)]
    if libc.prctl(option, *args) < 0:
        raise oserror(f"prctl {option}")


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if it is gone.

    The start time and the pid together name one process for as long as the machine
    runs.
    """
    fields = _stat(pid)
    return int(fields[19]) if fields and fields[0] not in ("Z", "X") else None


def parent(pid: int) -> int | None:
    """The parent's pid, as the kernel tells it; None if the process is gone."""
    fields = _stat(pid)
    return int(fields[1]) if fields else None


def command_name(pid: int) -> str:
    """The program's name as ps shows it, "" if the process is gone. The process itself
    can change it."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return ""


def command_line(pid: int) -> list[bytes]:
    """The words of a process's command line, of which COMMAND_LINE bytes are read: any
    user can have prctl(2) say that it is all of a process's memory.

    :raises OSError: there is no such process.
    """
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read(COMMAND_LINE).split(b"\0")


def user_ids(pid: int) -> tuple[int, int] | None:
    """The real and the effective uid; None if the process is gone."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("Uid:"):
                    real, effective = line.split()[1:3]
                    return int(real), int(effective)
    except (FileNotFoundError, ProcessLookupError):
        pass
    return None


def has_ended(pidfd: int) -> bool:
    """Whether the process of a pidfd has ended, reaped or not."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _stat(pid: int) -> list[str] | None:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def effective_capabilities() -> int:
    """The calling process's effective set, as a bit mask."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16)
    return 0


def has_capability(number: int) -> bool:
    """Whether a capability is in the calling process's effective set."""
    return bool(effective_capabilities() >> number & 1)


class Process:
    """One process, held by a pidfd. `close()` closes the descriptor only."""

    def __init__(self, pid: int, pidfd: int | None = None) -> None:
        """
        :param pid: of the process.
        :param pidfd: a descriptor of it, which becomes this object's; None: one is
            opened.
        :raises ProcessLookupError: there is no such process. A process that has ended
            and was not reaped is one: ask `has_ended`, or `reap` it.
        """
        self.pid = pid
        self.pidfd = os.pidfd_open(pid) if pidfd is None else pidfd

    def send_signal(self, number: signal.Signals) -> None:
        """Signal the process; nothing happens if it is gone."""
        if self.pidfd >= 0:
            try:
                signal.pidfd_send_signal(self.pidfd, number)
            except ProcessLookupError:
                pass

    def reap(self) -> int | None:
        """Reap the process.

        :returns: its exit status; None: it runs, or is not our child.
        """
        try:
            result = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            return None
        return result.si_status if result else None

    def close(self) -> None:
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
