# SPDX-License-Identifier: LGPL-2.1-or-later
"""One hook told of one event: its file, its words, its run, its output."""

from __future__ import annotations

import logging
from contextlib import ExitStack

from ....errors import BrokerFailure, ConfigError
from ....policy.config.current import CurrentConfig
from ...process.programs import Programs
from . import payload as hook_words
from . import runner as hook_process
from .discovery import HookDirectory
from .payload import Words
from .pending import Records

_log = logging.getLogger(__name__)


class Teller:
    """Tells hooks, one by one."""

    def __init__(
        self,
        directory: HookDirectory | None,
        programs: Programs,
        records: Records,
        current: CurrentConfig,
    ) -> None:
        """:param directory: None if this broker has no hooks."""
        self._directory = directory
        self._programs = programs
        self._records = records
        self._current = current

    async def tell(
        self,
        name: str,
        event: str,
        words: Words,
        again: bool = False,
        reason: str | None = None,
    ) -> str | None:
        """Run it to its end.

        :returns: what went wrong, in words for the log; None if nothing did.
        """
        if self._directory is None:
            return "not run: this broker has no hooks"
        device = hook_words.device_of(words)
        told = hook_words.of_event(event, name, words, again, reason)
        mark = f"{self._records.path(device)}/{event}/{name}"

        def log(line: str) -> None:
            _log.info("hook %s, %s of %s: %s", name, event, device, line)

        try:
            # What is opened is needed until the spawner has it.
            with ExitStack() as stack:
                order = hook_process.Order(
                    name,
                    stack.enter_context(self._directory.opened(name)),
                    event,
                    hook_words.as_environment(told, mark),
                    hook_words.as_stdin(told),
                    self._current.value.hooks.timeout_seconds,
                )
                return await hook_process.run(self._programs, order, log, stack.close)
        except (ConfigError, BrokerFailure) as err:
            return f"not run: {err.oneline()}"
        except OSError as err:
            return f"not run: {err.strerror}"
