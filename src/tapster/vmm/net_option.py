# SPDX-License-Identifier: LGPL-2.1-or-later
"""One of QEMU's network options: what it asks for, and how it is written anew.

`-netdev`, `-nic`, `-net` and `-device` say which network a guest has. Each is kept
together with its text, and says itself what it becomes when the taps are there.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Sequence

from tapster.errors import UsageError
from tapster.vmm.qemuopts import Props, escape


class Grant(namedtuple("Grant", ("fd", "mac"))):
    """What the broker gave for one request. The caller owns `fd`."""

    __slots__ = ()
    fd: int
    mac: str


def words(text: str) -> frozenset[str]:
    """The words of a text, for tables of many."""
    return frozenset(text.split())


# Every network type that some QEMU knows. The QEMU that is started says itself which
# ones it lacks; a type that none knows is refused before a tap is asked for.
_TYPES = frozenset(
    [
        "af-xdp",
        "bridge",
        "dgram",
        "hubport",
        "l2tpv3",
        "netmap",
        "nic",
        "none",
        "passt",
        "socket",
        "stream",
        "tap",
        "user",
        "vde",
        "vhost-user",
        "vhost-vdpa",
        "vmnet-bridged",
        "vmnet-host",
        "vmnet-shared",
    ]
)
# The options that this is about, and the key that a value without a name has.
IMPLIED_KEY = {"net": "type", "netdev": "type", "nic": "type", "device": "driver"}
HELP = ("help", "?")


class NetOption:
    """One option with its argument, and what is to become of it.

    :param at: its place in the command line.
    :param name: the option's, without dashes.
    :param text: the option as the user wrote it, for messages.
    :param props: its argument.
    """

    __slots__ = ("at", "ids", "mac_of", "name", "props", "request", "text", "vlan")

    def __init__(self, at: int, name: str, text: str, props: Props) -> None:
        self.at = at
        self.name = name
        self.text = text
        self.props = props
        self.request: int | None = None  # the tap that it becomes
        self.mac_of: int | None = None  # the tap whose MAC it is told
        self.vlan: str | None = None  # -net only; None: leave the old words alone
        self.ids: tuple[str, str] = ("", "")  # unused ones, for a hub's port

    @property
    def type(self) -> str | None:
        """The network type; a -device has none."""
        return None if self.name == "device" else self.props.get("type")

    @property
    def vlan_number(self) -> str:
        """Which hub a -net option is on: 0 if it does not say."""
        vlan = self.props.get("vlan") or "0"
        return vlan.lstrip("0") or "0"

    @property
    def asks_for_help(self) -> bool:
        """Whether QEMU would print a list and end."""
        said = (self.props.get(key) for key in (IMPLIED_KEY[self.name], "model"))
        return any(value in HELP for value in said) or self.props.get("help") == "on"

    @property
    def changes(self) -> bool:
        """Whether the option is written anew at all."""
        return (self.request, self.mac_of, self.vlan) != (None, None, None)

    @property
    def mac_key(self) -> str:
        """What the option calls the guest's MAC."""
        return "macaddr" if self.name == "net" else "mac"

    def rewritten(self, flag: str, grants: Sequence[Grant]) -> list[str]:
        """The option with its taps, as words of the command line.

        :param flag: the option's name with its dashes, as the user wrote it.
        :param grants: one for each request of the command line.
        """
        first: dict[str, str] = {}
        drop: tuple[str, ...] = ()
        last: dict[str, str] = {}
        if self.request is not None:
            first = {"type": "tap", "fd": str(grants[self.request].fd)}
            drop = ("br", "helper")
        if self.mac_of is not None:
            last = {self.mac_key: grants[self.mac_of].mac}
        if self.vlan is None:
            return [flag, self.props.text(first, drop, last)]
        return self._modern(flag, first, drop, last)

    # QEMU 3.0 dropped vlan= and 5.1 name= (7.2: "Invalid parameter 'vlan'").
    # Vlan 0 was the one hub that -net still knows: there the word is left out.
    # Any other vlan is a hub that is reached through hubports. name= lives on as
    # id=. All -net options of a command line that has a -net bridge are
    # translated, for one left behind would end QEMU.
    def _modern(
        self,
        flag: str,
        first: dict[str, str],
        drop: tuple[str, ...],
        last: dict[str, str],
    ) -> list[str]:
        props, (tap, port) = self.props, self.ids
        first = {"type": self.type or "", **first}
        drop += ("vlan", "name")
        ident = props.get("id") or props.get("name")
        if ident:
            first["id"] = ident
        if self.vlan == "0" or self.type == "none" or props.get("netdev"):
            return [flag, props.text(first, drop, last)]
        hubport = f"hubport,id={port},hubid={self.vlan}"
        if self.type == "nic":
            first["netdev"] = port
            return ["-netdev", hubport, flag, props.text(first, drop, last)]
        first["id"] = ident or tap
        hubport += f",netdev={escape(first['id'])}"
        return ["-netdev", props.text(first, drop, last), "-netdev", hubport]


def read(program: str, flag: str, at: int, value: str) -> NetOption:
    """Read an option, and refuse what QEMU would refuse.

    :param program: for messages.
    :param flag: the option's name with its dashes.
    :param at: its place in the command line.
    :param value: its argument.
    :raises UsageError: QEMU would refuse it, in about these words.
    """
    name = flag.lstrip("-")
    text = f"{flag} {value}"
    try:
        option = NetOption(at, name, text, _read_props(name, value))
    except ValueError as error:
        # QEMU takes single quotes as well; nobody is known to use them.
        hint = "write JSON with double quotes" if "'" in value else None
        why = f"{program}: {text}: JSON parse error, {error}"
        raise UsageError(why, hint) from None
    if option.type is not None and not option.asks_for_help:
        objection = _objection_to_type(option) or _objection_to_bridge(option)
        if objection:
            raise UsageError(f"{program}: {text}: {objection}")
    return option


def _read_props(name: str, value: str) -> Props:
    """The properties of an option.

    :raises ValueError: they are JSON that cannot be read.
    """
    try:
        return Props(value, IMPLIED_KEY[name], json=name in ("netdev", "device"))
    except ValueError:
        if name == "device" and "netdev" not in value:
            return Props("", "")  # no NIC of ours: for QEMU to read
        raise


def _objection_to_type(option: NetOption) -> str | None:
    """Why QEMU would refuse the network type; None: it may take it."""
    name, kind = option.name, option.type
    if kind not in _TYPES:
        return f"Parameter 'type' does not accept value '{kind}'"
    if (name, kind) in (("netdev", "nic"), ("netdev", "none"), ("nic", "nic")):
        return f"network backend '{kind}' is not compiled into this binary"
    if (name, kind) == ("net", "hubport"):
        return f"network backend '{kind}' is only supported with -netdev/-nic"
    return None


def _objection_to_bridge(option: NetOption) -> str | None:
    """Why QEMU would refuse a `bridge`, which a tap would be drawn for."""
    if option.type != "bridge":
        return None
    if option.name == "netdev" and option.props.get("id") is None:
        return "Parameter 'id' is missing"
    for key in ("fd", "fds"):
        if option.props.get(key) is not None:
            return f"Invalid parameter '{key}'"
    if not option.vlan_number.isdigit():
        return "Parameter 'vlan' expects a number"
    return None
