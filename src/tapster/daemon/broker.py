# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the methods of the Varlink interface reach for, until each is given its own."""

from __future__ import annotations

from dataclasses import dataclass

from ..model import AttachRequest
from ..networks.host_context import HostContext
from ..policy.config.current import CurrentConfig
from ..policy.config.load import Config
from .attach import Attacher
from .audit.events import Events
from .audit.request_context import RequestContext
from .decide.closing import ClosingTaps
from .decide.consent import Consent
from .decide.judge import Judge
from .decide.permissions import Permissions
from .decide.visibility import Visibility
from .detach import Detacher
from .nics.ledger import Ledger
from .nics.nic import Nic
from .provision.tap_fd import TapDescriptor
from .publish.hooks.lifecycle import Hooks
from .publish.networks import RunningNetworks
from .publish.open_forwards import OpenForwards
from .reconfigure import Reconfigurer
from .resolve.bridges import Bridges


@dataclass(frozen=True)
class Broker:
    current: CurrentConfig
    env: HostContext
    ledger: Ledger
    events: Events
    bridges: Bridges
    judge: Judge
    consent: Consent
    closing: ClosingTaps
    permissions: Permissions
    visibility: Visibility
    networks: RunningNetworks
    open_forwards: OpenForwards
    hooks: Hooks
    attacher: Attacher
    detacher: Detacher
    reconfigurer: Reconfigurer

    @property
    def config(self) -> Config:
        return self.current.value

    async def attach(
        self, context: RequestContext, request: AttachRequest
    ) -> tuple[TapDescriptor, Nic]:
        return await self.attacher.attach(context, request)

    async def detach(
        self, context: RequestContext, ifname: str, interactive: bool
    ) -> None:
        await self.detacher.detach(context, ifname, interactive)

    def reload(self, config: Config) -> list[str]:
        return self.reconfigurer.reload(config)
