# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs one hook for one event: its file, its payload, its output."""

from __future__ import annotations

import logging
from contextlib import ExitStack

from ....errors import BrokerFailure, ConfigError
from ....policy.config.current import CurrentConfig
from ...process.programs import Programs
from . import execution, payload
from .discovery import HookDirectory
from .payload import Payload
from .pending import PendingEnds

_log = logging.getLogger(__name__)


class HookRunner:
    """Runs hooks, one by one."""

    def __init__(
        self,
        directory: HookDirectory | None,
        programs: Programs,
        pending_ends: PendingEnds,
        current: CurrentConfig,
    ) -> None:
        """
        :param directory: opens and checks hooks; None if this broker has none.
        :param programs: starts them.
        :param pending_ends: their paths mark the processes of each run.
        :param current: has the time that one hook may take.
        """
        self._directory = directory
        self._programs = programs
        self._pending_ends = pending_ends
        self._current = current

    async def run(
        self,
        name: str,
        event: str,
        about: Payload,
        *,
        again: bool = False,
        reason: str | None = None,
    ) -> str | None:
        """Run a hook to its end.

        :param name: of its file in hooks.d.
        :param event: one of `payload.EVENTS`.
        :param about: the NIC or the network that the event is about.
        :param again: whether the hook was run for this before, and cut off.
        :param reason: what was changed, in words; of `tamper` alone.
        :returns: what went wrong, for the log; None if nothing did.
        """
        if self._directory is None:
            return "not run: this broker has no hooks"
        device = payload.device_of(about)
        told = payload.of_event(event, name, about, again, reason)
        mark = f"{self._pending_ends.path(device)}/{event}/{name}"

        def log(line: str) -> None:
            _log.info("hook %s, %s of %s: %s", name, event, device, line)

        try:
            # The file stays open until the spawner has it.
            with ExitStack() as stack:
                order = execution.Order(
                    name,
                    stack.enter_context(self._directory.opened(name)),
                    event,
                    payload.as_environment(told, mark),
                    payload.as_stdin(told),
                    self._current.value.hooks.timeout_seconds,
                )
                return await execution.run(self._programs, order, log, stack.close)
        except (ConfigError, BrokerFailure) as err:
            return f"not run: {err.oneline()}"
        except OSError as err:
            return f"not run: {err.strerror}"
