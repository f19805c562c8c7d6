# SPDX-License-Identifier: LGPL-2.1-or-later
"""Starts dnsmasq on a configuration of which every line is known to be harmless.

Whoever has taken over the broker can write what he likes into dnsmasq.conf. So that
file is read once, checked line by line, and dnsmasq is given a sealed copy.
"""

from __future__ import annotations

import fcntl
import os
import re
import signal

from . import DEFAULT_PATH, DEFAULT_SIGNALS, Refused

MAX_CONFIG = 64 * 1024  # bytes
MAX_COMMAND = 16 * 1024  # bytes of a command line; ours are shorter

_BRIDGE = re.compile(r"tapbr[0-9a-z]{1,10}")
_SIGNALS = {
    "SIGHUP": signal.SIGHUP,
    "SIGTERM": signal.SIGTERM,
    "SIGKILL": signal.SIGKILL,
}

# The lines that dnsmasq may be given. None of them names a program, or a file
# outside the network's own directory.
_WORDS = (
    *("except-interface=lo", "bind-interfaces", "keep-in-foreground", "no-hosts"),
    *("no-ping", "dhcp-authoritative", "dhcp-ignore-names", "domain-needed"),
    *("bogus-priv", "enable-ra", "no-resolv", "log-facility=-"),
)
_VALUES = re.compile(
    r"(domain|local|dhcp-option|dhcp-range|ra-param|server)=[A-Za-z0-9.:,/_-]+"
)


class Account:
    """Whom dnsmasq changes to; both names are empty if it stays who it is."""

    def __init__(self, user: str, group: str) -> None:
        self.user = user
        self.group = group


def check_configuration(
    text: str, bridge: str, directory: str, account: Account
) -> None:
    """Decide whether dnsmasq may be started on this configuration. Pure.

    :param text: of dnsmasq.conf.
    :param bridge: the only device that dnsmasq may serve.
    :param directory: of the network; dnsmasq's files are in there.
    :param account: the one that the configuration has to name.
    :raises Refused: it may not; the message has the line.
    """
    exact = {
        *_WORDS,
        f"interface={bridge}",
        f"pid-file={directory}/dnsmasq.pid",
        f"dhcp-leasefile={directory}/leases",
        f"dhcp-hostsdir={directory}/dhcp",
        f"hostsdir={directory}/hosts",
        f"user={account.user}",
        f"group={account.group}",
    }
    lines = text.split("\n")
    for line in lines:
        if line and line not in exact and not _VALUES.fullmatch(line):
            raise Refused(f"dnsmasq is not started on {line[:80]!r}")
    needed = f"interface={bridge}", f"user={account.user}", f"group={account.group}"
    for line in needed:
        if line not in lines:
            raise Refused(f"dnsmasq is not started without {line!r}")


def find() -> str | None:
    """Find dnsmasq: Debian has it in /usr/sbin, which users' PATHs lack."""
    path = os.environ.get("PATH", DEFAULT_PATH)
    for directory in (*path.split(":"), "/usr/sbin", "/sbin"):
        name = f"{directory}/dnsmasq"
        if name.startswith("/") and os.path.isfile(name) and os.access(name, os.X_OK):
            return name
    return None


def start(bridge: str, networks: str, account: Account) -> int:
    """Start dnsmasq for one network.

    :param bridge: of the network, which its directory is named after.
    :param networks: the directory that networks' directories are in.
    :param account: whom dnsmasq changes to.
    :returns: its pid.
    :raises Refused: its configuration is not one of ours, or it is not installed.
    :raises OSError: something that it needs can't be opened.
    :raises ValueError: its configuration is not UTF-8.
    """
    if not _BRIDGE.fullmatch(bridge):
        raise Refused(f"not a bridge of ours: {bridge[:20]!r}")
    program = find()
    if program is None:
        raise Refused("dnsmasq is not installed")
    directory = f"{networks}/{bridge}"
    parent = os.open(
        directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    )
    opened = [parent]
    try:
        text = _read_configuration(parent)
        check_configuration(text.decode(), bridge, directory, account)
        opened.append(config := _sealed_copy(text))
        opened.append(log := _open_log(parent))
        return _spawn(program, directory, config, log)
    finally:
        for fd in opened:
            os.close(fd)


def _read_configuration(directory: int) -> bytes:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open("dnsmasq.conf", flags, dir_fd=directory), "rb") as file:
        return file.read(MAX_CONFIG)


def _sealed_copy(text: bytes) -> int:
    """Make a file that nobody can change any more: dnsmasq reads what was checked,
    not what is in dnsmasq.conf by then."""
    config = os.memfd_create("dnsmasq.conf", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.write(config, text)
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK
        fcntl.fcntl(config, fcntl.F_ADD_SEALS, seals | fcntl.F_SEAL_SEAL)
    except BaseException:
        os.close(config)
        raise
    return config


def _open_log(directory: int) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open("dnsmasq.log", flags, 0o640, dir_fd=directory)


def _spawn(program: str, directory: str, config: int, log: int) -> int:
    return os.posix_spawn(
        program,
        # By its pid file a dnsmasq is recognised later (networks/dnsmasq.py).
        [
            "dnsmasq",
            "--conf-file=/proc/self/fd/0",
            f"--pid-file={directory}/dnsmasq.pid",
        ],
        {"PATH": DEFAULT_PATH, "LC_ALL": "C"},
        file_actions=[
            (os.POSIX_SPAWN_DUP2, config, 0),
            (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, log, 2),
        ],
        setsid=True,
        setsigmask=(),
        setsigdef=DEFAULT_SIGNALS,
    )


def send_signal(pidfd: int, name: str, networks: str) -> None:
    """Send a signal to a dnsmasq of ours, whoever started it.

    Nothing happens if the process is another program, or has ended: the pidfd holds
    on to the process, so another one with the same pid never gets the signal.

    :param pidfd: of the process.
    :param name: SIGHUP, SIGTERM or SIGKILL.
    :param networks: the directory that networks' directories are in.
    """
    try:
        with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:
            (pid,) = re.findall(r"^Pid:\t(\d+)$", file.read(), re.MULTILINE)
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(MAX_COMMAND).split(b"\0")
        mark = os.fsencode(f"--pid-file={networks}/")
        if name in _SIGNALS and any(word.startswith(mark) for word in words):
            signal.pidfd_send_signal(pidfd, _SIGNALS[name])
    except (OSError, ValueError):
        pass
