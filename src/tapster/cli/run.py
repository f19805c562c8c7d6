# SPDX-License-Identifier: LGPL-2.1-or-later
"""tapster run: get the taps that a VMM needs, and become that VMM.

This process executes the VMM, so that none stands between the shell and the VMM:
exit status, signals, terminal and pid are the VMM's own, and when the VMM ends the
kernel closes its taps. Whatever can fail is tried before a tap is asked for.

It imports little, as it has 60 ms: see `cli.main`.
"""

from __future__ import annotations

import errno
import os
import re
from signal import SIG_DFL, SIGPIPE, SIGXFSZ, signal

from tapster.cli import common
from tapster.client.attach import Nic, attach
from tapster.errors import ProtocolError, TapsterError, UsageError
from tapster.syntax import LABEL_LENGTH
from tapster.vmm import qemu
from tapster.vmm.net_option import Grant

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Sequence
    from typing import Any, Never

USAGE = """tapster run [--network NAME | --bridge NAME] [--name NAME] [--mac MAC]
                   [--no-ask] [--rootless] [--] VMM [ARGUMENT ...]"""
DESCRIPTION = """\
Start a virtual machine monitor (VMM) with its NICs on a network of yours. That needs
no set-up and no privilege; the network has addresses, names and a way out.

QEMU's own command line says which NICs there are: every `bridge` of -netdev, -nic
and -net becomes one, and if there is none, a virtio NIC is added. `br=` there names
a Linux bridge, and wins over the options below.

Any other VMM gets one tap: {fd}, {ifname} and {mac} in its arguments are replaced
by the tap's file descriptor, its name, and the MAC address of the guest. Every VMM
finds these, of its first NIC, in the environment as TAPSTER_FD, TAPSTER_IFNAME and
TAPSTER_MAC."""
EXAMPLES = (
    "tapster run -- qemu-system-x86_64 -m 2G disk.qcow2",
    "tapster run --name web1 qemu-system-x86_64 -nic bridge,model=e1000 disk.img",
    "tapster run --network lan -- qemu-system-aarch64 -M virt -cpu max disk.img",
    "tapster run --bridge br0 --mac 52:54:00:12:34:56 qemu-kvm -m 1G disk.img",
    "tapster run -- my-vmm --tap-fd {fd} --mac {mac}",
)
VALUED = {
    "--network": "the network; without it your default one",
    "--bridge": "a Linux bridge, if the policy lets you use it",
    "--name": "the guest's name; with it a guest gets the same addresses again, and "
    "its second NIC is NAME-2 (default: what QEMU's -name says)",
    "--mac": "the guest's MAC address; without it one is assigned",
}


class CannotExecute(TapsterError):
    """The VMM cannot be executed; `status` is what a shell would return."""

    def __init__(self, message: str, hint: str | None, status: int) -> None:
        super().__init__(message, hint)
        self.status = status


def make_parser() -> ArgumentParser:
    parser = common.make_parser("tapster run", DESCRIPTION, EXAMPLES, USAGE)
    where = parser.add_mutually_exclusive_group()
    for option, text in VALUED.items():
        group = where if option in ("--network", "--bridge") else parser
        kind = "MAC" if option == "--mac" else "NAME"
        group.add_argument(option, metavar=kind, help=text)
    common.add_no_ask(parser)
    common.add_rootless(parser)
    return parser


def parse(arguments: Sequence[str]) -> Namespace:
    """The options, and `vmm`, the VMM's command line.

    The command line starts after `--`, or else at the first word that is no option
    of ours. argparse alone would take some of the VMM's options for ours.
    """
    at = 0
    while at < len(arguments) and arguments[at].startswith("-"):
        if arguments[at] == "--":
            break
        at += 2 if arguments[at] in VALUED else 1
    parser = make_parser()
    options = parser.parse_args(arguments[:at])
    options.vmm = list(arguments[at:])
    if options.vmm[:1] == ["--"]:
        del options.vmm[0]
    if not options.vmm:
        parser.error("which VMM is to be started?")
    return options


def main(arguments: Sequence[str]) -> int:
    """Become the VMM; this returns only by an exception.

    :raises CannotExecute: there is no such VMM.
    :raises TapsterError: there is no tap; the message says why.
    """
    options = parse(arguments)
    vmm: list[str] = options.vmm
    program = find_program(vmm[0])
    command = qemu.parse(vmm) if qemu.is_qemu(vmm[0]) else None
    requests = command.requests if command else (qemu.NicRequest(None, None, ""),)
    plan = make_plan(options, requests, command.guest_name if command else None)
    nics: list[Nic] = []
    try:
        for wanted in plan:
            nic = obtain(wanted, options)
            nics.append(nic)  # at once: it is closed if the next one fails
        grants = [grant(nic) for nic in nics]
        if command:
            vmm = command.with_taps(grants)
        else:
            vmm = fill_in(vmm, grants[0], nics[0].ifname)
        execute(program, vmm, environment(grants, nics))
    finally:
        for nic in nics:
            nic.close()


def obtain(wanted: dict[str, Any], options: Namespace) -> Nic:
    """Attach one NIC, with these parameters; polkit may ask for a password."""

    def call(interactive: bool) -> Nic:
        where = {"rootless": options.rootless, "interactive": interactive}
        return attach(**wanted, **where)

    return common.ask(options, call)


def find_program(name: str) -> str:
    """The path that execvp(3) would execute; looked up before a tap is asked for.

    :raises CannotExecute: there is none.
    """
    candidates = [name]
    if "/" not in name:
        candidates = [os.path.join(d, name) for d in os.get_exec_path()]
    files = [path for path in candidates if name and os.path.isfile(path)]
    for path in files:
        if os.access(path, os.X_OK):
            return path
    if files:
        raise CannotExecute(f"{name}: not executable", "see chmod(1)", 126)
    hint = "is it installed, and in PATH?" if "/" not in name else "is the path right?"
    raise CannotExecute(f"{name}: not found", hint, 127)


def make_plan(
    options: Namespace, requests: Sequence[qemu.NicRequest], guest_name: str | None
) -> list[dict[str, Any]]:
    """The parameters of attach() for each NIC.

    :param options: of `tapster run`.
    :param requests: what QEMU's command line says about each NIC.
    :param guest_name: the guest's name on QEMU's command line, if there is one.
    :raises UsageError: it is not clear which NIC --mac is for.
    """
    without_mac = sum(request.mac is None for request in requests)
    if options.mac is not None and requests and without_mac != 1:
        if without_mac:
            hint = "write mac= into QEMU's options for each"
            raise UsageError(f"--mac: {without_mac} NICs have none", hint)
        raise UsageError("--mac: QEMU's command line says the MAC already")
    name = options.name if options.name is not None else as_label(guest_name or "")
    plan: list[dict[str, Any]] = []
    for number, request in enumerate(requests, 1):
        suffix = f"-{number}" if number > 1 else ""
        plan.append(
            {
                "network": options.network if request.bridge is None else None,
                "bridge": options.bridge if request.bridge is None else request.bridge,
                "name": None if name is None else name + suffix,
                "mac": options.mac if request.mac is None else request.mac,
            }
        )
    return plan


def as_label(text: str) -> str | None:
    """A host name made of this text; None: it has no letter or digit."""
    label = re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")
    # Three characters are left for the number of a NIC.
    return label[: LABEL_LENGTH - 3].rstrip("-") or None


def grant(nic: Nic) -> Grant:
    """Make a NIC's descriptor inheritable. `nic` still owns it.

    If the user closed a standard stream, the tap can have its number, below 3. The
    VMM gets a copy then: the tap must not become the guest's console.
    """
    fd = nic.fd
    if fd < 3:
        import fcntl

        fd = fcntl.fcntl(fd, fcntl.F_DUPFD, 3)
    os.set_inheritable(fd, True)
    if nic.mac is None:
        raise ProtocolError("the broker assigned no MAC address to the guest")
    return Grant(fd, nic.mac)


def fill_in(vmm: Sequence[str], granted: Grant, ifname: str) -> list[str]:
    """The arguments with {fd}, {ifname} and {mac} replaced, and nothing else."""
    values = {"{fd}": str(granted.fd), "{ifname}": ifname, "{mac}": granted.mac}
    pattern = re.compile("{fd}|{ifname}|{mac}")
    return [vmm[0], *(pattern.sub(lambda m: values[m[0]], word) for word in vmm[1:])]


def environment(grants: Sequence[Grant], nics: Sequence[Nic]) -> dict[str, str]:
    """Our environment, with the variables of the first NIC, or of none."""
    names = ("TAPSTER_FD", "TAPSTER_IFNAME", "TAPSTER_MAC")
    result = {k: v for k, v in os.environ.items() if k not in names}
    if grants:
        values = (str(grants[0].fd), nics[0].ifname, grants[0].mac)
        result.update(zip(names, values, strict=True))
    return result


def execute(program: str, vmm: list[str], environ: dict[str, str]) -> Never:
    """Become the VMM.

    Python ignores two signals. A new program would inherit that, so they are reset.

    :param program: path of the VMM.
    :param vmm: its command line.
    :param environ: its environment.
    :raises CannotExecute: the kernel refuses.
    """
    signal(SIGPIPE, SIG_DFL)
    signal(SIGXFSZ, SIG_DFL)
    try:
        os.execve(program, vmm, environ)  # noqa: S606 - to become it is the point
    except FileNotFoundError:  # the file itself is there: see find_program()
        reason, hint = "its interpreter is not found", "see its first line"
    except OSError as error:
        reason, hint = os.strerror(error.errno or 0), None
        if error.errno == errno.ENOEXEC:
            hint = "is it a program for this machine?"
    raise CannotExecute(f"{vmm[0]}: {reason}", hint, 126)
