# SPDX-License-Identifier: LGPL-2.1-or-later
"""Makes the process independent of whoever started it.

A daemon that is started by hand, by cron or by somebody who means harm inherits
what they left it: open descriptors, ignored or blocked signals, a strange umask,
tight resource limits. What can be corrected is corrected; for what can't be, the
daemon refuses to start and says why.
"""

from __future__ import annotations

import logging
import os
import resource
import signal

from ...errors import BrokerUnavailable
from ...kernel import capabilities, process

_log = logging.getLogger(__name__)

# Files for dnsmasq are for its group to read (networks/dnsmasq.py).
UMASK = 0o027
DESCRIPTORS = 65536

# Environment variables that we or our libraries read. All others are removed, so
# that no program that we start inherits them.
_VARIABLES = frozenset(
    (
        *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR"),
        *("NOTIFY_SOCKET", "JOURNAL_STREAM", "INVOCATION_ID"),
        *("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"),
        "DBUS_SYSTEM_BUS_ADDRESS",
    )
)
_PREFIXES = ("LC_", "XDG_", "TAPSTER_")

_MINIMUMS = {  # resource: least amount, what is counted, the shell's command for it
    resource.RLIMIT_NOFILE: (256, "descriptors", "ulimit -n"),
    resource.RLIMIT_FSIZE: (16 << 20, "bytes in a file", "ulimit -f"),
    resource.RLIMIT_AS: (512 << 20, "bytes of memory", "ulimit -v"),
    resource.RLIMIT_DATA: (256 << 20, "bytes of data", "ulimit -d"),
}


def close_descriptors() -> None:
    """Close every descriptor but the standard ones and a service manager's sockets.

    A standard descriptor that is missing becomes /dev/null. Otherwise the next file
    that is opened would take its number, and what is printed would go into it.
    """
    first = 3
    if os.environ.get("LISTEN_PID") == str(os.getpid()):
        count = os.environ.get("LISTEN_FDS", "")
        if count.isdecimal():
            first += min(int(count), 1024)
    os.closerange(first, 1 << 30)
    while True:
        fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        if fd > 2:
            os.close(fd)
            return
        os.set_inheritable(fd, True)


def sanitize() -> None:
    """Put everything but descriptors into a known state: signals, umask, working
    directory, environment, limits, groups, priority.

    Call it once the log is set up and relative paths have been made absolute.

    :raises BrokerUnavailable: a resource limit is too low.
    """
    _reset_signals()
    os.umask(UMASK)
    os.chdir("/")
    for name in set(os.environ):
        if name not in _VARIABLES and not name.startswith(_PREFIXES):
            del os.environ[name]
    _check_limits()
    _drop_groups()
    _restore_priority()


def raise_descriptor_limit() -> None:
    """Allow ourselves as many descriptors as we may have, DESCRIPTORS at most: a
    forward holds two, and no user's share is to be another's shortage. Programs that
    the broker starts close what they inherit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, DESCRIPTORS) if hard >= 0 else DESCRIPTORS
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _reset_signals() -> None:
    """Give ignored signals their default action, and unblock all of them.

    SIGPIPE and SIGXFSZ stay ignored: Python does that so that they become errors.
    """
    for number in signal.valid_signals():
        if number in (signal.SIGPIPE, signal.SIGXFSZ):
            continue
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _check_limits() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # it would hold users' data
    for which, (least, what, command) in _MINIMUMS.items():
        soft, hard = resource.getrlimit(which)
        if _is_enough(soft, least):
            continue
        if not _is_enough(hard, least):
            raise BrokerUnavailable(
                f"{hard} {what} are too few: {least} are needed", f"see {command}"
            )
        resource.setrlimit(which, (least, hard))


def _is_enough(value: int, least: int) -> bool:
    return value == resource.RLIM_INFINITY or value >= least


def _drop_groups() -> None:
    """Give up root's supplementary groups: they open files that are not ours."""
    if os.geteuid() == 0 and process.has_capability(capabilities.SETGID):
        try:
            os.setgroups([])
        except PermissionError:
            pass  # in a user namespace that an unprivileged user made


def _restore_priority() -> None:
    """Undo nice(1): every user's attach waits for this process."""
    if os.getpriority(os.PRIO_PROCESS, 0) > 0:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, 0)
        except PermissionError:
            _log.warning("started with a low priority (nice), which stays")
