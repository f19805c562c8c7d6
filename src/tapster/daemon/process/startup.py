# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a process has from whoever started it, checked and put right.

A daemon that is started by hand, by cron or by somebody who means harm has what
they left it: descriptors, signals that are ignored or held back, a strange
umask, too little of everything. What can be put right is; what can't is said.
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

# What we, or libraries of ours, look at. The rest is not ours to hand on.
_VARIABLES = frozenset(
    (
        *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR"),
        *("NOTIFY_SOCKET", "JOURNAL_STREAM", "INVOCATION_ID"),
        *("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"),
        "DBUS_SYSTEM_BUS_ADDRESS",
    )
)
_PREFIXES = ("LC_", "XDG_", "TAPSTER_")

_LEAST = {  # of what, how much, and why
    resource.RLIMIT_NOFILE: (256, "descriptors", "ulimit -n"),
    resource.RLIMIT_FSIZE: (16 << 20, "bytes in a file", "ulimit -f"),
    resource.RLIMIT_AS: (512 << 20, "bytes of memory", "ulimit -v"),
    resource.RLIMIT_DATA: (256 << 20, "bytes of data", "ulimit -d"),
}


def close_descriptors() -> None:
    """Close all but the standard ones, and the sockets of a service manager. Where
    there is no standard one, /dev/null becomes it: the next file that is opened
    would else be taken for standard output."""
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


def put_right() -> None:
    """All the rest, once it is known what we are to do: relative paths are
    absolute by now, and the log is there.

    :raises BrokerUnavailable: we have too little of something.
    """
    _reset_signals()
    os.umask(UMASK)
    os.chdir("/")
    for name in set(os.environ):
        if name not in _VARIABLES and not name.startswith(_PREFIXES):
            del os.environ[name]
    _check_limits()
    _drop_groups()
    _be_no_slower()


def _reset_signals() -> None:
    """None is ignored, as SIGCHLD or SIGHUP can be, or held back. Python itself
    ignores SIGPIPE and SIGXFSZ, which become errors so."""
    for number in signal.valid_signals():
        if number in (signal.SIGPIPE, signal.SIGXFSZ):
            continue
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _check_limits() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # it would hold what all have
    for which, (least, what, command) in _LEAST.items():
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
    """Whatever groups root was in: nobody's files are ours by those."""
    if os.geteuid() == 0 and process.has_capability(capabilities.SETGID):
        try:
            os.setgroups([])
        except PermissionError:
            pass  # in a user namespace of one who is not root


def _be_no_slower() -> None:
    """Everybody's attach waits for us."""
    if os.getpriority(os.PRIO_PROCESS, 0) > 0:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, 0)
        except PermissionError:
            _log.warning("started with a low priority (nice), which stays")
