# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ports of the host that lead to a guest: whose they are, and which are open.

A forward is for a guest's name: it stays when the guest goes and is there again
when the guest is. While it exists its port is held by bound sockets, so that no
program of the host takes it and wonders where its callers are.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import socket
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from ..errors import (
    BrokerFailure,
    ForwardRefused,
    InvalidRequest,
    NoSuchForward,
    NotAuthorized,
)
from ..kernel.conntrack import ConntrackSocket
from ..kernel.nft import NftError
from ..model import Forward, Mode, NetworkDefinition, Peer, Port, State
from ..networks import elements
from ..networks.claims import reservation_for
from ..networks.dnsmasq import write_file
from ..networks.records import parse_port
from ..policy.decide import DEFAULT_NETWORK, Target, decide, may_forward
from .broker import Broker
from .ledger import Nic
from .people import user_name
from .resolve import is_label

_log = logging.getLogger(__name__)

PER_USER = 32  # forwards, of two descriptors each
IN_ALL = 4096
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


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
            with open(self._path, encoding="utf-8") as file:
                kept = json.load(file)
            for network, uid, port, guest, number in kept:
                forward = Forward(parse_port(port), str(guest), int(number))
                self._enter(Row(str(network), int(uid), forward))
        except FileNotFoundError:
            pass
        except (ValueError, TypeError) as err:
            _log.warning("%s is damaged; forwards are lost: %s", self._path, err)

    def _save(self) -> None:
        kept = [
            [row.network, row.uid, str(f.port), f.guest, f.guest_port]
            for row in self._rows.values()
            for f in (row.forward,)
            if row.uid is not None
        ]
        write_file(f"{self._path}.new", json.dumps(kept))
        os.replace(f"{self._path}.new", self._path)

    def _enter(self, row: Row) -> None:
        """Take a row in; if its port can't be had it is there all the same."""
        try:
            row.sockets = _hold(row.forward.port)
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
                row.sockets = _hold(row.forward.port)
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
        self._forgetting = self._thread.submit(_forget_flows, port)

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

    def add(
        self, peer: Peer, network: str | None, port: str, guest: str, guest_port: int
    ) -> Row:
        """Forward a port of the host to the caller's guest of that name.

        :raises InvalidRequest, NotAuthorized, ForwardRefused: and why.
        """
        name = _parse_network(network)
        forward = _parse(port, guest, guest_port)
        definition = self._may_use(peer, name)
        if self._broker.env.rootless:
            raise ForwardRefused(
                "your own broker cannot forward ports of the host",
                "it needs the system's broker, tapsterd",
            )
        if definition.mode is not Mode.NAT:
            raise ForwardRefused(
                f"network {name} has no way in",
                "only a network of mode nat forwards ports",
            )
        decision = may_forward(peer, name, forward.port, self._broker.config.rules)
        if not decision.allowed:
            self._broker.events.denied(
                peer, user_name(peer.uid), str(forward.port), decision.reason
            )
            raise ForwardRefused(
                f"you may not forward {forward.port}",
                "ports from 1024 up are granted unless the administrator says else",
            )
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
            row.sockets = _hold(forward.port)
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
        _log.info("uid %d forwards %s on %s", peer.uid, forward, name)
        return row

    def _may_use(self, peer: Peer, name: str) -> NetworkDefinition:
        definition = self._broker.config.networks.get(name)
        target = Target(network=name if definition else None)
        rules = self._broker.config.rules
        decision = decide(peer, target, 0, None, rules=rules)
        if definition is None or not decision.allowed:
            self._broker.events.denied(peer, user_name(peer.uid), name, decision.reason)
            raise NotAuthorized(
                f"you may not use {name!r}, or it does not exist",
                "'tapster network ls' shows yours",
            )
        return definition

    def remove(self, peer: Peer, network: str | None, port: str) -> None:
        """Give a forward up.

        :raises InvalidRequest: it names no port, or no network.
        :raises NoSuchForward: there is none, or it is not the caller's.
        """
        name = _parse_network(network)
        wanted = _parse_port(port)
        row = self._rows.get((wanted.protocol, wanted.first))
        if (
            row is None
            or row.network != name
            or row.uid is None
            or not (peer.is_root or row.uid == peer.uid)
        ):
            raise NoSuchForward(
                f"there is no forward of {port} on network {name}",
                "'tapster forward ls' shows yours; those of the configuration stay",
            )
        self._drop(row)
        try:
            self._save()
        except OSError as err:
            _log.error("forwards can't be kept: %s", err)  # it is back after a restart
        definitions = self._broker.config.networks.values()
        if any(f.port == row.forward.port for d in definitions for f in d.forward):
            self.take_static()  # what had to wait for the port
        _log.info("uid %d gave up %s on %s", peer.uid, row.forward, name)

    def rows(self, peer: Peer) -> list[Row]:
        """Those that the caller may see: its own, and the configuration's that
        lead to its guest; root sees all."""
        return [
            row
            for row in self._rows.values()
            if peer.is_root
            or row.uid == peer.uid
            or (row.nic is not None and row.nic.uid == peer.uid)
        ]


def _parse_network(text: str | None) -> str:
    if text is None:
        return DEFAULT_NETWORK
    if not is_label(text):
        raise InvalidRequest("network: not a network's name", "letters, digits and '-'")
    return text


def _parse_port(text: str) -> Port:
    try:
        port = parse_port(text)
    except ValueError:
        raise InvalidRequest("port: not a port", "as in tcp/8080 or udp/53") from None
    if port.first != port.last:
        raise InvalidRequest("port: a range", "one port at a time")
    return port


def _parse(port: str, guest: str, guest_port: int) -> Forward:
    parsed = _parse_port(port)
    if not is_label(guest.lower()):
        raise InvalidRequest("guest: not a host name", "letters, digits and '-'")
    if isinstance(guest_port, bool) or not 0 < guest_port < 65536:
        raise InvalidRequest("guest_port: not a port", "1 to 65535")
    return Forward(parsed, guest.lower(), guest_port)


def _hold(port: Port) -> list[socket.socket]:
    """Sockets that keep a port of this host from anybody else.

    :returns: one a family that the host has; the caller closes them.
    :raises OSError: EADDRINUSE, somebody has it.
    """
    kind = socket.SOCK_STREAM if port.protocol == "tcp" else socket.SOCK_DGRAM
    held: list[socket.socket] = []
    try:
        for family, anywhere in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):  # noqa: S104
            try:
                sock = socket.socket(family, kind | socket.SOCK_CLOEXEC)
            except OSError as err:
                if err.errno in _NO_IPV6:
                    continue
                raise
            held.append(sock)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                _take(sock, anywhere, port)
            except OSError as err:
                if family == socket.AF_INET6 and err.errno in _NO_IPV6:
                    held.pop().close()
                    continue
                raise
    except BaseException:
        for sock in held:
            sock.close()
        raise
    return held


def _take(sock: socket.socket, address: str, port: Port) -> None:
    """Bind it so that nobody else can, without listening.

    What connections of a program that ended left in TIME_WAIT keeps a port from
    whoever does not set SO_REUSEADDR; but who sets it shares the port with all
    that do, until one has listened, if only for this moment.
    """
    if port.protocol != "tcp":
        sock.bind((address, port.first))
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((address, port.first))
    sock.listen(0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    sock.shutdown(socket.SHUT_RDWR)


def _forget_flows(port: Port) -> None:
    """Have what comes to a port of this host go where it leads now, from
    clients too that were there before: they would stay with a guest that has
    given the port up, or never reach the one that got it."""
    tcp = port.protocol == "tcp"
    protocol = socket.IPPROTO_TCP if tcp else socket.IPPROTO_UDP
    try:
        with ConntrackSocket() as flows:
            flows.forget(protocol, port.first, lambda flow: _is_of_host(flow.address))
    except OSError as err:
        _log.warning("flows to %s stay where they were: %s", port, err)


def _is_of_host(address: str) -> bool:
    """Whether this host has an address: only then can it be bound."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.bind((address, 0))
        except OSError:
            return False
    return True
