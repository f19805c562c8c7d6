# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the connections of a listener have in common: the users' turns and pace,
the threads that close descriptors, the introspection, and the measure of the log."""

from __future__ import annotations

import asyncio
from typing import cast

from asyncvarlink import VarlinkInterfaceRegistry
from asyncvarlink.serviceinterface import VarlinkServiceInterface

from ...model import Peer
from ...policy.config.load import Limits
from ...version import __version__
from ...wire.interface import BrokerInterface, Service
from ..fairness.pace import Pace
from ..fairness.throttle import OTHERS, Throttle
from ..fairness.turns import Turns
from .passed_fds import FdReaper


class ServerState:
    """What the connections of a listener have in common."""

    def __init__(self, limits: Limits) -> None:
        """:param limits: calls and requests that each user may make."""
        self.turns = Turns(limits.calls_per_user)
        self.pace = Pace(limits.requests_per_second, limits.requests_at_once)
        self.reaper = FdReaper()
        self.introspection = _introspection()
        self._throttle = Throttle()

    def may_log(self, uid: int) -> bool:
        """Whether one more line of log about this user is within measure."""
        return self._throttle.admits(uid, asyncio.get_running_loop().time())

    def not_logged(self) -> list[str]:
        """Return lines that say how many were not logged since the last call."""
        return [
            f"{count} more lines of {'others' if uid == OTHERS else f'uid {uid}'}"
            for uid, count in self._throttle.collect()
        ]


def _introspection() -> VarlinkServiceInterface:
    """Make org.varlink.service, which tells everybody the same."""
    described = VarlinkInterfaceRegistry()
    told = VarlinkServiceInterface(
        vendor="tapster",
        product="tapsterd",
        version=__version__,
        url="https://varlink.org",
        registry=described,
    )
    nobody = Peer(0, 0, frozenset(), 0)
    described.register_interface(BrokerInterface(cast(Service, None), nobody))
    described.register_interface(told)
    return told
