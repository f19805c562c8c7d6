# SPDX-License-Identifier: LGPL-2.1-or-later
"""Starts a hook, and kills it with all that it has started.

What is run is a file of the administrator's directory that nobody else could have
written: neither a broker that lies, nor another user.
"""

from __future__ import annotations

import os
import re
import signal
import stat
from collections.abc import Callable, Iterator

from . import DEFAULT_PATH, DEFAULT_SIGNALS, Refused

MARK = "TAPSTER_RUN"  # a variable in each hook's environment, different for each run
MAX_SECONDS = 3600.0  # that a hook may take
# Bytes of a process's environment that are looked at. execve(2) takes 6 MiB at most,
# but prctl(2) lets any user say that it is all of a process's memory.
MAX_ENVIRONMENT = 8 << 20

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_ARGUMENT = re.compile(r"[A-Za-z0-9_-]{1,32}")
_VARIABLE = re.compile(r"(TAPSTER_[A-Z0-9_]+)=([^\0]*)", re.DOTALL)


class Started:
    """A hook that runs. It leads a session and a process group of its own."""

    def __init__(self, pid: int, seconds: float, mark: str) -> None:
        """
        :param pid: its own.
        :param seconds: that it may take.
        :param mark: an entry of its environment, which its children inherit; or empty.
        """
        self.pid = pid
        self.seconds = seconds
        self.mark = mark


def start(words: list[str], fds: list[int], directory: str) -> Started:
    """Start a hook.

    :param words: the file's name, the seconds it may take, its argument, and then
        variables as NAME=VALUE.
    :param fds: the file itself, the hook's stdin, and its output.
    :param directory: the hooks'.
    :raises Refused: one of the words is not allowed, or the file is not trusted.
    :raises OSError: the file can't be run.
    :raises ValueError: the seconds are not a number.
    """
    name, seconds, argument, *variables = words
    _check_file(name, fds[0], directory)
    if not _ARGUMENT.fullmatch(argument):
        raise Refused("not an argument of a hook")
    environment = {"PATH": DEFAULT_PATH, "LC_ALL": "C.UTF-8"}
    for text in filter(None, variables):
        found = _VARIABLE.fullmatch(text)
        if found is None:
            raise Refused("not a variable of a hook")
        environment[found[1]] = found[2]
    limit = min(float(seconds), MAX_SECONDS)
    if not limit >= 0:  # "nan" is not, either; a hook with it would never be late
        raise Refused("not a time that a hook may take")
    before = os.umask(0o022)
    try:
        pid = _spawn([f"{directory}/{name}", argument], environment, fds)
    finally:
        os.umask(before)
    mark = f"{MARK}={environment[MARK]}" if MARK in environment else ""
    return Started(pid, limit, mark)


def _check_file(name: str, executable: int, directory: str) -> None:
    """
    :raises Refused: the descriptor is not the file of that name, or others than root
        and our own user could have written the file.
    """
    if not _NAME.fullmatch(name):
        raise Refused(f"not a hook's name: {name[:64]!r}")
    parent = os.stat(directory, follow_symlinks=False)
    there = os.stat(f"{directory}/{name}", follow_symlinks=False)
    given = os.fstat(executable)
    if (there.st_dev, there.st_ino) != (given.st_dev, given.st_ino):
        raise Refused(f"{name} is not in the hooks' directory")
    if not stat.S_ISREG(given.st_mode) or not stat.S_ISDIR(parent.st_mode):
        raise Refused(f"{name} is no regular file in a directory")
    for status in (parent, given):
        if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
            raise Refused(f"others than root may write to {name}")


def _spawn(command: list[str], environment: dict[str, str], fds: list[int]) -> int:
    executable, stdin, output = fds
    return os.posix_spawn(
        # The descriptor that was checked; a script's interpreter opens it again.
        "/proc/self/fd/3",
        command,
        environment,
        file_actions=[
            (os.POSIX_SPAWN_DUP2, stdin, 0),
            (os.POSIX_SPAWN_DUP2, output, 1),
            (os.POSIX_SPAWN_DUP2, output, 2),
            (os.POSIX_SPAWN_DUP2, executable, 3),
        ],
        setsid=True,
        setsigmask=(),
        setsigdef=DEFAULT_SIGNALS,
    )


def kill_group(leader: int) -> None:
    """Kill what is left of a process group.

    The leader must not have been waited for: only until then no other group can have
    its number.
    """
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # nobody is left, or whoever is has changed its user


def kill_marked(mark: str) -> None:
    """Kill every process that has this entry in its environment and may be killed:
    what a hook has started, even in sessions of its own.

    :param mark: NAME=VALUE.
    """
    wanted = mark.encode("utf-8", "surrogateescape")
    for _, pidfd in processes_with(wanted.__eq__):
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except OSError:
            pass  # it has ended, or is another user's


def processes_with(
    matches: Callable[[bytes], bool], user: int | None = None
) -> Iterator[tuple[int, int]]:
    """Find processes by their environment, this one aside.

    :param matches: decides about one entry, NAME=VALUE.
    :param user: the uid of those that are looked at; None: all.
    :returns: pid and pidfd of each process that has a matching entry; the pidfd is
        open until the next one is asked for.
    """
    for name in os.listdir("/proc"):
        if not name.isdecimal() or int(name) == os.getpid():
            continue
        try:
            # Opened first: whatever is read afterwards is of this process, or of
            # none.
            pidfd = os.pidfd_open(int(name))
        except OSError:
            continue
        try:
            if user is None or os.stat(f"/proc/{name}").st_uid == user:
                found = any(map(matches, _environment(name)))
            else:
                found = False
        except OSError:
            found = False  # it has ended, or is not ours to look at
        try:
            if found:
                yield int(name), pidfd
        finally:
            os.close(pidfd)


def _environment(pid: str) -> list[bytes]:
    """:raises OSError: there is no such process, or we may not look at it."""
    with open(f"/proc/{pid}/environ", "rb") as file:
        return file.read(MAX_ENVIRONMENT).split(b"\0")
