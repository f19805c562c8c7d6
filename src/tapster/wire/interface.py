# SPDX-License-Identifier: LGPL-2.1-or-later
"""The Varlink interface io.tapster.Broker, as typed Python.

This is the source: `io.tapster.Broker.varlink` beside it is generated from here
and committed, and a test holds it equal (`wire.generate`). The docstrings of what
is marked `varlinkmethod` are the comments there.
"""

# No "from __future__ import annotations": asyncvarlink reads the annotations.

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Protocol

from asyncvarlink import (
    FileDescriptor,
    VarlinkInterface,
    varlinkmethod,
    varlinksignature,
)
from asyncvarlink.conversion import (
    FileDescriptorVarlinkType,
    ObjectVarlinkType,
    OOBTypeState,
    VarlinkType,
)
from asyncvarlink.types import JSONObject

from ..model import AttachRequest, Peer
from .errors import ERRORS, INTERFACE
from .objects import (
    Attached,
    Event,
    Explanation,
    Finding,
    ForwardInfo,
    Info,
    NetworkInfo,
    Nic,
)
from .refusals import errors_to_wire, refused_in_time, wait_for_refusal


class Service(Protocol):
    """What the daemon does for each method of the interface."""

    async def attach(
        self, peer: Peer, request: AttachRequest
    ) -> tuple[FileDescriptor, Nic]: ...
    async def detach(self, peer: Peer, ifname: str, interactive: bool) -> None: ...
    async def list_nics(self, peer: Peer) -> list[Nic]: ...
    def watch(self, peer: Peer) -> AsyncIterator[Event]: ...
    def info(self, peer: Peer) -> Info: ...
    async def list_networks(self, peer: Peer) -> list[NetworkInfo]: ...
    async def reload(self, peer: Peer, interactive: bool) -> list[str]: ...
    async def add_forward(
        self,
        peer: Peer,
        network: str | None,
        port: str,
        guest: str,
        guest_port: int,
        interactive: bool,
    ) -> ForwardInfo: ...
    async def remove_forward(
        self, peer: Peer, network: str | None, port: str, interactive: bool
    ) -> None: ...
    async def list_forwards(self, peer: Peer) -> list[ForwardInfo]: ...
    async def explain(
        self, peer: Peer, request: AttachRequest, user: str | None, forward: str | None
    ) -> Explanation: ...
    async def diagnose(self, peer: Peer) -> list[Finding]: ...
    async def until(self, moment: float) -> None:
        """Wait until a moment of the event loop's time, exactly."""
        ...


class BrokerInterface(VarlinkInterface, name=INTERFACE):
    """Gives virtual machines network interfaces: taps on real bridges, wired,
    locked and handed over as open file descriptors.
    """

    errors = ERRORS

    def __init__(self, service: Service, peer: Peer) -> None:
        """Make the interface of one connection; `peer` is at its other end."""
        self.service = service
        self.peer = peer

    @varlinkmethod
    @refused_in_time
    async def Attach(
        self,
        *,
        network: str | None = None,
        bridge: str | None = None,
        name: str | None = None,
        mac: str | None = None,
        vnet_hdr: bool | None = None,
        for_parent: bool | None = None,
        interactive: bool | None = None,
    ) -> Attached:
        """Make a tap on a network, or on the Linux bridge of that name, and
        hand it over. The tap exists as long as its descriptor is open
        somewhere. A guest without a name is given one. A guest of a network
        without a MAC is given one, unless for_parent is set: then the port
        opens for the first MAC that the guest uses. vnet_hdr (default true)
        asks for IFF_VNET_HDR. for_parent says that the tap is for the parent
        process of the caller, which cannot be told a MAC; QEMU's helper sets
        it. interactive lets polkit ask a person, if a rule wants polkit; the
        answer may then take minutes.
        """
        request = AttachRequest(
            network=network,
            bridge=bridge,
            name=name,
            mac=mac,
            vnet_hdr=vnet_hdr is not False,
            for_parent=for_parent is True,
            interactive=interactive is True,
        )
        fd, nic = await self.service.attach(self.peer, request)
        return {"fd": fd, "nic": nic}

    @varlinkmethod
    @refused_in_time
    async def Detach(self, *, ifname: str, interactive: bool | None = None) -> None:
        """Disconnect a NIC that is the caller's, or that the caller manages:
        the tap is removed, although somebody holds its descriptor.
        """
        await self.service.detach(self.peer, ifname, interactive is True)

    @varlinkmethod(return_parameter="nics")
    async def List(self) -> list[Nic]:
        """The caller's NICs, and those that the caller manages; for root, all."""
        with errors_to_wire():
            return await self.service.list_nics(self.peer)

    @varlinkmethod(return_parameter="event", delay_generator=False)
    async def Watch(self) -> AsyncIterator[Event]:
        """What happens to NICs that the caller may see, from now on. The
        first event, "watching", says that no event is missed after it.
        """
        with errors_to_wire():
            async for event in self.service.watch(self.peer):
                yield event

    @varlinkmethod
    def GetInfo(self) -> Info:
        """The broker's version and tier (system or rootless), the networks
        that the caller may use, and the Linux bridges.
        """
        with errors_to_wire():
            return self.service.info(self.peer)

    @varlinkmethod(return_parameter="networks")
    async def ListNetworks(self) -> list[NetworkInfo]:
        """The networks that the caller may use, with the caller's own instance
        of each. Root gets all networks, once for each instance.
        """
        with errors_to_wire():
            return await self.service.list_networks(self.peer)

    @varlinkmethod(return_parameter="changes")
    @refused_in_time
    async def Reload(self, *, interactive: bool | None = None) -> list[str]:
        """Read the configuration again. Root may ask for that, and a user who
        manages every network, or whose own the broker is. Says what changed,
        and what a change waits for. No guest is touched, and a configuration
        that is wrong changes nothing.
        """
        return await self.service.reload(self.peer, interactive is True)

    @varlinkmethod(return_parameter="forward")
    @refused_in_time
    async def AddForward(
        self,
        *,
        network: str | None = None,
        port: str,
        guest: str,
        guest_port: int,
        interactive: bool | None = None,
    ) -> ForwardInfo:
        """Forward a port of the host, "tcp/8080", to a port of the caller's guest
        of that name, now and whenever the guest is attached again. The network
        is the default one if none is named.
        """
        return await self.service.add_forward(
            self.peer, network, port, guest, guest_port, interactive is True
        )

    @varlinkmethod
    @refused_in_time
    async def RemoveForward(
        self,
        *,
        network: str | None = None,
        port: str,
        interactive: bool | None = None,
    ) -> None:
        """Stop forwarding a port, the caller's or one that the caller manages."""
        await self.service.remove_forward(self.peer, network, port, interactive is True)

    @varlinkmethod(return_parameter="forwards")
    async def ListForwards(self) -> list[ForwardInfo]:
        """The ports that are forwarded to the caller's guests, and those that the
        caller manages; for root, all.
        """
        with errors_to_wire():
            return await self.service.list_forwards(self.peer)

    @varlinkmethod(return_parameter="explanation")
    @refused_in_time
    async def Explain(
        self,
        *,
        user: str | None = None,
        network: str | None = None,
        bridge: str | None = None,
        name: str | None = None,
        mac: str | None = None,
        forward: str | None = None,
    ) -> Explanation:
        """Whether a user, the caller if none is named, may attach such a guest, or
        forward that port ("tcp/8080") to it, and by which rules, as the broker
        would decide now. Only root may ask about others.
        """
        arrived = asyncio.get_running_loop().time()
        request = AttachRequest(network, bridge, name, mac)
        found = await self.service.explain(self.peer, request, user, forward)
        if not found.allowed:
            await wait_for_refusal(self.service, arrived)
        return found

    @varlinkmethod(return_parameter="findings")
    async def Diagnose(self) -> list[Finding]:
        """What on this host keeps the broker's networks from working, or will,
        and what to do about it. Severity: "error", "warning" or "info".
        """
        with errors_to_wire():
            return await self.service.diagnose(self.peer)


class _AttachedType(ObjectVarlinkType):
    """Writes an `Attached` as the library's type does, in a fifth of the time.

    The library checks each field of the Nic. The broker has just made it, so that
    the attach path can do without.
    """

    def tojson(self, obj: Any, oobstate: OOBTypeState = None) -> JSONObject:
        fd = FileDescriptorVarlinkType().tojson(obj["fd"], oobstate)
        return {"fd": fd, "nic": dict(vars(obj["nic"]))}


def _write_attached_quickly() -> None:
    """Have Attach's replies converted by `_AttachedType`."""
    signature = varlinksignature(BrokerInterface.Attach)
    assert signature is not None  # noqa: S101 - it is marked varlinkmethod
    fields = {
        "fd": FileDescriptorVarlinkType(),
        "nic": VarlinkType.from_type_annotation(Nic),
    }
    signature.return_type = _AttachedType(fields)


_write_attached_quickly()
