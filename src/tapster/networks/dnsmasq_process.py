# SPDX-License-Identifier: LGPL-2.1-or-later
"""The dnsmasq of one network instance, kept running.

It is started or taken over from an earlier broker, told of guests that left, started
again when it dies, and ended. networks/dnsmasq.py says what it serves.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable

from ..errors import BrokerFailure
from ..kernel.process import Process
from . import dnsmasq, dnsmasq_launch
from .dnsmasq_launch import Launcher

_log = logging.getLogger(__name__)

_RESTART_DELAY = 1.0  # seconds between two starts of one that keeps dying
_RELOAD_DELAY = 0.05  # seconds in which departures are gathered into one SIGHUP
_END_LIMIT = 2.0  # seconds after SIGTERM


class DnsmasqProcess:
    """Owns the process and the descriptor that holds it.

    Whether it is to run (`_wanted`) and whether it does (`_running`) are two things:
    one that would not start is tried again until `stop`.
    """

    def __init__(
        self,
        settings: Callable[[], dnsmasq.Settings],
        launcher: Launcher,
    ) -> None:
        self._settings = settings
        self._launcher = launcher
        self._running: Process | None = None
        self._reload: asyncio.TimerHandle | None = None
        self._wanted = False
        # Held while the process is started or ended: two can't have one address.
        self._changing = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """The pid of the process; None: it does not run."""
        return self._running.pid if self._running is not None else None

    @property
    def is_running(self) -> bool:
        """Whether the process runs."""
        return self._running is not None

    async def start(self) -> None:
        """Start it.

        :raises BrokerFailure: it would not start.
        :raises OSError: its files can't be written.
        """
        async with self._changing:
            self._wanted = True
            dnsmasq.prepare_directory(self._settings())
            self._watch(await dnsmasq_launch.spawn(self._settings(), self._launcher))

    def reattach(self) -> None:
        """Take over the process that an earlier broker started, if it still runs."""
        directory = self._settings().directory
        try:
            with open(f"{directory}/dnsmasq.pid", encoding="ascii") as file:
                pid = int(file.read())
            if dnsmasq_launch.is_ours(pid, directory):
                found = Process(pid)
                # Looked at again: between the first look and the descriptor the
                # process may have ended, and its pid be another's.
                if dnsmasq_launch.is_ours(pid, directory):
                    self._watch(found)
                else:
                    found.close()
        except (OSError, ValueError):
            pass

    async def resume(self) -> None:
        """Go on with the process that `reattach` found, or start one.

        :raises OSError: its files can't be written.
        """
        async with self._changing:
            self._wanted = True
            dnsmasq.prepare_directory(self._settings())
            if self._running is None:
                await self._respawn()
            else:
                self._launcher.signal(self._running, signal.SIGHUP)

    async def restart(self) -> None:
        """End it and start it again with other settings, unless it has been stopped.
        Leases and names are in files, and stay.

        :raises OSError: its files can't be written.
        """
        async with self._changing:
            if not self._wanted:
                return
            dnsmasq.prepare_directory(self._settings())
            await self._end()
            await self._respawn()

    async def stop(self) -> None:
        """End it, if it runs."""
        self._wanted = False
        if self._reload is not None:
            self._reload.cancel()
            self._reload = None
        async with self._changing:
            await self._end()

    def forget_departed(self) -> None:
        """Have it read its files again, soon. It notices a new file by itself; a
        removed one it forgets on SIGHUP only."""
        if self._running is not None and self._reload is None:
            loop = asyncio.get_running_loop()
            self._reload = loop.call_later(_RELOAD_DELAY, self._send_reload)

    def _send_reload(self) -> None:
        self._reload = None
        dnsmasq_launch.trim_log(self._settings().directory)
        if self._running is not None:
            self._launcher.signal(self._running, signal.SIGHUP)

    def _watch(self, running: Process) -> None:
        self._running = running
        asyncio.get_running_loop().add_reader(running.pidfd, self._died)

    def _died(self) -> None:
        if self._running is None:
            return
        self._forget()
        _log.error("dnsmasq of %s died; starting it again", self._settings().bridge)
        asyncio.get_running_loop().call_later(_RESTART_DELAY, self._again)

    def _again(self) -> None:
        if self._wanted and self._running is None:
            task = asyncio.get_running_loop().create_task(self._start_again())
            task.add_done_callback(lambda t: t.exception())

    async def _start_again(self) -> None:
        async with self._changing:
            await self._respawn()

    async def _respawn(self) -> None:
        """Start it if it is to run and does not. If it will not start, try later."""
        if not self._wanted or self._running is not None:
            return
        try:
            self._watch(await dnsmasq_launch.spawn(self._settings(), self._launcher))
        except (BrokerFailure, OSError) as err:
            _log.error("%s", err)
            asyncio.get_running_loop().call_later(_RESTART_DELAY, self._again)

    def _forget(self) -> None:
        if self._running is not None:
            asyncio.get_running_loop().remove_reader(self._running.pidfd)
            self._running.reap()
            self._running.close()
            self._running = None

    async def _end(self) -> None:
        running = self._running
        if running is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(running.pidfd)
        gone = loop.create_future()
        loop.add_reader(running.pidfd, _finish, gone)
        self._launcher.signal(running, signal.SIGTERM)
        try:
            await asyncio.wait_for(gone, _END_LIMIT)
        except TimeoutError:
            self._launcher.signal(running, signal.SIGKILL)
        self._forget()


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
