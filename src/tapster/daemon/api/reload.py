# SPDX-License-Identifier: LGPL-2.1-or-later
"""Has the configuration read anew, for a caller or for SIGHUP."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ...errors import ConfigError, ConfigInvalid, NotAuthorized
from ...model import Peer
from ...policy.config.load import Config
from ..audit.events import Events
from ..audit.request_context import RequestContext
from ..decide.permissions import Permissions

_log = logging.getLogger(__name__)


class Reload:
    """Replaces the configuration by what its files say, unless that is wrong."""

    def __init__(
        self,
        read: Callable[[], Config],
        reconfigure: Callable[[Config], list[str]],
        events: Events,
        permissions: Permissions | None,
    ) -> None:
        """
        :param read: reads the files; raises ConfigError.
        :param reconfigure: goes by another configuration from now on, and tells
            people what that changes for guests that run.
        :param events: told of each reload.
        :param permissions: says who may reload; None: every caller, as a rootless
            broker's is its owner and has the files himself.
        """
        self._read = read
        self._reconfigure = reconfigure
        self._events = events
        self._permissions = permissions

    async def by_caller(self, peer: Peer, interactive: bool) -> list[str]:
        """
        :param peer: who asks.
        :param interactive: whether polkit may have a person asked.
        :returns: what changes for guests that run, for people.
        :raises NotAuthorized: the caller may not.
        :raises ConfigInvalid: a file is wrong, and nothing has changed.
        """
        context = RequestContext(peer, "reload")
        if self._permissions is not None:
            decision = await self._permissions.reload(context, interactive)
            if not decision.allowed:
                self._events.denied(context, decision.reason)
                raise NotAuthorized(
                    "only root may have the configuration read anew", "use sudo"
                )
        try:
            return self._reload(context)
        except ConfigError as err:
            raise ConfigInvalid(
                str(err), "nothing has changed; correct it and reload again"
            ) from err

    def by_signal(self) -> None:
        """Reload with nobody to answer: the log has it if a file is wrong."""
        try:
            self._reload(None)
        except ConfigError:
            pass

    def _reload(self, context: RequestContext | None) -> list[str]:
        try:
            config = self._read()
        except ConfigError as err:
            _log.error("%s; the configuration stays as it was", err)
            self._events.changed("reload-refused", context, str(err))
            raise
        told = self._reconfigure(config)
        _log.info("the configuration was read anew")
        self._events.changed("reloaded", context)
        return told
