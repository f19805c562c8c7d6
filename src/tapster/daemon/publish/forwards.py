# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ports of the host that lead to a guest: whose they are, and which are open.

A forward is for a guest's name: it stays when the guest goes and is there again
when the guest is. While it exists its port is held by bound sockets, so that no
program of the host takes it and wonders where its callers are.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from ...errors import BrokerFailure, ForwardRefused, InvalidRequest, NoSuchForward
from ...kernel.nft import NftError
from ...model import Forward, Mode, Peer, Port, State
from ...networks import definition_json, elements, state_files
from ...networks.dnsmasq import write_file
from ...networks.guest_addresses import reservation_for
from ...policy.core.decide import Decision, decide
from ...policy.core.rulebook import DEFAULT_NETWORK, Target
from ..audit.record import RequestContext
from ..broker import Broker
from ..nics.ledger import Nic
from ..resolve.request import is_label
from .host_port import forget_flows, hold

_log = logging.getLogger(__name__)

PER_USER = 32  # forwards, of two descriptors each
IN_ALL = 4096


@dataclass(slots=True)
class Row:
    """One forward. `uid` None: of the configuration, for anybody's guest."""

    network: str
    uid: int | None
    forward: Forward
    sockets: list[socket.socket] = field(default_factory=list)
    nic: Nic | None = None  # the guest's, while it is open
    told: tuple[str | None, str | None] = (None, None)  # to nftables

    @property
    def place(self) -> tuple[str, int]:
        """What a forward is alone with on a host."""
        return self.forward.port.protocol, self.forward.port.first

    def is_for(self, nic: Nic) -> bool:
        return (
            nic.network == self.network
            and nic.name == self.forward.guest
            and self.uid in (None, nic.uid)
            and nic.state is State.ACTIVE
            and nic.ipv4 is not None
        )


class Forwards:
    """All forwards of one broker."""

    def __init__(self, broker: Broker, path: str) -> None:
        """:param path: where users' forwards are kept."""
        self._broker = broker
        self._path = path
        self._rows: dict[tuple[str, int], Row] = {}
        self._thread = ThreadPoolExecutor(1, "flows")  # made when it is needed
        self._forgetting: Future[None] | None = None
        self._load()
        self.take_static()
        broker.on_attached = self._attached
        broker.on_gone = self._gone

    def _load(self) -> None:
        try:
            found = state_files.read_json(self._path)
        except FileNotFoundError:
            return
        except ValueError as err:
            _log.warning("%s is damaged; forwards are lost: %s", self._path, err)
            return
        for entry in found if isinstance(found, list) else [found]:
            try:
                row = _kept_row(entry)
                if row.place in self._rows or len(self._rows) >= IN_ALL:
                    raise ValueError("one too many")
            except (ValueError, TypeError) as err:
                # What nftables would not take would take all others' along.
                _log.warning(
                    "%s is damaged; a forward is lost: %s", self._path, str(err)[:200]
                )
                continue
            self._enter(row)

    def _save(self) -> None:
        rows = [
            [row.network, row.uid, str(f.port), f.guest, f.guest_port]
            for row in self._rows.values()
            for f in (row.forward,)
            if row.uid is not None
        ]
        write_file(f"{self._path}.new", json.dumps(rows))
        os.replace(f"{self._path}.new", self._path)

    def _enter(self, row: Row) -> None:
        """Take a row in; if its port can't be had it is there all the same."""
        try:
            row.sockets = hold(row.forward.port)
        except OSError as err:
            _log.warning("port %s is not held: %s", row.forward.port, err.strerror)
        self._rows[row.place] = row

    def take_static(self) -> None:
        """Have the forwards of the configuration, and no others of it."""
        wanted = {
            (forward.port.protocol, forward.port.first): Row(name, None, forward)
            for name, definition in self._broker.config.networks.items()
            for forward in definition.forward
        }
        for place, row in list(self._rows.items()):
            new = wanted.get(place)
            if row.uid is not None:
                if new is not None:
                    _log.error("port %s is a user's already", row.forward.port)
                    del wanted[place]
            elif new and (new.network, new.forward) == (row.network, row.forward):
                del wanted[place]
            else:
                self._drop(row)
        for row in wanted.values():
            self._enter(row)
            self._open_for_anyone(row)

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)
        for row in self._rows.values():
            for held in row.sockets:
                held.close()

    # For the broker

    def statements(self, nics: Iterable[Nic]) -> str:
        """What makes the forwards of these NICs, which are all on networks with
        a way in, as text for nftables; they are open from then on."""
        text = ""
        for nic in nics:
            for row in self._rows.values():
                if self._is_for(row, nic) and row.nic is None:
                    row.nic, row.told = nic, (nic.ipv4, nic.ipv6)
                    text += elements.forward("add", row.forward, *row.told)
        return text

    def _attached(self, nic: Nic) -> None:
        if self._rows and self._has_way_in(nic):
            for row in self._rows.values():
                if row.nic is None and self._is_for(row, nic):
                    self._open(row, nic)

    def _gone(self, nic: Nic) -> None:
        for row in self._rows.values():
            if row.nic is nic:
                self._shut(row)
                self._open_for_anyone(row)

    def _is_for(self, row: Row, nic: Nic) -> bool:
        """Whether a NIC is the guest of a forward. One of the configuration is
        for the user for whom the guest's name is reserved, if it is."""
        if not row.is_for(nic):
            return False
        if row.uid is not None and not row.sockets:
            # Who came first has the port: a program of the host, which bound it
            # while no broker ran, loses nothing to a user's guest.
            try:
                row.sockets = hold(row.forward.port)
            except OSError:
                return False
        definition = self._broker.config.networks.get(row.network)
        if row.uid is None and definition is not None:
            reserved = definition.reservations.get(nic.name)
            if reserved is not None:
                return reservation_for(definition, nic.name, nic.uid) is not None
        return True

    def _has_way_in(self, nic: Nic) -> bool:
        """Whether a NIC's network forwards ports: of what it is, not of what the
        configuration says by now, or said when the forward was made."""
        network = self._broker.network_of(nic)
        return network is not None and network.definition.mode is Mode.NAT

    def _open_for_anyone(self, row: Row) -> None:
        for nic in self._broker.ledger:
            if row.nic is None and self._is_for(row, nic) and self._has_way_in(nic):
                self._open(row, nic)

    def _open(self, row: Row, nic: Nic) -> None:
        row.nic, row.told = nic, (nic.ipv4, nic.ipv6)
        try:
            self._broker.env.nft.run(
                f"open {row.forward}", elements.forward("add", row.forward, *row.told)
            )
        except NftError as err:
            _log.error("%s", err)
            row.nic = None
            return
        self._forget(row.forward.port)

    def _shut(self, row: Row) -> None:
        row.nic = None
        try:
            self._broker.env.nft.run(
                f"shut {row.forward}",
                elements.forward("delete", row.forward, *row.told),
            )
        except NftError as err:
            _log.error("%s", err)
        self._forget(row.forward.port)

    def _forget(self, port: Port) -> None:
        """In a thread, one after the other: a host may know very many flows."""
        self._forgetting = self._thread.submit(forget_flows, port)

    async def settled(self) -> None:
        """Until all that was opened and shut so far is so for known flows, too."""
        if self._forgetting is not None:
            await asyncio.wrap_future(self._forgetting)

    def _drop(self, row: Row) -> None:
        if row.nic is not None:
            self._shut(row)
        for held in row.sockets:
            held.close()
        del self._rows[row.place]

    # For users

    async def add(
        self,
        context: RequestContext,
        network: str | None,
        port: str,
        guest: str,
        guest_port: int,
        interactive: bool,
    ) -> Row:
        """Forward a port of the host to the caller's guest of that name.

        :raises InvalidRequest, NotAuthorized, ForwardRefused: and why.
        """
        peer, name = context.peer, _parse_network(network)
        forward = _parse(port, guest, guest_port)
        context.network, context.name, context.port = (
            name,
            forward.guest,
            str(forward.port),
        )
        context.guest_port = forward.guest_port
        self._check_network(context, name, forward.guest)
        decision = await self._broker.judge.allow_forward(
            context, name, forward.guest, forward.port, interactive
        )
        # Polkit may have been asked: all is looked at anew.
        self._check_network(context, name, forward.guest)
        if not decision.allowed:
            self._broker.events.denied(context, decision.reason)
            raise ForwardRefused(
                f"you may not forward {forward.port}",
                "ports from 1024 up are granted unless the administrator says else",
            )
        try:
            return self._add(peer, name, forward)
        except (ForwardRefused, BrokerFailure) as err:
            self._broker.events.failed(context, err.message)
            raise

    def _add(self, peer: Peer, name: str, forward: Forward) -> Row:
        row = Row(name, peer.uid, forward)
        if row.place in self._rows:
            raise ForwardRefused(
                f"port {forward.port} is forwarded already",
                "'tapster forward ls' shows yours; choose another port",
            )
        if len(self._rows) >= IN_ALL:
            raise ForwardRefused("this host has all the forwards it may have")
        if sum(r.uid == peer.uid for r in self._rows.values()) >= PER_USER:
            raise ForwardRefused(
                f"you have all the forwards you may have ({PER_USER})",
                "'tapster forward rm' gives one back",
            )
        try:
            row.sockets = hold(forward.port)
        except PermissionError:
            raise ForwardRefused(
                f"port {forward.port} is privileged, and tapsterd may not bind it",
                "give tapsterd CAP_NET_BIND_SERVICE",
            ) from None
        except OSError as err:
            raise ForwardRefused(
                f"port {forward.port} is taken on this host",
                f"{err.strerror}; choose another port",
            ) from None
        self._rows[row.place] = row
        try:
            self._save()
        except OSError as err:
            self._drop(row)
            _log.error("forwards can't be kept: %s", err)
            raise BrokerFailure(
                "the forward could not be kept", "the broker's log has the reason"
            ) from err
        self._open_for_anyone(row)
        return row

    def _check_network(self, context: RequestContext, name: str, guest: str) -> None:
        """:raises NotAuthorized, ForwardRefused: no port can lead there."""
        broker = self._broker
        definition = broker.config.networks.get(name)
        target = Target(network=name, name=guest)
        decision = decide(context.peer, target, broker.config.book)
        if definition is None:  # which takes as long as one that is denied
            decision = Decision(False, "no such network")
        if definition is None or not decision.allowed:
            broker.judge.refuse(context, decision)
        if broker.env.rootless:
            raise ForwardRefused(
                "your own broker cannot forward ports of the host",
                "it needs the system's broker, tapsterd",
            )
        if definition.mode is not Mode.NAT:
            raise ForwardRefused(
                f"network {name} has no way in",
                "only a network of mode nat forwards ports",
            )

    async def remove(
        self, context: RequestContext, network: str | None, port: str, interactive: bool
    ) -> Row:
        """Give a forward up, the caller's own or one that it manages.

        :returns: what was given up.
        :raises InvalidRequest: it names no port, or no network.
        :raises NoSuchForward: there is none, or it is not the caller's.
        """
        name = _parse_network(network)
        wanted = parse_port(port)
        context.network, context.port = name, str(wanted)
        place = wanted.protocol, wanted.first
        row = self._rows.get(place)
        if row is not None and (row.network != name or row.uid is None):
            row = None
        allowed = row is not None and row.uid == context.peer.uid
        if row is not None and not allowed:
            target = Target(network=row.network, name=row.forward.guest)
            allowed = await self._broker.judge.manages(context, target, interactive)
        if row is None or not allowed or self._rows.get(place) is not row:
            reason = "there is none" if row is None else f"it is uid {row.uid}'s"
            self._broker.events.denied(context, reason)
            raise NoSuchForward(
                f"there is no forward of {port} on network {name}",
                "'tapster forward ls' shows yours; those of the configuration stay",
            )
        context.name, context.guest_port = row.forward.guest, row.forward.guest_port
        self._drop(row)
        try:
            self._save()
        except OSError as err:
            _log.error("forwards can't be kept: %s", err)  # it is back after a restart
        definitions = self._broker.config.networks.values()
        if any(f.port == row.forward.port for d in definitions for f in d.forward):
            self.take_static()  # what had to wait for the port
        return row

    def rows(self, peer: Peer, sees: Callable[[Target], bool]) -> list[Row]:
        """Those that the caller may see: its own, the configuration's that lead to
        its guest, and those of others where it manages."""
        return [
            row
            for row in self._rows.values()
            if row.uid == peer.uid
            or (row.nic is not None and row.nic.uid == peer.uid)
            or sees(Target(network=row.network, name=row.forward.guest))
        ]


def _kept_row(entry: object) -> Row:
    """:raises ValueError, TypeError: it is none that was ever written."""
    if not isinstance(entry, list):
        raise TypeError("not a list")
    network, uid, port, guest, number = entry
    for value, kind in zip(entry, (str, int, str, str, int), strict=True):
        if type(value) is not kind:
            raise TypeError(f"{str(value)[:40]!r} is no {kind.__name__}")
    if not is_label(network) or not is_label(guest):
        raise ValueError("no network's or guest's name")
    if not (0 <= uid < 2**32 and 0 < number < 65536):
        raise ValueError("no uid, or no port")
    parsed = definition_json.parse_port(port)
    if parsed.first != parsed.last:
        raise ValueError("a range of ports")
    return Row(network, uid, Forward(parsed, guest, number))


def _parse_network(text: str | None) -> str:
    if text is None:
        return DEFAULT_NETWORK
    if not is_label(text):
        raise InvalidRequest("network: not a network's name", "letters, digits and '-'")
    return text


def parse_port(text: str) -> Port:
    """One port of the host.

    :raises InvalidRequest: it is none.
    """
    try:
        port = definition_json.parse_port(text)
    except ValueError:
        raise InvalidRequest("port: not a port", "as in tcp/8080 or udp/53") from None
    if port.first != port.last:
        raise InvalidRequest("port: a range", "one port at a time")
    return port


def _parse(port: str, guest: str, guest_port: int) -> Forward:
    parsed = parse_port(port)
    if not is_label(guest.lower()):
        raise InvalidRequest("guest: not a host name", "letters, digits and '-'")
    if isinstance(guest_port, bool) or not 0 < guest_port < 65536:
        raise InvalidRequest("guest_port: not a port", "1 to 65535")
    return Forward(parsed, guest.lower(), guest_port)
