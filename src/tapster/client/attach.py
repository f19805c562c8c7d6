# SPDX-License-Identifier: LGPL-2.1-or-later
"""Asking the broker, from a program that has no event loop.

A caller wants a tap in one function call. These are the calls, with `Nic` as
the owner of a tap's descriptor. `tapster.paths` knows where brokers are,
`tapster.start` starts the user's own, and `tapster.connection` talks to it.
"""

from __future__ import annotations

import os
import sys
import time

from tapster import paths
from tapster.client.connection import (
    TIMEOUT,
    Connection,
    Gone,
    close_all,
    open_socket,
    try_open_socket,
)
from tapster.client.fields import NIC
from tapster.client.reply import check, check_list
from tapster.errors import BrokerUnavailable, InvalidRequest, ProtocolError
from tapster.syntax import (
    INTERFACE_NAME_BYTES,
    is_guest_mac,
    is_interface_name,
    parse_mac,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Any, Self

PERSON = 300.0  # seconds that polkit gives a person to answer, and we the broker


class NotRunning(BrokerUnavailable):
    """No broker runs where one was looked for, and none was to be started."""


def connect(
    socket: str | None = None,
    *,
    rootless: bool = False,
    start: bool = True,
    timeout: float = TIMEOUT,
) -> Connection:
    """Connect to the broker that answers first.

    In order: `socket`; `$TAPSTER_SOCKET`, and neither of these falls back; the
    system's, unless `rootless`; the user's own, which is started if it may.

    :param start: whether a rootless broker is started where none answers.
    :param timeout: seconds for this, and then for each call.
    :raises NotRunning: none answers, and none was to be started.
    :raises BrokerUnavailable: none answers, or none could be started.
    """
    deadline = time.monotonic() + timeout
    chosen = socket or os.environ.get("TAPSTER_SOCKET")
    if chosen:
        try:
            return Connection(open_socket(chosen, deadline), timeout)
        except OSError as error:
            reason = error.strerror or error
            hint = None if socket else "see TAPSTER_SOCKET"
            raise BrokerUnavailable(f"no broker at {chosen}: {reason}", hint) from None
    if not rootless:
        sock = try_open_socket(paths.SYSTEM_SOCKET, deadline)
        if sock:
            return Connection(sock, timeout)
    directory = os.path.join(paths.runtime_directory(), "tapster")
    path = os.path.join(directory, paths.SOCKET_NAME)
    sock = (
        try_open_socket(path, deadline) if paths.is_private(directory, 0o022) else None
    )
    if sock is None:
        if not start:
            raise NotRunning("no broker is running")
        from tapster.client.start import start_broker

        sock = start_broker(path, deadline)
    return Connection(sock, timeout, rootless=True)


class Nic:
    """A network interface card of a guest: its tap, and who owns the descriptor.

    This object does: closing it, or leaving its `with` block, or losing it,
    takes the guest off the network, and the broker removes the device. `take()`
    passes the descriptor on to somebody else.

    Attributes: `fd` (int, close-on-exec), `ifname` of the tap, `mac` of the
    guest ("52:54:..."; None while it is not known), `ipv4` and `ipv6` (str
    without prefix length, or None), `mtu` (bytes), `bridge`, `network` (None
    for a plain Linux bridge) and `name` of the guest.
    """

    __slots__ = (
        "_fd",
        "bridge",
        "ifname",
        "ipv4",
        "ipv6",
        "mac",
        "mtu",
        "name",
        "network",
    )

    def __init__(self, fd: int, fields: dict[str, Any]) -> None:
        self._fd = fd
        self.ifname: str = fields["ifname"]
        self.mac: str | None = fields["mac"]
        self.ipv4: str | None = fields["ipv4"]
        self.ipv6: str | None = fields["ipv6"]
        self.mtu: int = fields["mtu"]
        self.bridge: str = fields["bridge"]
        self.network: str | None = fields["network"]
        self.name: str = fields["name"]

    @property
    def fd(self) -> int:
        """The tap's descriptor, still owned by this object.

        :raises ValueError: it was closed or taken.
        """
        if self._fd < 0:
            raise ValueError(f"the descriptor of {self.ifname} was closed or taken")
        return self._fd

    def fileno(self) -> int:
        """The same as `fd`, for select() and its like."""
        return self.fd

    def take(self) -> int:
        """The tap's descriptor, which the caller closes from now on.

        :raises ValueError: it was closed or taken.
        """
        fd = self.fd
        self._fd = -1
        return fd

    def close(self) -> None:
        """Close the tap, unless it was closed or taken. Any number of times."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            if not sys.is_finalizing():  # where even a warning can't be made
                import warnings

                warnings.warn(f"unclosed {self!r}", ResourceWarning, 2, source=self)
            self.close()

    def __repr__(self) -> str:
        return f"<Nic {self.ifname} mac={self.mac} ipv4={self.ipv4} fd={self._fd}>"


def attach(
    network: str | None = None,
    bridge: str | None = None,
    name: str | None = None,
    mac: str | None = None,
    vnet_hdr: bool = True,
    socket: str | None = None,
    *,
    rootless: bool = False,
    timeout: float = TIMEOUT,
    interactive: bool = False,
) -> Nic:
    """Attach a guest to a network: a tap, wired, locked and up.

    :param network: one of the broker's networks; its default one if None.
    :param bridge: a Linux bridge instead, 1 to 15 bytes.
    :param name: of the guest: the same name gets the same MAC and address again.
    :param mac: of the guest, "52:54:00:12:34:56"; the broker's choice if None.
    :param vnet_hdr: whether frames carry a virtio-net header (IFF_VNET_HDR).
    :param socket: path of the broker's socket; `connect()` looks for it if None.
    :param rootless: pass over the system's broker.
    :param timeout: seconds to find the broker, and again for its answer.
    :param interactive: whether polkit may ask a person, where a rule wants polkit;
        the answer may take PERSON seconds more then.
    :returns: the owner of the tap's descriptor, which the caller closes.
    :raises InvalidRequest: a parameter cannot be right.
    :raises RequestError: the broker said no, and why.
    :raises BrokerUnavailable: no broker answers, and none could be started.
    :raises ProtocolError: the broker's answer makes no sense.
    """
    parameters = check_request(network, bridge, name, mac)
    parameters["vnet_hdr"] = bool(vnet_hdr)
    where = {"socket": socket, "rootless": rootless, "timeout": timeout, "start": True}
    reply, fds = _call("Attach", parameters, where, interactive, fds=True)
    try:
        index = reply.get("fd")
        if len(fds) != 1 or type(index) is not int or index != 0:
            count = f"{len(fds)} file descriptors instead of a tap's"
            raise ProtocolError(f"the broker sent {count}")
        nic = Nic(fds[0], check(reply.get("nic"), NIC, "NIC"))
    except BaseException:
        close_all(fds)
        raise
    return nic


def detach(ifname: str, *, interactive: bool = False, **where: Any) -> None:
    """Remove a NIC of the caller's, or one that it manages, whoever holds its
    descriptor.

    :param ifname: the tap's.
    :param interactive: as `attach()`.
    :param where: as `connect()`, but no broker is started unless asked for.
    :raises NoSuchNic: there is none, or it is another's.
    """
    ask("Detach", {"ifname": ifname}, where, interactive)


def list_nics(**where: Any) -> list[dict[str, Any]]:
    """The NICs that the caller may see, with the fields of the wire's Nic.

    :param where: as `connect()`, but no broker is started unless asked for.
    """
    return check_list(ask("List", {}, where).get("nics"), NIC, "NIC")


def get_info(**where: Any) -> dict[str, Any]:
    """What the broker says about itself; parameters as `list_nics()`."""
    return ask("GetInfo", {}, where)


def watch(**where: Any) -> Iterator[dict[str, Any]]:
    """Yield the broker's events, as they happen; parameters as `list_nics()`.

    Closing the generator closes the connection.
    """
    with connect(**{"start": False, **where}) as broker:
        for reply in broker.stream("Watch", {}):
            event = reply.get("event")
            if not isinstance(event, dict):
                raise ProtocolError("the broker's answer has no event")
            yield event


def ask(
    method: str,
    parameters: dict[str, Any],
    where: dict[str, Any],
    interactive: bool = False,
) -> dict[str, Any]:
    """The answer to a call that brings no descriptor.

    :param where: as `connect()`, but no broker is started unless asked for.
    :param interactive: as `attach()`; not every method takes it.
    """
    return _call(method, parameters, where, interactive)[0]


def _call(
    method: str,
    parameters: dict[str, Any],
    where: dict[str, Any],
    interactive: bool,
    *,
    fds: bool = False,
) -> tuple[dict[str, Any], list[int]]:
    """Connect and call, twice if a rootless broker was about to exit.

    That is safe: a tap that could not be sent vanished with its descriptor.
    """
    where = {"start": False, **where}
    patience = 0.0
    if interactive:  # told only then: an older broker doesn't know the word
        parameters = {**parameters, "interactive": True}
        patience = PERSON
    with connect(**where) as broker:
        broker.timeout += patience
        try:
            return broker.call(method, parameters, fds=fds)
        except Gone:
            if not broker.rootless:
                raise
    with connect(**where) as broker:
        broker.timeout += patience
        return broker.call(method, parameters, fds=fds)


def check_request(
    network: str | None, bridge: str | None, name: str | None, mac: str | None
) -> dict[str, Any]:
    """The parameters that were given, as they are sent.

    The broker checks all of it again, and more; this is for a quick answer.

    :raises InvalidRequest: one cannot be right.
    """
    given = {"network": network, "bridge": bridge, "name": name, "mac": mac}
    parameters: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    for key, value in parameters.items():
        if not isinstance(value, str):
            raise InvalidRequest(f"{key} must be a str, not {type(value).__name__}")
        # This also refuses lone surrogates, which UTF-8 cannot carry.
        if not value or not value.isprintable():
            raise InvalidRequest(f"{key} {value!r} is empty or not printable")
    if network is not None and bridge is not None:
        raise InvalidRequest("network and bridge exclude each other", "leave one out")
    if bridge is not None:
        if len(bridge.encode()) > INTERFACE_NAME_BYTES:
            hint = "names of bridges have 1 to 15 bytes"
            raise InvalidRequest(f"there is no bridge named {bridge!r}", hint)
        if not is_interface_name(bridge):
            raise InvalidRequest(f"{bridge!r} cannot be the name of a bridge")
    if mac is not None:
        try:
            raw = parse_mac(mac)
        except ValueError:
            hint = 'write it as "52:54:00:12:34:56"'
            raise InvalidRequest(f"{mac!r} is not a MAC address", hint) from None
        if not is_guest_mac(raw):
            raise InvalidRequest(f"{mac} is not the MAC address of a single guest")
        parameters["mac"] = raw.hex(":")
    return parameters
