# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs the administrator's own programs when something begins and when it ends.

Every executable in hooks.d runs for every event, one after the other in the order of
their names. An attach waits for its own hooks, and nothing else does; a hook that
fails refuses the attach. Every hook that ran for a beginning runs for the end, too,
even if the next broker has to see to that: `pending.py` keeps which hooks that are.
In which order events reach hooks is in `order.py`.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Collection

from ....errors import BrokerFailure
from ....networks.managed_network import ManagedNetwork
from ....policy.config.current import CurrentConfig
from ...audit.events import Events
from ...fairness.slots import FairSlots
from ...nics.nic import Nic
from ...process.programs import Programs
from . import execution, payload, pending
from .discovery import HookDirectory
from .order import HookOrder, Lifetime
from .payload import ATTACH, DETACH, NETWORK_DOWN, NETWORK_UP, TAMPER, Payload
from .pending import PendingEnd, PendingEnds
from .runner import HookRunner

_log = logging.getLogger(__name__)

_PAUSE = 1.0  # seconds between two runs for the same NIC that end nothing
_GRACE = 5.0  # seconds at the broker's end, beyond what one hook may take


class RefusedByHook(BrokerFailure):
    """A hook refuses an attach. The caller hears no more than that."""

    def __init__(self, detail: str) -> None:
        """:param detail: for the log and for root: which hook, and why."""
        super().__init__("a hook refused", "the broker's log has the reason")
        self.detail = detail


class Hooks:
    """All hooks of one broker."""

    def __init__(
        self,
        configuration: str | None,
        runtime: str,
        programs: Programs,
        events: Events,
        current: CurrentConfig,
    ) -> None:
        """
        :param configuration: the directory of `tapster.toml`; None: there are no
            hooks, as no administrator has set up a rootless broker.
        :param runtime: the runtime directory, for what the next broker has to know.
        :param programs: starts hooks.
        :param events: is told of hooks that fail.
        :param current: has the limits of time and number.
        """
        self._directory = HookDirectory(configuration) if configuration else None
        self._pending_ends = PendingEnds(
            os.path.join(os.path.abspath(runtime), pending.DIRECTORY)
        )
        self._programs = programs
        self._runner = HookRunner(
            self._directory, programs, self._pending_ends, current
        )
        self._events = events
        self._current = current
        self._slots = FairSlots(lambda: current.value.hooks.at_once)
        self._order = HookOrder()
        self._lifetimes: dict[str, Lifetime] = {}  # by device
        # By device: what has happened to it again while hooks run for it.
        self._repeats: dict[str, tuple[str, Nic, str | None] | None] = {}
        self._closing = False  # no beginning is told any more
        self._stopping = False  # nothing is told any more

    # What happens

    async def attach(self, nic: Nic) -> None:
        """Run the hooks for a NIC that is ready, and that nobody has yet.

        :raises BrokerFailure: the NIC is not to be handed out. Once it is gone, call
            `gone` for those hooks that have run.
        """
        names = self._find(must=True)
        if not names:
            return
        lifetime = Lifetime(PendingEnd(nic.ifname, payload.of_nic(nic)))
        self._lifetimes[nic.ifname] = lifetime
        await self._begin(lifetime, ATTACH, names)

    def gone(self, nic: Nic) -> None:
        """Have the hooks run, soon, for a tap that does not exist any more."""
        if nic.ifname in self._repeats:
            self._repeats[nic.ifname] = None
        lifetime = self._lifetimes.pop(nic.ifname, None)
        if lifetime is not None:
            self._start_end(lifetime, DETACH)

    async def ended(self, nic: Nic) -> None:
        """Until all hooks have run for a NIC that is gone."""
        await self._order.wait_for_device(nic.ifname)

    def network_up(self, network: ManagedNetwork) -> None:
        """Have the hooks run, soon, for a network that is up. It stays up even if a
        hook fails."""
        names = self._find()
        if names:
            pending_end = PendingEnd(network.bridge, payload.of_network(network))
            lifetime = Lifetime(pending_end)
            self._lifetimes[network.bridge] = lifetime
            work = self._begin(lifetime, NETWORK_UP, names)
            self._order.start_in_turn(work, lifetime)

    def network_down(self, network: ManagedNetwork) -> None:
        """Have the hooks run, soon, for a network whose bridge is gone."""
        lifetime = self._lifetimes.pop(network.bridge, None)
        if lifetime is not None:
            self._start_end(lifetime, NETWORK_DOWN)

    def tampered(self, nic: Nic, reason: str) -> None:
        """Have the hooks run, soon, for a tap that its holder or somebody else
        changed. What happens again while they run, or within a second after that,
        makes them run once more.

        :param reason: what was changed, in words.
        """
        self._run_later(TAMPER, nic, reason)

    # After a start, and before an end

    def recall(self, devices: Collection[str]) -> None:
        """Go on with the ends that an earlier broker still had to tell.

        :param devices: the NICs and the bridges of ours that are still there.
        """
        if os.path.isdir(self._pending_ends.directory):
            # Otherwise a hook that the earlier broker was running would still run
            # when it is run for the end.
            execution.kill_leftovers(self._pending_ends.directory)
        for pending_end in self._pending_ends.all():
            lifetime = Lifetime(pending_end)
            if pending_end.device in devices:
                self._lifetimes[pending_end.device] = lifetime
            else:
                event = NETWORK_DOWN if lifetime.is_network else DETACH
                self._start_end(lifetime, event)

    async def close(self) -> None:
        """Tell of no further beginning, and wait for those that are being told."""
        self._closing = True
        begun = [life.begun for life in self._lifetimes.values() if life.begun]
        running = [future for future in begun if not future.done()]
        if running:
            await asyncio.wait(running, timeout=self._patience())

    async def stop(self) -> None:
        """Tell what can be told in a short time, and leave the rest to the next
        broker. Call `close` before."""
        await self._order.wait_for_all(self._patience())
        self._stopping = True
        self._order.cancel_all()
        await self._order.wait_for_all(_GRACE)

    def _patience(self) -> float:
        return self._current.value.hooks.timeout_seconds + _GRACE

    def rewrite_all(self) -> None:
        """Write all pending ends again, where their files may have been lost."""
        for lifetime in self._lifetimes.values():
            self._keep(lifetime.pending)

    # A beginning

    async def _begin(
        self, lifetime: Lifetime, event: str, names: tuple[str, ...]
    ) -> None:
        """:raises BrokerFailure: of a NIC alone; it is not to be handed out."""
        lifetime.begun = asyncio.get_running_loop().create_future()
        try:
            await self._order.wait_to_begin(lifetime)
            for name in names:
                async with self._slots.slot(lifetime.uid):
                    if lifetime.is_over:
                        return  # the caller looks at the NIC again
                    if self._closing and not lifetime.is_network:
                        raise BrokerFailure("the broker ends", "try again later")
                    problem = await self._begin_one(lifetime.pending, event, name)
                if problem is not None:
                    self._report(lifetime.pending.payload, event, name, problem)
                    if not lifetime.is_network:
                        raise RefusedByHook(f"hook {name}: {problem}")
        finally:
            lifetime.begun.set_result(None)

    async def _begin_one(
        self, pending_end: PendingEnd, event: str, name: str
    ) -> str | None:
        pending_end.begun.append(name)
        try:
            self._pending_ends.write(pending_end)
        except OSError as err:
            pending_end.begun.pop()
            return f"not run, as it can't be noted down: {err}"
        return await self._runner.run(name, event, pending_end.payload)

    # An end

    def _start_end(self, lifetime: Lifetime, event: str) -> None:
        lifetime.is_over = True
        self._order.start_in_turn(self._end(lifetime, event), lifetime)

    async def _end(self, lifetime: Lifetime, event: str) -> None:
        """Run, for the end, every hook that ran for the beginning."""
        await asyncio.sleep(0)  # let the broker first do what else the end needs
        await self._order.wait_to_end(lifetime)
        pending_end = lifetime.pending
        for name in list(pending_end.begun):
            async with self._slots.slot(lifetime.uid):
                if self._stopping:
                    return
                again = pending_end.ending == name
                pending_end.ending = name
                self._keep(pending_end)
                problem = await self._runner.run(
                    name, event, pending_end.payload, again=again
                )
                if self._programs.is_lost:
                    return  # this broker ends, too: the next one runs the hook
                pending_end.begun.remove(name)
                pending_end.ending = None
                self._keep(pending_end)
            if problem is not None:
                self._report(pending_end.payload, event, name, problem)
        self._keep(pending_end)

    def _keep(self, pending_end: PendingEnd) -> None:
        try:
            if pending_end.begun:
                self._pending_ends.write(pending_end)
            else:
                self._pending_ends.remove(pending_end)
        except OSError as err:
            device = pending_end.device
            _log.error("%s may be told to hooks twice: %s", device, err)

    # What is neither a beginning nor an end

    def _run_later(self, event: str, nic: Nic, reason: str | None) -> None:
        device = nic.ifname
        if device in self._repeats:
            self._repeats[device] = event, nic, reason
            return
        names = self._find()
        if names:
            self._repeats[device] = None
            lifetime = Lifetime(PendingEnd(device, payload.of_nic(nic)))
            self._order.start(self._run_once(lifetime, event, names, reason), lifetime)

    async def _run_once(
        self,
        lifetime: Lifetime,
        event: str,
        names: tuple[str, ...],
        reason: str | None,
    ) -> None:
        about = lifetime.pending.payload
        for name in names:
            async with self._slots.slot(lifetime.uid):
                if self._stopping:
                    return
                problem = await self._runner.run(name, event, about, reason=reason)
            if problem is not None:
                self._report(about, event, name, problem)
        loop = asyncio.get_running_loop()
        loop.call_later(_PAUSE, self._repeat, lifetime.device)

    def _repeat(self, device: str) -> None:
        more = self._repeats.pop(device, None)
        if more is not None:
            self._run_later(*more)

    def _report(self, about: Payload, event: str, name: str, problem: str) -> None:
        """Say that a hook failed. Of an attach the audit log hears from the request."""
        device = payload.device_of(about)
        _log.error("hook %s, %s of %s: %s", name, event, device, problem)
        if event != ATTACH:
            self._events.changed(
                "failed",
                None,
                f"hook {name}, {event}: {problem}",
                **payload.of_record(about),
            )

    # Which hooks there are

    def refused(self) -> tuple[str, ...]:
        """Each file that keeps NICs from being handed out, and why it is refused."""
        return self._directory.find().refused if self._directory else ()

    def _find(self, *, must: bool = False) -> tuple[str, ...]:
        """The names of the hooks that there are now.

        :param must: whether a hook that is not to be trusted is an error: nobody
            knows what it was to see to.
        :raises RefusedByHook: there is such a hook; only if `must`.
        """
        if self._directory is None:
            return ()
        found = self._directory.find()
        if must and found.refused:
            raise RefusedByHook(found.refused[0])
        return found.names
