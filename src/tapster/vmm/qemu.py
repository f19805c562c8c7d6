# SPDX-License-Identifier: LGPL-2.1-or-later
"""QEMU's command line: which taps it asks for, and how it is told their fds.

`tapster run` takes the command line that a user has, gets each tap from a broker,
and executes QEMU with open file descriptors instead. So QEMU needs no helper and no
privilege, and its sandbox can forbid both. This module only reads and writes the
text. It imports little, as it runs before each guest.

Every `bridge` among `-netdev`, `-nic` and `-net` becomes a `tap` by fd. If the NIC
on it has a MAC, the broker is asked for that one; otherwise the NIC is given the MAC
that the broker assigns. Files (`-readconfig`) and `-set` are not read.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterator, Sequence

from tapster.errors import UsageError
from tapster.vmm.net_option import (
    HELP,
    IMPLIED_KEY,
    Grant,
    NetOption,
    read,
    words,
)
from tapster.vmm.qemuopts import Props


# typing.NamedTuple would say this better; importing typing takes 8 ms.
class NicRequest(namedtuple("NicRequest", ("bridge", "mac", "option"))):
    """One tap that a command line needs."""

    __slots__ = ()
    bridge: str | None
    """`br=` as the user wrote it; None: not given."""
    mac: str | None
    """As the user wrote it; None: the broker assigns one."""
    option: str
    """The option as the user wrote it, for messages."""


# All options of the system emulators that take no argument, from QEMU 2.0 to 10.
# Anything else that starts with a dash takes one. Without this list, the argument in
# `-append "-netdev bridge"` could not be told from an option.
_NO_ARGUMENT = words("""
    S alt-grab async-teardown audio-help ctrl-grab curses daemonize enable-fips
    enable-hax enable-kvm enable-sync-profile full-screen h help jitdump localtime
    mem-prealloc no-acpi no-fd-bootchk no-frame no-hpet no-kvm no-kvm-irqchip
    no-kvm-pit no-kvm-pit-reinjection no-quit no-reboot no-shutdown no-user-config
    nodefaults nodefconfig nographic old-param only-migratable perfmap portrait
    preconfig s sdl semihosting show-cursor singlestep snapshot usb version
    win2k-hack xen-attach xen-create xen-domid-restrict
""")
# With these options QEMU prints something and ends: it needs no tap.
_ONLY_PRINTS = words("audio-help h help version")
_LISTS_ON_HELP = words("M accel audiodev chardev cpu d display machine object vga")


class CommandLine:
    """A command line of QEMU's, and the taps that it needs."""

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
        options: Sequence[NetOption] = (),
        added: tuple[int, str, str] | None = None,
    ) -> None:
        self.requests = tuple(requests)
        self.guest_name = guest_name
        self._argv = list(argv)
        self._options = [option for option in options if option.changes]
        self._added = added  # a NIC: its place in argv, driver, id

    def with_taps(self, grants: Sequence[Grant]) -> list[str]:
        """The command line that uses these taps.

        :param grants: one for each request, in their order. The descriptors must be
            inheritable when QEMU is executed.

        :raises ValueError: there is not one grant for each request.
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
    """Whether a program of that name takes the options of QEMU's system emulator."""
    name = program.rpartition("/")[2]
    return name.startswith("qemu-system-") or name in ("kvm", "qemu", "qemu-kvm")


class _Scan:
    """What the options of a command line say, before anything is decided."""

    __slots__ = ("end", "guest_name", "machine", "only_prints", "options", "program")

    def __init__(self, argv: Sequence[str]) -> None:
        """:raises UsageError: QEMU would refuse a network option."""
        self.program = argv[0].rpartition("/")[2]
        self.machine = "microvm" if self.program.endswith("-microvm") else ""
        self.guest_name: str | None = None
        self.only_prints = False  # QEMU prints something and ends
        self.options: list[NetOption] = []
        tokens, self.end = _tokens(argv)
        for at, name, value in tokens:
            if name in IMPLIED_KEY:
                option = read(self.program, argv[at], at, value)
                self.options.append(option)
                self.only_prints |= option.asks_for_help
            else:
                self._note(name, value)

    def _note(self, name: str, value: str) -> None:
        """An option that is not about networks."""
        if name == "name":
            self.guest_name = Props(value, "guest").get("guest") or self.guest_name
        elif name in _ONLY_PRINTS or (name in _LISTS_ON_HELP and value in HELP):
            self.only_prints = True
        elif name in ("M", "machine"):
            self.machine = Props(value, "type").get("type") or self.machine

    @property
    def refuses_a_nic(self) -> bool:
        """Whether there shall be no NIC, which `-nic none` and `-net none` say, or
        can be none, as in the machine called none."""
        none = any(option.type == "none" for option in self.options)
        return none or self.machine == "none"


def parse(argv: Sequence[str]) -> CommandLine:
    """Find out which taps a QEMU command line needs.

    QEMU itself can say best what is wrong with an option. So a wrong option is passed
    on to QEMU, unless a tap would be made for nothing.

    :param argv: the program first.
    :raises UsageError: QEMU would refuse a network option, in about its words.
    """
    if not argv:
        raise UsageError("no program given")
    scan = _Scan(argv)
    options = scan.options
    taps = [option for option in options if option.type == "bridge"]
    if scan.only_prints or (not taps and scan.refuses_a_nic):
        return CommandLine(argv, (), scan.guest_name)
    fresh = _unused_ids(argv)
    if not taps:
        asked = NicRequest(None, None, "the NIC that is added")
        added = (scan.end, _virtio_net(scan.program, scan.machine), next(fresh))
        return CommandLine(argv, (asked,), scan.guest_name, added=added)
    if any(tap.name == "net" for tap in taps):
        for option in options:
            if option.name == "net" and option.type:
                option.vlan = option.vlan_number
                option.ids = (next(fresh), next(fresh))
    return CommandLine(argv, _pair(taps, options), scan.guest_name, options)


def _tokens(argv: Sequence[str]) -> tuple[list[tuple[int, str, str]], int]:
    """(place, name, argument or "") of each option, and where options can be added.

    Options are added at the end, but before a last option whose argument is missing:
    it would take the added option for its argument.
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


def _pair(taps: list[NetOption], options: list[NetOption]) -> list[NicRequest]:
    """Make each bridge option a request, and find the NIC whose MAC it is about.

    NICs and taps meet at a netdev's id or at a hub. At a hub, the first tap is paired
    with the first NIC, and so on; any further taps are paired with the last NIC.

    :param taps: the bridge options.
    :param options: all network options.
    """
    hub_of = {
        option.props.get("netdev") or option.props.get("id"): option.props.get("hubid")
        for option in options
        if option.name == "netdev" and option.type == "hubport"
    }

    def place(option: NetOption, ident: str | None) -> tuple[str, str | None]:
        if ident is None and option.name in ("net", "nic"):
            return "hub", option.props.get("hubid") or option.vlan_number
        return ("hub", hub_of[ident]) if ident in hub_of else ("id", ident)

    nics: dict[tuple[str, str | None], list[NetOption]] = {}
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

    It is added by `-device`, not by `-nic model=virtio`: a machine that cannot have
    it refuses it, where `-nic` may start without a network (microvm only warns), and
    it does not take a PCI slot that a later `-device` names.
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
