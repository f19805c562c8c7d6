# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a decision is made of, for unit tests of `daemon/decide`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from support.builders import make_nic, make_peer
from tapster.daemon.audit.request_context import RequestContext
from tapster.daemon.decide.bridge_grants import BridgeGrants
from tapster.daemon.decide.judge import Judge
from tapster.daemon.decide.polkit.client import Answer
from tapster.daemon.nics.ledger import Ledger
from tapster.model import NetworkDefinition, Peer, Rule, State
from tapster.policy.config.current import CurrentConfig
from tapster.policy.config.load import Config
from tapster.policy.core.rulebook import DEFAULT_NETWORK, Target

ALICE = make_peer()
YES, NO = Answer(True, "yes"), Answer(False, "polkit does not allow it")
LAN = Target(network="lan")
ASKING = Rule("f:1", networks=("lan",), effect="polkit")
_NETWORKS = {name: NetworkDefinition(name) for name in (DEFAULT_NETWORK, "lan", "lab")}


def make_config(*rules: Rule) -> Config:
    """Networks default, lan and lab, and some rules."""
    return Config(networks=_NETWORKS, rules=rules)


def make_judge(ledger: Ledger, current: CurrentConfig, **options: bool) -> Judge:
    """A judge that reads the files of other programs.

    :param options: of `BridgeGrants`.
    """
    return Judge(current, ledger, BridgeGrants(current, ledger, **options))


def add_guest(ledger: Ledger, name: str) -> None:
    """Give Alice a guest on network lan."""
    number = len(ledger) + 1
    ledger.add(
        make_nic(
            number,
            name=name,
            network="lan",
            uid=ALICE.uid,
            mac=None,
            ipv4=None,
            state=State.WAITING,
        )
    )


class FakePolkit:
    """Says what it is told to, after something has happened meanwhile."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, dict[str, str], bool]] = []
        self.meanwhile: Callable[[], None] = lambda: None

    async def authorize(
        self, _peer: Peer, action: str, details: Mapping[str, str], interactive: bool
    ) -> Answer:
        self.asked.append((action, dict(details), interactive))
        await asyncio.sleep(0)
        self.meanwhile()
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    @property
    def guests(self) -> list[str | None]:
        """The names of the guests that it was asked about."""
        return [details.get("guest") for _, details, _ in self.asked]


class FakeEvents:
    """Which requests were denied, and why."""

    def __init__(self) -> None:
        self.denials: list[tuple[RequestContext, str]] = []

    def denied(self, context: RequestContext, reason: str) -> None:
        self.denials.append((context, reason))
