# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `tapster doctor` asks for: a look at the host and at the broker's own files."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from ....kernel.netlink import NetlinkSocket
from ....kernel.nft import Nft
from ....model import Peer
from ....policy.config.current import CurrentConfig
from ...publish.networks import RunningNetworks
from . import findings
from .finding import Finding
from .host_facts import gather


class HookCheck(Protocol):
    """Knows which hooks can't be trusted."""

    def refused(self) -> Sequence[str]:
        """Say of each which it is, and why."""


class Examination:
    """Examines the host, for one caller at a time."""

    def __init__(
        self,
        current: CurrentConfig,
        networks: RunningNetworks,
        hooks: HookCheck,
        *,
        rootless: bool,
    ) -> None:
        """
        :param current: the configuration that holds now.
        :param networks: those that are up.
        :param hooks: the administrator's.
        :param rootless: whether the broker has a network namespace of its own, in
            which no program but itself manages devices.
        """
        self._current = current
        self._networks = networks
        self._hooks = hooks
        self._rootless = rootless
        self._lock = asyncio.Lock()

    async def examine(self, peer: Peer) -> list[Finding]:
        """Find what keeps networks from working.

        Who is not root is told of overlaps of its own networks only, and not which
        file is wrong.
        """
        bridges = [
            network.bridge
            for network in self._networks.all()
            if peer.is_root or network.uid in (None, peer.uid)
        ]
        # One at a time: it takes a thread of those that networks are started in.
        async with self._lock:
            found = await asyncio.to_thread(_look, bridges)
        if self._rootless:
            found = [f for f in found if f.code not in findings.OF_MANAGERS]
        return [*self._own(peer), *found]

    def _own(self, peer: Peer) -> list[Finding]:
        """What is wrong with the broker's own files."""
        found = []
        problem = self._current.value.problem
        if problem is not None:
            found.append(findings.of_configuration(problem if peer.is_root else None))
        refused = self._hooks.refused()
        if refused:
            told = refused if peer.is_root else [None]
            found += [findings.of_hook(text) for text in told]
        return found


def _look(bridges: list[str]) -> list[Finding]:
    """Look at the host. This runs in a thread, with sockets of its own, because a
    host's rules may be many."""
    with NetlinkSocket() as netlink:
        host = gather(netlink, bridges)
    rules = Nft().listing("list all rules", "list ruleset")
    return findings.diagnose(rules, bridges, host)
