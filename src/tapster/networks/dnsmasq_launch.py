# SPDX-License-Identifier: LGPL-2.1-or-later
"""How a dnsmasq is started, and found again among all processes.

Each dnsmasq of ours has its instance's pid file on its command line. By that a broker
recognises those that an earlier broker started.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import signal
import time
from typing import Protocol

from ..errors import BrokerFailure
from ..kernel import process
from . import state_files
from .dnsmasq import Settings

_log = logging.getLogger(__name__)

START_LIMIT = 5.0  # seconds
LOG_LIMIT = 256 * 1024  # bytes
_STRAY_LIMIT = 1000  # milliseconds until a killed dnsmasq must be gone
_POLL = 0.002  # seconds between looks at the pid file


class Launcher(Protocol):
    """What may start programs: the broker itself may not."""

    user: str | None  # the account that dnsmasq runs as; None: the broker's own
    capabilities: int  # that a program has which it starts, as a bit mask

    async def start_dnsmasq(self, bridge: str) -> process.Process:
        """Start dnsmasq on the configuration in the directory of a bridge.

        :returns: the process; the caller closes it.
        :raises BrokerFailure: it was not started; the message says why.
        """

    def signal(self, running: process.Process, number: signal.Signals) -> None:
        """Signal a dnsmasq; nothing happens if it is gone."""


def check_capabilities(launcher: Launcher, network: str) -> None:
    """See whether dnsmasq will have the capabilities that it needs.

    :param launcher: who will start it.
    :param network: the name of the network that needs it, for the message.
    :raises BrokerFailure: it will not.
    """
    wanted = {
        process.CAP_NET_BIND_SERVICE: "CAP_NET_BIND_SERVICE",
        process.CAP_NET_RAW: "CAP_NET_RAW",
    }
    have = launcher.capabilities
    missing = [name for number, name in wanted.items() if not have >> number & 1]
    if missing:
        raise BrokerFailure(
            f"network {network} needs dnsmasq, and dnsmasq {' and '.join(missing)}",
            "give tapsterd these as ambient capabilities, or use a Linux bridge",
        )


async def spawn(settings: Settings, launcher: Launcher) -> process.Process:
    """Start dnsmasq on a directory that `prepare_directory` made, and wait until it has
    bound its sockets (some 20 ms).

    :returns: the running process; the caller closes it.
    :raises BrokerFailure: dnsmasq did not start; the message is what it said.
    """
    pid_file = f"{settings.directory}/dnsmasq.pid"
    state_files.remove(pid_file)
    before = _log_size(settings.directory)
    running = await launcher.start_dnsmasq(settings.bridge)
    try:
        limit = time.monotonic() + START_LIMIT
        while not _is_written(pid_file):
            if process.has_ended(running.pidfd):
                raise BrokerFailure(_last_words(settings.directory, before))
            if time.monotonic() > limit:
                raise BrokerFailure(f"dnsmasq was not ready within {START_LIMIT:.0f} s")
            await asyncio.sleep(_POLL)
    except BaseException:
        launcher.signal(running, signal.SIGKILL)
        running.close()
        raise
    return running


def _log_size(directory: str) -> int:
    try:
        return os.stat(f"{directory}/dnsmasq.log").st_size
    except OSError:
        return 0


def _last_words(directory: str, before: int) -> str:
    """Why dnsmasq did not start: the last line of its log.

    :param before: bytes that the log had before the start.
    """
    try:
        with open(f"{directory}/dnsmasq.log", "rb") as file:
            file.seek(before)
            lines = file.read(LOG_LIMIT).decode(errors="replace").split("\n")
    except OSError:
        lines = []
    said = [line for line in lines if line.strip()]
    return f"dnsmasq did not start: {said[-1].strip() if said else 'it said nothing'}"


def _is_written(path: str) -> bool:
    try:
        return os.stat(path).st_size > 0
    except FileNotFoundError:
        return False


def is_ours(pid: int, directory: str) -> bool:
    """Whether the process `pid` is the dnsmasq of the instance with this directory."""
    try:
        mark = f"--pid-file={directory}/dnsmasq.pid".encode()
        return mark in process.command_line(pid)
    except OSError:
        return False


def end_strays(directory: str, known: set[int]) -> None:
    """Kill every dnsmasq of an instance below `directory`, in this network namespace,
    that is not known. One whose record was lost would hold its address for ever, and so
    keep the next dnsmasq of its network from starting.

    :param directory: <runtime>/networks.
    :param known: pids of those that instances have.
    """
    mark = f"--pid-file={directory}/".encode()
    here = os.stat("/proc/self/ns/net")
    for name in os.listdir("/proc"):
        if not name.isdecimal() or int(name) in known:
            continue
        try:
            # The descriptor comes before the look: the pid may be another's by then.
            stray = process.Process(int(name))
        except OSError:
            continue
        try:
            if _is_stray(int(name), mark, here):
                _log.warning("ending dnsmasq %s, which no network of ours has", name)
                stray.send_signal(signal.SIGKILL)
                poll = select.poll()
                poll.register(stray.pidfd, select.POLLIN)
                poll.poll(_STRAY_LIMIT)
        finally:
            stray.close()


def _is_stray(pid: int, mark: bytes, here: os.stat_result) -> bool:
    try:
        if not any(word.startswith(mark) for word in process.command_line(pid)):
            return False
        return os.path.samestat(os.stat(f"/proc/{pid}/ns/net"), here)
    except OSError:
        return False  # it ended


def trim_log(directory: str) -> None:
    """Keep dnsmasq's log, to which it appends, from filling the runtime directory."""
    path = f"{directory}/dnsmasq.log"
    try:
        if os.stat(path).st_size > LOG_LIMIT:
            os.truncate(path, 0)
    except FileNotFoundError:
        pass
