# SPDX-License-Identifier: LGPL-2.1-or-later
"""tapster network: which networks there are, and all that is known of one.

What a network is made of is an administrator's choice and partly the broker's
own; a user whose guest cannot reach something looks here for why.
"""

from __future__ import annotations

import json

from tapster.cli import arguments as look
from tapster.cli import subcommands, table
from tapster.cli.text import note, visible
from tapster.client import manage
from tapster.errors import NotAuthorized

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Sequence
    from typing import Any

DESCRIPTION = "Show the networks that you may attach guests to."
SUMMARIES = {
    "ls": "list the networks that you may use",
    "show": "show all that there is to know of a network",
    "reload": "have the broker read its configuration again",
}
LS = """\
List the networks that you may use, and other users' that you manage; as root
all, and each user's instance.

A network is `up` while it has guests, on a Linux bridge while there is that
bridge, and otherwise `down`. `pending` has a new definition, which takes effect
when its last guest has gone; `removed` has no definition any more, and its
guests stay. NICS are yours, and how many you may have; as root all users'."""
LS_EXAMPLES = ("tapster network ls", "tapster network ls --json")
SHOW = "Show every property of a network; as root of each user's instance of it."
SHOW_EXAMPLES = ("tapster network show default", "tapster network show lan --json")
RELOAD = """\
Have the broker read its configuration again, which only root may do, or who
manages every network, or you of your own broker.

Prints what changed, and what that waits for. No guest is touched. If the
configuration is wrong, it says where, and nothing changes."""
RELOAD_EXAMPLES = ("tapster network reload",)
HEAD = (
    "NAME",
    "MODE",
    "SCOPE",
    "USER",
    "STATE",
    "BRIDGE",
    "SUBNET4",
    "SUBNET6",
    "NICS",
)
COLOURS = {"up": "green", "pending": "yellow", "removed": "red"}


def make_parser() -> ArgumentParser:
    examples = (*LS_EXAMPLES, *SHOW_EXAMPLES, *RELOAD_EXAMPLES)
    parser = look.make_parser("tapster network", DESCRIPTION, examples)
    subcommands.add_commands(parser, SUMMARIES)
    return parser


def make_ls_parser() -> ArgumentParser:
    parser = look.make_parser("tapster network ls", LS, LS_EXAMPLES)
    parser.add_argument(
        "--json", action="store_true", help="a list of objects, all their words"
    )
    look.add_rootless(parser)
    return parser


def make_show_parser() -> ArgumentParser:
    parser = look.make_parser("tapster network show", SHOW, SHOW_EXAMPLES)
    parser.add_argument("name", metavar="NAME", help="of the network")
    parser.add_argument(
        "--json",
        action="store_true",
        help="an object; a list of them where there are several instances",
    )
    look.add_rootless(parser)
    return parser


def make_reload_parser() -> ArgumentParser:
    parser = look.make_parser("tapster network reload", RELOAD, RELOAD_EXAMPLES)
    look.add_no_ask(parser)
    look.add_rootless(parser)
    return parser


def parse(arguments: Sequence[str]) -> Namespace:
    makers = {
        "ls": make_ls_parser,
        "show": make_show_parser,
        "reload": make_reload_parser,
    }
    return subcommands.parse(make_parser, makers, arguments)


def main(arguments: Sequence[str]) -> int:
    """:raises TapsterError: there is no broker, or it says no."""
    options = parse(arguments)
    if options.command == "reload":
        changes = look.ask(
            options,
            lambda person: manage.reload(interactive=person, rootless=options.rootless),
        )
        for change in changes:
            print(visible(change))
        if not changes:
            note("nothing has changed")
        return 0
    networks = manage.list_networks(rootless=options.rootless)
    if options.command == "show":
        show(options.name, networks, options.json)
    elif options.json:
        print(json.dumps(networks, indent=2))
    elif networks:
        table.show(make_table(networks), COLOURS)
    else:
        note("there is no network that you may use")
    return 0


def show(name: str, networks: Sequence[dict[str, Any]], as_json: bool) -> None:
    """Print a network, each instance that there is.

    :raises NotAuthorized: none has that name.
    """
    found = [network for network in networks if network["name"] == name]
    if not found:
        text = f"you may not use the network {name!r}, or it does not exist"
        raise NotAuthorized(text, "`tapster network ls` lists those that you may use")
    if as_json:
        print(json.dumps(found if len(found) > 1 else found[0], indent=2))
    else:
        print("\n\n".join(describe(network) for network in found))


def make_table(networks: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Rows of safe text, the head first; a last column has notes, if any."""
    keys = [title.lower() for title in HEAD if title != "NICS"]
    rows = [list(HEAD)]
    for network in networks:
        limit = network["max_nics"]
        nics = f"{network['nics']}" if limit is None else f"{network['nics']}/{limit}"
        rows.append([*(visible(network[key]) for key in keys), nics])
    if any(network["notes"] for network in networks):
        rows[0].append("NOTES")
        for row, network in zip(rows[1:], networks, strict=True):
            row.append("; ".join(map(visible, network["notes"])))
    return rows


def describe(network: dict[str, Any]) -> str:
    """A line for each property, and one more for each further word of a list."""
    width = max(map(len, network)) + 2
    lines = []
    for key, value in network.items():
        label = visible(key)
        for word in words(key, value):
            lines.append(f"{label:{width}}{word}")
            label = ""
    return "\n".join(lines)


def words(key: str, value: object) -> list[str]:
    """A property as people read it: never empty."""
    if isinstance(value, list):
        return [visible(word) for word in value] or ["-"]
    if isinstance(value, bool):
        return ["yes" if value else "no"]
    if isinstance(value, int) and key.endswith("_rate"):
        return [rate(value)]
    if key == "max_nics" and value is None:
        return ["no limit"]
    return [visible(value)]


def rate(bits: int) -> str:
    """Bits a second as people read them: 100 Mbit/s."""
    if not bits:
        return "no limit"
    for unit, size in ("Gbit/s", 10**9), ("Mbit/s", 10**6), ("kbit/s", 10**3):
        if bits >= size:
            return f"{bits / size:.6g} {unit}"
    return f"{bits} bit/s"
