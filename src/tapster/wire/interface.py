# SPDX-License-Identifier: LGPL-2.1-or-later
"""The Varlink interface io.tapster.Broker, as typed Python.

This is the source: `io.tapster.Broker.varlink` beside it is generated from
here (`python -m tapster.wire.interface`), committed, and held equal by a test.
Doc strings of what is marked `varlinkmethod` become the comments there.
"""

# No "from __future__ import annotations": asyncvarlink reads the annotations.

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict

from asyncvarlink import (
    FileDescriptor,
    TypedVarlinkErrorReply,
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

from .. import errors
from ..model import AttachRequest, Peer
from .errors import ERRORS, INTERFACE, to_wire

# A refusal is answered this long after the request came, whatever was looked at
# for it: how long it took would tell what exists.
REFUSAL_SECONDS = 0.05
_REFUSALS = (errors.NotAuthorized, errors.NoSuchNic, errors.NoSuchForward)


@dataclass
class Nic:
    """One attached NIC. Counters are the guest's: rx is what it received.
    `expires` is when it is taken away, by the host's clock: null for never.
    """

    ifname: str
    mac: str | None
    ipv4: str | None
    ipv6: str | None
    mtu: int
    bridge: str
    network: str | None
    uid: int
    user: str
    pid: int
    name: str
    state: str
    reason: str | None
    expires: str | None
    rx_bytes: int
    rx_packets: int
    tx_bytes: int
    tx_packets: int


@dataclass
class Event:
    """Something that was decided or has changed; docs/events.md has each field.

    `uid` to `command` are who asked for it; where nobody did, `verb` is null, and
    they are whose it is. `outcome`: "ok", "denied" or "failed". Durations are in
    microseconds. Only root is told `executable`, and why a request was not granted.
    """

    time: str
    event: str
    verb: str | None = None
    outcome: str = "ok"
    uid: int = -1
    user: str = ""
    gid: int | None = None
    pid: int = 0
    executable: str | None = None
    command: str | None = None
    owner: int | None = None
    network: str | None = None
    bridge: str | None = None
    name: str | None = None
    ifname: str | None = None
    mac: str | None = None
    ipv4: str | None = None
    ipv6: str | None = None
    port: str | None = None
    guest_port: int | None = None
    rule: str | None = None
    reason: str | None = None
    duration: int | None = None
    count: int | None = None


@dataclass
class Network:
    """A network that the caller may use."""

    name: str
    mode: str
    max_nics: int
    nics: int


@dataclass
class NetworkInfo:
    """A network with all that is to be known of it, or one user's instance.

    `uid` and `user` are whose instance it is: null where all have the same, and
    where none is up. State "pending": its definition changed, and takes effect
    when its last guest has gone; "removed": its definition is gone, and its
    guests stay. Rates are bits a second, 0 for no limit. `nics` are the
    caller's, for root all. `notes` are for people.
    """

    name: str
    mode: str
    scope: str
    uid: int | None
    user: str | None
    state: str
    bridge: str | None
    subnet4: str | None
    subnet6: str | None
    gateway4: str | None
    gateway6: str | None
    domain: str | None
    mtu: int | None
    isolation: bool
    egress: str | None
    host_access: list[str]
    egress_rate: int
    ingress_rate: int
    dns: list[str]
    dhcp: bool
    address_check: str | None
    forwards: list[str]
    max_nics: int | None
    nics: int
    notes: list[str]


@dataclass
class ForwardInfo:
    """A port of the host that leads to a guest.

    State "active", or "waiting": the guest is not attached. `static`: the
    configuration has it; it is nobody's while it waits for anybody's guest.
    """

    network: str
    uid: int | None
    user: str | None
    port: str
    guest: str
    guest_port: int
    state: str
    ipv4: str | None
    ipv6: str | None
    static: bool


@dataclass
class Finding:
    """Something about the host or the broker that a person should know."""

    code: str
    severity: str
    message: str
    remedy: str | None


@dataclass
class Step:
    """A rule about what was asked for, and what came of it."""

    place: str
    effect: str
    outcome: str


@dataclass
class Explanation:
    """Whether a user may have something, and why.

    `rule` is where the rule or line stands that decided, and `steps` are all
    rules about the same, in their order. `polkit` says that polkit has to allow it
    too; what it says is in `reason` where it could be asked. `max_nics` is how
    many NICs the user may have by that rule, `nics` how many it has of them;
    `network_max_nics` and `network_nics` are of all users together. A caller that
    is not root, and may not, is told no more than that.
    """

    user: str
    uid: int
    allowed: bool
    reason: str
    rule: str | None
    polkit: bool
    max_nics: int | None
    nics: int
    network_max_nics: int | None
    network_nics: int | None
    steps: list[Step]
    notes: list[str]


class Info(TypedDict):
    """What GetInfo answers."""

    version: str
    tier: str
    networks: list[Network]
    bridges: list[str]


class Service(Protocol):
    """What the daemon does behind the interface."""

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
        """Wait for a time of the event loop's, exactly."""
        ...


class Attached(TypedDict):
    """What Attach answers; `fd` is an index into the descriptors sent along."""

    fd: FileDescriptor
    nic: Nic


class BrokerInterface(VarlinkInterface, name=INTERFACE):
    """Gives virtual machines network interfaces: taps on real bridges, wired,
    locked and handed over as open file descriptors.
    """

    errors = ERRORS

    def __init__(self, service: Service, peer: Peer) -> None:
        """One instance a connection: `peer` is who is at its other end."""
        self._service = service
        self._peer = peer

    @varlinkmethod
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
        hand it over. The tap lives as long as its descriptor is open
        somewhere. Without a name the guest gets one. Without a MAC a guest of
        a network gets one, unless for_parent is set: then the port opens for
        the first MAC that the guest shows. vnet_hdr (default true) asks for
        IFF_VNET_HDR. for_parent says that the tap is for the caller's parent
        process, which cannot be told a MAC: QEMU's helper does. interactive
        lets polkit ask a person, where a rule wants polkit; the answer may
        take minutes then.
        """
        arrived = asyncio.get_running_loop().time()
        request = AttachRequest(
            network=network,
            bridge=bridge,
            name=name,
            mac=mac,
            vnet_hdr=vnet_hdr is not False,
            for_parent=for_parent is True,
            interactive=interactive is True,
        )
        try:
            fd, nic = await self._service.attach(self._peer, request)
        except errors.RequestError as err:
            raise await _refusal(self._service, err, arrived) from err
        return {"fd": fd, "nic": nic}

    @varlinkmethod
    async def Detach(self, *, ifname: str, interactive: bool | None = None) -> None:
        """Take a NIC away from its guest: the tap is removed, whoever holds
        its descriptor. The caller's own, or another's that it manages.
        """
        arrived = asyncio.get_running_loop().time()
        try:
            await self._service.detach(self._peer, ifname, interactive is True)
        except errors.RequestError as err:
            raise await _refusal(self._service, err, arrived) from err

    @varlinkmethod(return_parameter="nics")
    async def List(self) -> list[Nic]:
        """The caller's NICs, and those that it manages; root sees all."""
        with _errors_to_wire():
            return await self._service.list_nics(self._peer)

    @varlinkmethod(return_parameter="event", delay_generator=False)
    async def Watch(self) -> AsyncIterator[Event]:
        """What happens to NICs that the caller may see, from now on. The
        first event, "watching", says that the watch is in place.
        """
        with _errors_to_wire():
            async for event in self._service.watch(self._peer):
                yield event

    @varlinkmethod
    def GetInfo(self) -> Info:
        """The broker's version and tier (system or rootless), the networks
        that the caller may use, and the Linux bridges.
        """
        with _errors_to_wire():
            return self._service.info(self._peer)

    @varlinkmethod(return_parameter="networks")
    async def ListNetworks(self) -> list[NetworkInfo]:
        """The networks that the caller may use, with the caller's own instance
        of each. Root sees all, a network as often as it has instances.
        """
        with _errors_to_wire():
            return await self._service.list_networks(self._peer)

    @varlinkmethod(return_parameter="changes")
    async def Reload(self, *, interactive: bool | None = None) -> list[str]:
        """Read the configuration anew, which only root may ask for, or who
        manages every network, or whose the broker is. Says what changed, and
        what that waits for. No guest is touched, and a configuration that is
        wrong changes nothing.
        """
        arrived = asyncio.get_running_loop().time()
        try:
            return await self._service.reload(self._peer, interactive is True)
        except errors.RequestError as err:
            raise await _refusal(self._service, err, arrived) from err

    @varlinkmethod(return_parameter="forward")
    async def AddForward(
        self,
        *,
        network: str | None = None,
        port: str,
        guest: str,
        guest_port: int,
        interactive: bool | None = None,
    ) -> ForwardInfo:
        """Have what comes to a port of the host, "tcp/8080", go to a port of the
        caller's guest of that name, now and whenever it is attached again. The
        network is the default one if none is named.
        """
        arrived = asyncio.get_running_loop().time()
        try:
            return await self._service.add_forward(
                self._peer, network, port, guest, guest_port, interactive is True
            )
        except errors.RequestError as err:
            raise await _refusal(self._service, err, arrived) from err

    @varlinkmethod
    async def RemoveForward(
        self,
        *,
        network: str | None = None,
        port: str,
        interactive: bool | None = None,
    ) -> None:
        """Undo AddForward, the caller's own or another's that it manages."""
        arrived = asyncio.get_running_loop().time()
        try:
            await self._service.remove_forward(
                self._peer, network, port, interactive is True
            )
        except errors.RequestError as err:
            raise await _refusal(self._service, err, arrived) from err

    @varlinkmethod(return_parameter="forwards")
    async def ListForwards(self) -> list[ForwardInfo]:
        """The ports that lead to the caller's guests, and those that it manages;
        root sees all.
        """
        with _errors_to_wire():
            return await self._service.list_forwards(self._peer)

    @varlinkmethod(return_parameter="explanation")
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
        """Whether a user, the caller if none is named, may attach this, or
        forward that port ("tcp/8080") to its guest, and by which rules: as the
        broker would decide it now. Only root may ask about others.
        """
        arrived = asyncio.get_running_loop().time()
        request = AttachRequest(network, bridge, name, mac)
        try:
            found = await self._service.explain(self._peer, request, user, forward)
        except errors.RequestError as err:
            raise await _refusal(self._service, err, arrived) from err
        if not found.allowed:
            await _wait_until(self._service, arrived + REFUSAL_SECONDS)
        return found

    @varlinkmethod(return_parameter="findings")
    async def Diagnose(self) -> list[Finding]:
        """What on this host is in the way of the broker's networks, or will be,
        and what to do about it. Severity: "error", "warning" or "info".
        """
        with _errors_to_wire():
            return await self._service.diagnose(self._peer)


class _AttachedType(ObjectVarlinkType):
    """The same as it replaces, in a fifth of the time: a Nic is made here, field
    by field, and need not be checked field by field on the attach path."""

    def tojson(self, obj: Any, oobstate: OOBTypeState = None) -> JSONObject:
        fd = FileDescriptorVarlinkType().tojson(obj["fd"], oobstate)
        return {"fd": fd, "nic": dict(vars(obj["nic"]))}


def _quicken() -> None:
    signature = varlinksignature(BrokerInterface.Attach)
    assert signature is not None  # noqa: S101 - it is marked varlinkmethod
    fields = {
        "fd": FileDescriptorVarlinkType(),
        "nic": VarlinkType.from_type_annotation(Nic),
    }
    signature.return_type = _AttachedType(fields)


_quicken()


async def _wait_until(service: Service, moment: float) -> None:
    if moment > asyncio.get_running_loop().time():
        await service.until(moment)


async def _refusal(
    service: Service, error: errors.RequestError, arrived: float
) -> TypedVarlinkErrorReply:
    """The reply for an error; a refusal's comes at its time."""
    if isinstance(error, _REFUSALS):
        await _wait_until(service, arrived + REFUSAL_SECONDS)
    return to_wire(error)


@contextmanager
def _errors_to_wire() -> Iterator[None]:
    """Let what the caller is meant to see through, as its reply."""
    try:
        yield
    except errors.RequestError as err:
        raise to_wire(err) from err


def description() -> str:
    """The interface in Varlink's own language."""
    return BrokerInterface.render_interface_description()


if __name__ == "__main__":
    import os

    path = os.path.join(os.path.dirname(__file__), f"{INTERFACE}.varlink")
    with open(path, "w", encoding="utf-8") as file:
        file.write(description())
