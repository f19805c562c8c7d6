# SPDX-License-Identifier: LGPL-2.1-or-later
"""QEMU's command line: which taps it asks for, and how it is told their fds.

`tapster run` takes the command line a user has anyway, obtains every tap from
a broker and executes QEMU with open file descriptors instead, so that QEMU
needs no helper and no privilege, and its sandbox can stay shut. This module
only reads and writes the text. It imports little: it runs before each guest.

Every `bridge` among `-netdev`, `-nic` and `-net` becomes a `tap` by fd; the
NIC behind it is told the MAC that the broker assigned, unless it has one,
which then is the MAC asked for. Files (`-readconfig`) and `-set` are not read.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterator, Sequence

from tapster.errors import UsageError
from tapster.vmm.qemuopts import Props, escape


# typing.NamedTuple would say this better; importing typing takes 8 ms.
class NicRequest(namedtuple("NicRequest", ("bridge", "mac", "option"))):
    """One tap that a command line needs."""

    __slots__ = ()
    bridge: str | None
    """`br=` as the user wrote it; None: not given"""
    mac: str | None
    """as the user wrote it; None: the broker assigns one"""
    option: str
    """for messages: the option as the user wrote it"""


class Grant(namedtuple("Grant", ("fd", "mac"))):
    """What the broker gave for one request. The fd stays the caller's."""

    __slots__ = ()
    fd: int
    mac: str


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# All options of the system emulators that take no argument, from QEMU 2.0 to
# 10; whatever else starts with a dash takes one. Only by knowing them it is
# clear that the text in `-append "-netdev bridge"` is no option.
_NO_ARGUMENT = _words("""
    S alt-grab async-teardown audio-help ctrl-grab curses daemonize enable-fips
    enable-hax enable-kvm enable-sync-profile full-screen h help jitdump localtime
    mem-prealloc no-acpi no-fd-bootchk no-frame no-hpet no-kvm no-kvm-irqchip
    no-kvm-pit no-kvm-pit-reinjection no-quit no-reboot no-shutdown no-user-config
    nodefaults nodefconfig nographic old-param only-migratable perfmap portrait
    preconfig s sdl semihosting show-cursor singlestep snapshot usb version
    win2k-hack xen-attach xen-create xen-domid-restrict
""")
# With these QEMU prints something and ends: no tap is needed.
_ONLY_PRINTS = _words("audio-help h help version")
_LISTS_ON_HELP = _words("M accel audiodev chardev cpu d display machine object vga")
_HELP = ("help", "?")

# Every network type that some QEMU knows. Which of them this one was built
# with is for itself to say, but what none knows costs no broker's time.
_TYPES = _words("""
    af-xdp bridge dgram hubport l2tpv3 netmap nic none passt socket stream tap user
    vde vhost-user vhost-vdpa vmnet-bridged vmnet-host vmnet-shared
""")
_IMPLIED = {"net": "type", "netdev": "type", "nic": "type", "device": "driver"}


class _Option:
    """One option with its argument, and what is to become of it."""

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
    def asks_for_help(self) -> bool:
        said = (self.props.get(key) for key in (_IMPLIED[self.name], "model"))
        return any(value in _HELP for value in said) or self.props.get("help") == "on"

    @property
    def changes(self) -> bool:
        return (self.request, self.mac_of, self.vlan) != (None, None, None)

    @property
    def mac_key(self) -> str:
        return "macaddr" if self.name == "net" else "mac"

    def rewritten(self, flag: str, grants: Sequence[Grant]) -> list[str]:
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
    # What vlan 0 was is the one hub that -net still knows, so there the word
    # is left out; what another vlan was is a hub reached through hubports.
    # name= lives on as id=. All -net options of a command line that has a
    # -net bridge are translated, for one left behind would end QEMU.
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


class CommandLine:
    """What `parse` understood."""

    __slots__ = ("_added", "_argv", "_options", "guest_name", "requests")

    requests: tuple[NicRequest, ...]
    """The taps it needs, in the order of its options."""
    guest_name: str | None
    """From `-name`."""

    def __init__(
        self,
        argv: Sequence[str],
        requests: Sequence[NicRequest],
        guest_name: str | None,
        options: Sequence[_Option] = (),
        added: tuple[int, str, str] | None = None,
    ) -> None:
        self.requests = tuple(requests)
        self.guest_name = guest_name
        self._argv = list(argv)
        self._options = [option for option in options if option.changes]
        self._added = added  # a NIC: its place in argv, driver, id

    def with_taps(self, grants: Sequence[Grant]) -> list[str]:
        """The command line that uses these taps, one for each request.

        The descriptors must be inheritable when QEMU is executed.

        :raise ValueError: there is not one grant for each request.
        """
        if len(grants) != len(self.requests):
            raise ValueError(f"{len(grants)} taps for {len(self.requests)} requests")
        argv: list[str] = []
        done = 0
        for option in self._options:
            argv += self._argv[done : option.at]
            argv += option.rewritten(self._argv[option.at], grants)
            done = option.at + 2
        if self._added:
            (end, driver, ident), grant = self._added, grants[0]
            argv += self._argv[done:end]
            argv += ["-netdev", f"tap,id={ident},fd={grant.fd}"]
            argv += ["-device", f"{driver},netdev={ident},mac={grant.mac}"]
            done = end
        return argv + self._argv[done:]


def is_qemu(program: str) -> bool:
    """Whether a program of that name has QEMU's system emulator's options."""
    name = program.rpartition("/")[2]
    return name.startswith("qemu-system-") or name in ("kvm", "qemu", "qemu-kvm")


def parse(argv: Sequence[str]) -> CommandLine:
    """Find out which taps a QEMU command line needs.

    What is wrong in it QEMU can say best itself, so it is passed on, except
    where a tap would have been drawn for nothing.

    :param argv: the program first.
    :raise UsageError: QEMU would refuse a network option, in about its words.
    """
    if not argv:
        raise UsageError("no program given")
    program = argv[0].rpartition("/")[2]
    machine = "microvm" if program.endswith("-microvm") else ""
    guest_name = None
    only_prints = False
    options: list[_Option] = []
    tokens, end = _tokens(argv)
    for at, name, value in tokens:
        if name in _IMPLIED:
            option = _read(program, argv[at], at, name, value)
            options.append(option)
            only_prints |= option.asks_for_help
        elif name == "name":
            guest_name = Props(value, "guest").get("guest") or guest_name
        elif name in _ONLY_PRINTS or (name in _LISTS_ON_HELP and value in _HELP):
            only_prints = True
        elif name in ("M", "machine"):
            machine = Props(value, "type").get("type") or machine
    if only_prints:
        return CommandLine(argv, (), guest_name)
    taps = [option for option in options if option.type == "bridge"]
    fresh = _unused_ids(argv)
    if not taps:
        # Who says `-nic none` (or `-net none`) says that there shall be no NIC,
        # and the machine called none can have no device.
        if machine == "none" or any(option.type == "none" for option in options):
            return CommandLine(argv, (), guest_name)
        asked = NicRequest(None, None, "the NIC that is added")
        added = (end, _virtio_net(program, machine), next(fresh))
        return CommandLine(argv, (asked,), guest_name, added=added)
    if any(tap.name == "net" for tap in taps):
        for option in options:
            if option.name == "net" and option.type:
                option.vlan = _vlan(option)
                option.ids = (next(fresh), next(fresh))
    return CommandLine(argv, _pair(taps, options), guest_name, options)


def _tokens(argv: Sequence[str]) -> tuple[list[tuple[int, str, str]], int]:
    """(place, name, argument or nothing) of each option, and where all end.

    That is the end of argv, or the last option if its argument is missing: it
    would take for its own what is added behind it.
    """
    found = []
    at = 1
    while at < len(argv):
        word = argv[at]
        name = word[2:] if word.startswith("--") else word[1:]
        if not word.startswith("-"):  # a disk image
            at += 1
        elif name in _NO_ARGUMENT:
            found.append((at, name, ""))
            at += 1
        elif at + 1 == len(argv):
            break
        else:
            found.append((at, name, argv[at + 1]))
            at += 2
    return found, at


def _read(program: str, flag: str, at: int, name: str, value: str) -> _Option:
    def refuse(why: str, hint: str | None = None) -> UsageError:
        return UsageError(f"{program}: {flag} {value}: {why}", hint)

    try:
        props = Props(value, _IMPLIED[name], json=name in ("netdev", "device"))
    except ValueError as error:
        if name == "device" and "netdev" not in value:
            props = Props("", "")  # no NIC of ours: for QEMU to read
        else:
            # QEMU takes single quotes as well; nobody is known to use them.
            hint = "write JSON with double quotes" if "'" in value else None
            raise refuse(f"JSON parse error, {error}", hint) from None
    option = _Option(at, name, f"{flag} {value}", props)
    kind = option.type
    if kind is None or option.asks_for_help:
        return option
    if kind not in _TYPES:
        raise refuse(f"Parameter 'type' does not accept value '{kind}'")
    if (name, kind) in (("netdev", "nic"), ("netdev", "none"), ("nic", "nic")):
        raise refuse(f"network backend '{kind}' is not compiled into this binary")
    if (name, kind) == ("net", "hubport"):
        raise refuse(f"network backend '{kind}' is only supported with -netdev/-nic")
    if kind == "bridge":
        if name == "netdev" and props.get("id") is None:
            raise refuse("Parameter 'id' is missing")
        for key in ("fd", "fds"):
            if props.get(key) is not None:
                raise refuse(f"Invalid parameter '{key}'")
        if not _vlan(option).isdigit():
            raise refuse("Parameter 'vlan' expects a number")
    return option


def _vlan(option: _Option) -> str:
    vlan = option.props.get("vlan") or "0"
    return vlan.lstrip("0") or "0"


def _pair(taps: list[_Option], options: list[_Option]) -> list[NicRequest]:
    """Make each bridge option a request, and find the NIC that has its MAC.

    NICs and taps meet at a netdev's id or at a hub, where the first tap is
    paired with the first NIC, and so on; what is left of taps has the last.
    """
    hub_of = {
        option.props.get("netdev") or option.props.get("id"): option.props.get("hubid")
        for option in options
        if option.name == "netdev" and option.type == "hubport"
    }

    def place(option: _Option, ident: str | None) -> tuple[str, str | None]:
        if ident is None and option.name in ("net", "nic"):
            return "hub", option.props.get("hubid") or _vlan(option)
        return ("hub", hub_of[ident]) if ident in hub_of else ("id", ident)

    nics: dict[tuple[str, str | None], list[_Option]] = {}
    for option in options:
        ident = option.props.get("netdev")
        kind = (option.name, option.type)
        if kind in (("net", "nic"), ("nic", "hubport")) or (
            option.name == "device" and ident
        ):
            nics.setdefault(place(option, ident), []).append(option)
    requests: list[NicRequest] = []
    for tap in taps:
        ident = tap.props.get("id") if tap.name == "netdev" else None
        there = [tap] if tap.name == "nic" else nics.get(place(tap, ident), [])
        mac = None
        if there:
            nic = there.pop(0) if len(there) > 1 else there[0]
            mac = nic.props.get(nic.mac_key)
            if mac is None and nic.mac_of is None:
                nic.mac_of = len(requests)
        tap.request = len(requests)
        requests.append(NicRequest(tap.props.get("br"), mac, tap.text))
    return requests


def _virtio_net(program: str, machine: str) -> str:
    """The device model of the NIC that is added.

    `-device` rather than `-nic model=virtio`: a machine that cannot have it
    says so instead of starting without a network (microvm only warns), and it
    takes no PCI slot that a later `-device` names.
    """
    if machine == "microvm":
        return "virtio-net-device"
    if program.startswith("qemu-system-") and not program.endswith(("s390x", "m68k")):
        return "virtio-net-pci"
    return "virtio-net"  # QEMU's alias for what the architecture has


def _unused_ids(argv: Sequence[str]) -> Iterator[str]:
    number = 0
    while True:
        ident = f"tapster{number}"
        number += 1
        if not any(ident in word for word in argv):
            yield ident
