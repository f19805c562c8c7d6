# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ask the broker for a tap, and about taps, in one function call each.

A `Nic` owns the descriptor of its tap. `tapster.paths` says where brokers are,
`client.start` starts the user's own broker, and `client.connection` talks to it.
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

PERSON = 300.0  # seconds that a person has to answer polkit's question


class NotRunning(BrokerUnavailable):
    """No broker is running, and the caller did not want one to be started."""


def connect(
    socket: str | None = None,
    *,
    rootless: bool = False,
    start: bool = True,
    timeout: float = TIMEOUT,
) -> Connection:
    """Connect to a broker.

    A socket that is named, by `socket` or else by `$TAPSTER_SOCKET`, is the only
    one that is tried. Otherwise it is the system's broker, or else the user's own.

    :param socket: path of the broker's socket.
    :param rootless: do not try the system's broker.
    :param start: start the user's own broker if it is not running.
    :param timeout: seconds to connect, and then for each call.
    :raises NotRunning: no broker answers, and `start` is False.
    :raises BrokerUnavailable: no broker answers, or it could not be started.
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
    """A network interface card of a guest, and the owner of its tap's descriptor.

    When the last copy of the descriptor is closed, the guest is off the network and
    the tap is gone. `close()` closes this one, and so do the end of a `with` block
    and the garbage collector. `take()` gives the descriptor to the caller instead.

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
        """`fd`, for select() and its like."""
        return self.fd

    def take(self) -> int:
        """The tap's descriptor, which the caller closes from now on.

        :raises ValueError: it was closed or taken.
        """
        fd = self.fd
        self._fd = -1
        return fd

    def close(self) -> None:
        """Close the descriptor, unless it was closed or taken. May be called again."""
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

    :param network: name of one of the broker's networks; the default one if None.
    :param bridge: name of a Linux bridge instead, 1 to 15 bytes.
    :param name: the guest's. A guest that comes back under its name gets the MAC
        and addresses that it had.
    :param mac: the guest's, "52:54:00:12:34:56"; if None, the broker chooses one.
    :param vnet_hdr: whether frames carry a virtio-net header (IFF_VNET_HDR).
    :param socket: path of the broker's socket; if None, `connect()` looks for it.
    :param rootless: do not try the system's broker.
    :param timeout: seconds to find the broker, and again for its answer.
    :param interactive: polkit may ask a person, if a rule says so. The answer may
        then take PERSON seconds longer.
    :returns: the owner of the tap's descriptor; the caller closes it.
    :raises InvalidRequest: a parameter cannot be right.
    :raises RequestError: the broker said no; the message says why.
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
    """Remove a NIC that is the caller's or that the caller manages, although
    somebody holds its descriptor.

    :param ifname: the name of the tap.
    :param interactive: as for `attach()`.
    :param where: as for `connect()`, with `start` False if it is not given.
    :raises NoSuchNic: there is no such NIC, or the caller may not see it.
    """
    ask("Detach", {"ifname": ifname}, where, interactive)


def list_nics(**where: Any) -> list[dict[str, Any]]:
    """The NICs that the caller may see, with the fields of the wire's Nic.

    :param where: as for `connect()`, with `start` False if it is not given.
    """
    return check_list(ask("List", {}, where).get("nics"), NIC, "NIC")


def get_info(**where: Any) -> dict[str, Any]:
    """What the broker says about itself. The parameters are those of `list_nics()`."""
    return ask("GetInfo", {}, where)


def watch(**where: Any) -> Iterator[dict[str, Any]]:
    """Yield the broker's events as they happen, until the generator is closed.

    The parameters are those of `list_nics()`.
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
    """Call a method that returns no descriptor.

    :param method: name of the method.
    :param parameters: what the method is given.
    :param where: as for `connect()`, with `start` False if it is not given.
    :param interactive: as for `attach()`; not every method takes it.
    :returns: the parameters of the reply.
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
    """Connect and call; a second time if a rootless broker was about to exit.

    Calling again is safe: if the first call made a tap, it could not be sent, and
    was removed when its descriptor was closed.
    """
    where = {"start": False, **where}
    patience = 0.0
    if interactive:  # sent only if True: an older broker does not know it
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
    """The parameters that were given, in the form in which they are sent.

    The broker checks all of it again, and more. A check here answers sooner, and
    says better what is wrong with it.

    :param network: name of a network.
    :param bridge: name of a Linux bridge.
    :param name: the guest's.
    :param mac: the guest's, in upper or lower case.
    :raises InvalidRequest: a parameter cannot be right.
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
        _check_bridge(bridge)
    if mac is not None:
        parameters["mac"] = _checked_mac(mac)
    return parameters


def _check_bridge(name: str) -> None:
    """:raises InvalidRequest: no Linux bridge can have this name."""
    if len(name.encode()) > INTERFACE_NAME_BYTES:
        hint = "names of bridges have 1 to 15 bytes"
        raise InvalidRequest(f"there is no bridge named {name!r}", hint)
    if not is_interface_name(name):
        raise InvalidRequest(f"{name!r} cannot be the name of a bridge")


def _checked_mac(mac: str) -> str:
    """A guest's MAC address in lower case.

    :raises InvalidRequest: it is none, or not a single guest's.
    """
    try:
        raw = parse_mac(mac)
    except ValueError:
        hint = 'write it as "52:54:00:12:34:56"'
        raise InvalidRequest(f"{mac!r} is not a MAC address", hint) from None
    if not is_guest_mac(raw):
        raise InvalidRequest(f"{mac} is not the MAC address of a single guest")
    return raw.hex(":")
