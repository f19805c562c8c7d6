# SPDX-License-Identifier: LGPL-2.1-or-later
"""tapster forward: forward ports of the host to guests.

A guest behind NAT cannot be reached from outside, which protects it. A forwarded
port is the way in to the one service that a user means to offer.
"""

from __future__ import annotations

import json
import re

from tapster.cli import common, subcommands, table
from tapster.cli.text import note, visible
from tapster.client import manage
from tapster.client.attach import NotRunning
from tapster.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Sequence
    from typing import Any

DESCRIPTION = "Forward ports of this host to your guests."
SUMMARIES = {
    "add": "forward a port to a guest",
    "rm": "stop forwarding a port",
    "ls": "list the ports that are forwarded to your guests",
}
ADD = """\
Forward a port of this host to a port of your guest, over IPv4 and IPv6. Until
`tapster forward rm`, the port leads to the guest of that name whenever one is
attached. The guest sees the addresses of its clients."""
ADD_EXAMPLES = (
    "tapster forward add tcp/8080 web:80",
    "tapster forward add tcp/8080 web",
    "tapster forward add udp/5353 dns:53 --network lab",
)
RM = "Stop forwarding a port of this host: yours, or one that you manage."
RM_EXAMPLES = (
    "tapster forward rm tcp/8080",
    "tapster forward rm udp/5353 --network lab",
)
LS = """\
List the ports of this host that are forwarded to your guests, or that you manage;
as root, those of all users.

A port is `waiting` while its guest is not attached. Its origin is the
`configuration` of the broker, or the `command` that added it."""
LS_EXAMPLES = ("tapster forward ls", "tapster forward ls --json")
HEAD = ("PORT", "GUEST", "NETWORK", "USER", "STATE", "IPV4", "IPV6", "ORIGIN")
COLOURS = {"active": "green", "waiting": "yellow"}


def make_parser() -> ArgumentParser:
    examples = (*ADD_EXAMPLES, *RM_EXAMPLES, *LS_EXAMPLES)
    parser = common.make_parser("tapster forward", DESCRIPTION, examples)
    subcommands.add_commands(parser, SUMMARIES)
    return parser


def make_add_parser() -> ArgumentParser:
    parser = common.make_parser("tapster forward add", ADD, ADD_EXAMPLES)
    _add_port(parser)
    parser.add_argument(
        "guest",
        metavar="GUEST[:PORT]",
        help="the guest's name, and its port if it differs from the host's",
    )
    _add_network(parser)
    common.add_no_ask(parser)
    common.add_rootless(parser)
    return parser


def make_rm_parser() -> ArgumentParser:
    parser = common.make_parser("tapster forward rm", RM, RM_EXAMPLES)
    _add_port(parser)
    _add_network(parser)
    common.add_no_ask(parser)
    common.add_rootless(parser)
    return parser


def make_ls_parser() -> ArgumentParser:
    parser = common.make_parser("tapster forward ls", LS, LS_EXAMPLES)
    common.add_json(parser)
    common.add_rootless(parser)
    return parser


def _add_port(parser: ArgumentParser) -> None:
    parser.add_argument(
        "port", metavar="PORT", help="the port of this host: tcp/N or udp/N"
    )


def _add_network(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--network",
        metavar="NAME",
        help="the guest's network; without it your default one",
    )


def parse(arguments: Sequence[str]) -> Namespace:
    """The options; for `add` with `guest_port`.

    :raises UsageError: a port or a guest is not written as one.
    """
    makers = {"add": make_add_parser, "rm": make_rm_parser, "ls": make_ls_parser}
    options = subcommands.parse(make_parser, makers, arguments)
    if options.command != "ls":
        options.port, number = parse_port(options.port)
        if options.command == "add":
            options.guest, options.guest_port = parse_guest(options.guest, number)
    return options


def parse_port(text: str) -> tuple[str, int]:
    """A port of the host in the form of the wire, "tcp/8080", and its number.

    :raises UsageError: the text is no port.
    """
    match = re.fullmatch("(tcp|udp)/([0-9]{1,5})", text)
    if not match or not 1 <= int(match[2]) <= 65535:
        hint = 'write it as "tcp/8080" or "udp/53"'
        raise UsageError(f"{text!r} is not a port of the host", hint)
    return f"{match[1]}/{int(match[2])}", int(match[2])


def parse_guest(text: str, number: int) -> tuple[str, int]:
    """A guest's name and its port.

    :param text: "web:80", or "web".
    :param number: the port, if the text has none.
    :raises UsageError: the text is no guest and port.
    """
    match = re.fullmatch("([^:]+)(?::([0-9]{1,5}))?", text)
    inside = int(match[2] or number) if match else 0
    if not match or not 1 <= inside <= 65535:
        hint = 'write it as "web:80", or as "web" for the same port'
        raise UsageError(f"{text!r} is not a guest and its port", hint)
    return match[1], inside


def main(arguments: Sequence[str]) -> int:
    """:raises TapsterError: there is no broker, or it says no."""
    options = parse(arguments)
    where = {"rootless": options.rootless}
    match options.command:
        case "add":
            ports = (options.port, options.guest, options.guest_port, options.network)
            forward = common.ask(
                options,
                lambda person: manage.add_forward(*ports, interactive=person, **where),
            )
            print(line(forward))
        case "rm":
            place = (options.port, options.network)
            common.ask(
                options,
                lambda person: manage.remove_forward(
                    *place, interactive=person, **where
                ),
            )
        case _:
            list_forwards(options)
    return 0


def list_forwards(options: Namespace) -> None:
    try:
        forwards = manage.list_forwards(rootless=options.rootless)
        if not forwards and not options.json:
            note("no port leads to a guest")
    except NotRunning as error:
        forwards = []  # nothing is forwarded then; say that no broker runs
        note(error.oneline())
    if options.json:
        print(json.dumps(forwards, indent=2))
    elif forwards:
        table.show(make_table(forwards), COLOURS)


def line(forward: dict[str, Any]) -> str:
    """Where the guest can be reached, and from when on."""
    guest = f"{forward['guest']}:{forward['guest_port']}"
    text = f"{forward['port']} of this host leads to {guest}"
    addresses = ", ".join(filter(None, (forward["ipv4"], forward["ipv6"])))
    if forward["state"] == "waiting":
        text += ", as soon as that guest is attached"
    elif addresses:
        text += f" ({addresses})"
    return visible(text)


def make_table(forwards: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Rows of text that is safe to print, the head first."""
    rows = [list(HEAD)]
    for forward in forwards:
        words = [forward["port"], f"{forward['guest']}:{forward['guest_port']}"]
        words += [forward[key] for key in ("network", "user", "state", "ipv4", "ipv6")]
        words += ["configuration" if forward["static"] else "command"]
        rows.append([visible(word) for word in words])
    return rows
