# SPDX-License-Identifier: LGPL-2.1-or-later
"""What program a caller's process runs, for the audit record."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

_TICKS = os.sysconf("SC_CLK_TCK")  # a second, of starttime in /proc/PID/stat


class Program(NamedTuple):
    """What a process runs; None where that is not to be known."""

    executable: str | None = None
    command: str | None = None


UNKNOWN = Program()


def read_executable(process: int) -> str | None:
    """The path of a process's executable; None where we may not read it, which takes
    the right to trace the process (proc(5)): mostly, to be root.

    :param process: a descriptor of its directory in /proc.
    """
    try:
        return os.fsdecode(os.readlink(b"exe", dir_fd=process))
    except OSError:
        return None


class ProgramReader:
    """Looks up what processes run."""

    def __init__(
        self, executable: Callable[[int], str | None] = read_executable
    ) -> None:
        """:param executable: reads the path of an executable, as `read_executable`;
        another function where another process may read more than this one.
        """
        self._executable = executable

    def read(self, pid: int, uid: int, since: int) -> Program:
        """What a process runs now, if it is the one that asked.

        Another process may have its pid by now. That one is known by having started
        later, to a hundredth of a second, or by being another user's.

        :param pid: the caller's.
        :param uid: the caller's.
        :param since: when the caller existed, in nanoseconds of CLOCK_BOOTTIME.
        """
        try:
            # Stays that process's directory, whoever has the pid next.
            process = os.open(
                f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
            )
        except OSError:
            return UNKNOWN
        try:
            command, started = _parse(_read_stat(process))
            late = started > since * _TICKS // 1_000_000_000
            # The directory is the effective user's, even where its files are root's.
            if late or os.fstat(process).st_uid != uid:
                return UNKNOWN
            path = self._executable(process)
            executable = _text(os.fsencode(path)) if path is not None else None
            return Program(executable, _text(command))
        except (OSError, ValueError, IndexError):
            return UNKNOWN
        finally:
            os.close(process)


def _parse(stat: bytes) -> tuple[bytes, int]:
    """The command's name, which may have any bytes in it, and when the process
    started, in ticks since boot: of /proc/PID/stat.

    :raises ValueError, IndexError: this is no such file.
    """
    start = stat.index(b"(") + 1
    end = stat.rindex(b")")
    return stat[start:end], int(stat[end + 2 :].split(None, 20)[19])


def _read_stat(process: int) -> bytes:
    fd = os.open("stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")
