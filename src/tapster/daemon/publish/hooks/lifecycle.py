# SPDX-License-Identifier: LGPL-2.1-or-later
"""The administrator's own programs, told of what begins and what ends.

Every executable in hooks.d is run for every event, one after the other in the
order of their names. An attach waits for its own hooks and nothing else does;
one that fails refuses it. Whoever was told of a beginning is told of its end,
also by the next broker: `hook_records.py` has who is owed that.

What is told of one guest is told in order: of a guest's end before the next
guest's beginning of the same user and name on the same bridge; of a network's
beginning before its guests', and of its end after theirs.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Collection, Coroutine, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from ....errors import BrokerFailure
from ....networks.managed_network import ManagedNetwork
from ....policy.config.current import CurrentConfig
from ...audit.events import Events
from ...fairness.slots import FairSlots
from ...nics.ledger import EVERYBODY, Nic
from ...process.programs import Programs
from . import payload as hook_words
from . import pending as hook_records
from . import runner as hook_process
from .discovery import HookDirectory
from .payload import ATTACH, DETACH, NETWORK_DOWN, NETWORK_UP, TAMPER, device_of
from .pending import Due, Records
from .telling import Teller

_log = logging.getLogger(__name__)

_PAUSE = 1.0  # seconds between two tellings of the same NIC that end nothing
_GRACE = 5.0  # seconds at the broker's end, beyond what one hook may take


class RefusedByHook(BrokerFailure):
    """The caller's answer; what it is not told is `detail`."""

    def __init__(self, detail: str) -> None:
        super().__init__("a hook refused", "the broker's log has the reason")
        self.detail = detail


@dataclass(slots=True, eq=False)
class _Life:
    """Of a tap, or of a bridge of ours, that some hook was told of."""

    due: Due
    told: asyncio.Future[None] | None = None  # when its beginning has been
    gone: bool = False

    @property
    def is_network(self) -> bool:
        return "ifname" not in self.due.words

    @property
    def bridge(self) -> str:
        return str(self.due.words["bridge"])

    @property
    def uid(self) -> int:
        uid = self.due.words["uid"]
        return EVERYBODY if uid is None else int(uid)

    @property
    def key(self) -> Hashable:
        """What ends before the next of the same begins."""
        if self.is_network:
            return self.bridge
        return self.bridge, self.uid, self.due.words["name"]


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
            hooks, as for a rootless broker, which no administrator has set up.
        """
        self._directory = HookDirectory(configuration) if configuration else None
        self._records = Records(
            os.path.join(os.path.abspath(runtime), hook_records.DIRECTORY)
        )
        self._programs = programs
        self._teller = Teller(self._directory, programs, self._records, current)
        self._events = events
        self._current = current
        self._slots = FairSlots(lambda: current.value.hooks.at_once)
        self._lives: dict[str, _Life] = {}  # by device
        self._last: dict[Hashable, asyncio.Future[None]] = {}  # by `_Life.key`
        self._tasks: dict[asyncio.Future[None], _Life] = {}
        self._repeats: dict[str, tuple[str, Nic, str | None] | None] = {}
        self._closing = False  # no beginning is told any more
        self._stopping = False  # nor anything else

    # What there is to tell

    async def attach(self, nic: Nic) -> None:
        """Tell of a NIC that is all made, and that nobody has yet.

        :raises BrokerFailure: the NIC is not to be handed out; once it is gone,
            `gone` tells those that were told of it.
        """
        names = self._find(must=True)
        if not names:
            return
        life = _Life(Due(nic.ifname, hook_words.of_nic(nic)))
        self._lives[nic.ifname] = life
        await self._begin(life, ATTACH, names)

    def gone(self, nic: Nic) -> None:
        """A tap does not exist any more: tell those that were told of it, soon."""
        if nic.ifname in self._repeats:
            self._repeats[nic.ifname] = None
        life = self._lives.pop(nic.ifname, None)
        if life is not None:
            self._start_end(life, DETACH)

    async def ended(self, nic: Nic) -> None:
        """Until all have been told that this NIC is gone."""
        tasks = [t for t, o in self._tasks.items() if o.due.device == nic.ifname]
        if tasks:
            await asyncio.wait(tasks)

    def network_up(self, network: ManagedNetwork) -> None:
        """Tell of it, soon. It is there all the same if a hook fails."""
        names = self._find()
        if names:
            life = _Life(Due(network.bridge, hook_words.of_network(network)))
            self._lives[network.bridge] = life
            task = self._start(self._begin(life, NETWORK_UP, names), life)
            self._follow(life.key, task)

    def network_down(self, network: ManagedNetwork) -> None:
        """As `gone`, of a network."""
        life = self._lives.pop(network.bridge, None)
        if life is not None:
            self._start_end(life, NETWORK_DOWN)

    def tampered(self, nic: Nic, reason: str) -> None:
        """Tell that its holder, or somebody else, changed a tap."""
        self.run_later(TAMPER, nic, reason)

    def run_later(self, event: str, nic: Nic, reason: str | None = None) -> None:
        """Tell of something else that happened to a NIC, soon. What happens again
        before that was told, or within a second, is told once."""
        device = nic.ifname
        if device in self._repeats:
            self._repeats[device] = event, nic, reason
            return
        names = self._find()
        if names:
            self._repeats[device] = None
            life = _Life(Due(device, hook_words.of_nic(nic)))
            self._start(self._tell_once(life, event, names, reason), life)

    # After a start, and before an end

    def recall(self, devices: Collection[str]) -> None:
        """Go on with what an earlier broker owed.

        :param devices: NICs' and bridges of ours, that are still there.
        """
        if os.path.isdir(self._records.directory):
            # Whoever it told just now would be told of the end at the same time.
            hook_process.end_marked(self._records.directory)
        for due in self._records.all():
            life = _Life(due)
            if due.device in devices:
                self._lives[due.device] = life
            else:
                self._start_end(life, NETWORK_DOWN if life.is_network else DETACH)

    async def close(self) -> None:
        """Tell of no further beginning; wait for those that are being told."""
        self._closing = True
        lives = self._lives.values()
        told = [life.told for life in lives if life.told and not life.told.done()]
        if told:
            await asyncio.wait(told, timeout=self._patience())

    async def stop(self) -> None:
        """Tell what can be told in a short time, and leave the rest to the next
        broker. Call `close` before."""
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=self._patience())
        self._stopping = True
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=_GRACE)

    def _patience(self) -> float:
        return self._current.value.hooks.timeout_seconds + _GRACE

    # Telling it

    async def _begin(self, life: _Life, event: str, names: tuple[str, ...]) -> None:
        """:raises BrokerFailure: of a NIC alone; it is not to be handed out."""
        life.told = asyncio.get_running_loop().create_future()
        try:
            for before in (self._last.get(life.key), self._last.get(life.bridge)):
                if before is not None and before in self._tasks:
                    await asyncio.wait([before])
            for name in names:
                async with self._slots.slot(life.uid):
                    if life.gone:
                        return  # as whoever waits for this will see
                    if self._closing and not life.is_network:
                        raise BrokerFailure("the broker ends", "try again later")
                    problem = await self._begin_one(life, event, name)
                if problem is not None:
                    self._failed(life.due.words, event, name, problem)
                    if not life.is_network:
                        raise RefusedByHook(f"hook {name}: {problem}")
        finally:
            life.told.set_result(None)

    async def _begin_one(self, life: _Life, event: str, name: str) -> str | None:
        life.due.begun.append(name)
        try:
            self._records.write(life.due)
        except OSError as err:
            life.due.begun.pop()
            return f"not run, as it can't be noted down: {err}"
        return await self._teller.tell(name, event, life.due.words)

    def _start_end(self, life: _Life, event: str) -> None:
        life.gone = True
        task = self._start(self._end(life, event), life)
        self._follow(life.key, task)

    async def _end(self, life: _Life, event: str) -> None:
        """Tell of its end whoever was told of its beginning."""
        await asyncio.sleep(0)  # the broker has more to do about it first
        before = {t for t, other in self._tasks.items() if self._is_before(other, life)}
        if life.told is not None and not life.told.done():
            before.add(life.told)
        if before:
            await asyncio.wait(before)
        due = life.due
        for name in list(due.begun):
            async with self._slots.slot(life.uid):
                if self._stopping:
                    return
                again = due.ending == name
                due.ending = name
                self._note(due)
                problem = await self._teller.tell(name, event, due.words, again)
                if self._programs.is_lost:
                    return  # and so is this broker: the next one tells it
                due.begun.remove(name)
                due.ending = None
                self._note(due)
            if problem is not None:
                self._failed(due.words, event, name, problem)
        self._note(due)

    def _is_before(self, other: _Life, life: _Life) -> bool:
        """Whether that has to be told before this one's end."""
        if other is life:
            return False
        if life.is_network:
            return other.bridge == life.bridge and not other.is_network
        return other.due.device == life.due.device

    def write_again(self) -> None:
        """What is owed, where the notes of it may be lost."""
        for life in self._lives.values():
            self._note(life.due)

    def _note(self, due: Due) -> None:
        try:
            if due.begun:
                self._records.write(due)
            else:
                self._records.remove(due)
        except OSError as err:
            _log.error("%s may be told to hooks twice: %s", due.device, err)

    async def _tell_once(
        self, life: _Life, event: str, names: tuple[str, ...], reason: str | None
    ) -> None:
        for name in names:
            async with self._slots.slot(life.uid):
                if self._stopping:
                    return
                words = life.due.words
                problem = await self._teller.tell(name, event, words, reason=reason)
            if problem is not None:
                self._failed(words, event, name, problem)
        loop = asyncio.get_running_loop()
        loop.call_later(_PAUSE, self._repeat, life.due.device)

    def _repeat(self, device: str) -> None:
        more = self._repeats.pop(device, None)
        if more is not None:
            self.run_later(*more)

    def _failed(
        self, words: Mapping[str, Any], event: str, name: str, problem: str
    ) -> None:
        """Say so; of an attach, its request says it to the audit log."""
        _log.error("hook %s, %s of %s: %s", name, event, device_of(words), problem)
        if event != ATTACH:
            self._events.changed(
                "failed",
                None,
                f"hook {name}, {event}: {problem}",
                **hook_words.of_record(words),
            )

    # What is there

    def refused(self) -> tuple[str, ...]:
        """What keeps NICs from being handed out, and why."""
        return self._directory.find().refused if self._directory else ()

    def _find(self, *, must: bool = False) -> tuple[str, ...]:
        """The hooks that there are now.

        :raises RefusedByHook: only if `must`: what is there is not to be run, and
            nobody knows what it was to see to.
        """
        if self._directory is None:
            return ()
        found = self._directory.find()
        if must and found.refused:
            raise RefusedByHook(found.refused[0])
        return found.names

    def _start(
        self, work: Coroutine[None, None, None], life: _Life
    ) -> asyncio.Future[None]:
        task: asyncio.Future[None] = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = life
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Future[None]) -> None:
        del self._tasks[task]
        if not task.cancelled() and (err := task.exception()) is not None:
            _log.error("a hook was not told", exc_info=err)

    def _follow(self, key: Hashable, task: asyncio.Future[None]) -> None:
        """Have the next of the same wait for it."""
        self._last[key] = task

        def forget(done: asyncio.Future[None]) -> None:
            if self._last.get(key) is done:
                del self._last[key]

        task.add_done_callback(forget)
