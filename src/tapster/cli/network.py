# SPDX-License-Identifier: LGPL-2.1-or-later
"""tapster network: which networks there are, and every property of one.

The administrator chooses some properties of a network, and the broker the others. A
user whose guest cannot reach something finds the reason here.
"""

from __future__ import annotations

import json

from tapster.cli import common, subcommands, table
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
    "show": "show every property of a network",
    "reload": "have the broker read its configuration again",
}
LS = """\
List the networks that you may use, and other users' networks that you manage; as
root, all of them, with each user's instance.

A network is `up` while it has guests, or, on a Linux bridge, while that bridge
exists; otherwise it is `down`. A `pending` network has a new definition, which takes
effect when its last guest has gone. A `removed` one has no definition any more; its
guests stay. NICS says how many you have, and may have; as root, of all users."""
LS_EXAMPLES = ("tapster network ls", "tapster network ls --json")
SHOW = "Show every property of a network; as root, of each user's instance of it."
SHOW_EXAMPLES = ("tapster network show default", "tapster network show lan --json")
RELOAD = """\
Have the broker read its configuration again. Root may do that, and a user who
manages every network; anybody may with their own broker.

Prints what changed, and what a change waits for. No guest is touched. If the
configuration is wrong, the error says where, and nothing changes."""
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
    parser = common.make_parser("tapster network", DESCRIPTION, examples)
    subcommands.add_commands(parser, SUMMARIES)
    return parser


def make_ls_parser() -> ArgumentParser:
    parser = common.make_parser("tapster network ls", LS, LS_EXAMPLES)
    common.add_json(parser)
    common.add_rootless(parser)
    return parser


def make_show_parser() -> ArgumentParser:
    parser = common.make_parser("tapster network show", SHOW, SHOW_EXAMPLES)
    parser.add_argument("name", metavar="NAME", help="the network")
    common.add_json(parser, "print an object; a list of them for several instances")
    common.add_rootless(parser)
    return parser


def make_reload_parser() -> ArgumentParser:
    parser = common.make_parser("tapster network reload", RELOAD, RELOAD_EXAMPLES)
    common.add_no_ask(parser)
    common.add_rootless(parser)
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
        changes = common.ask(
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
    """Print each instance of a network.

    :param name: the network's.
    :param networks: those that the user may use.
    :param as_json: for programs.
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
    """Rows of text that is safe to print, the head first; notes are the last column."""
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
    """A line for each property; for a list, a line for each of its words."""
    width = max(map(len, network)) + 2
    lines = []
    for key, value in network.items():
        label = visible(key)
        for word in words(key, value):
            lines.append(f"{label:{width}}{word}")
            label = ""
    return "\n".join(lines)


def words(key: str, value: object) -> list[str]:
    """A property as lines for people, at least one."""
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
    """Bits per second for people: 100 Mbit/s."""
    if not bits:
        return "no limit"
    for unit, size in ("Gbit/s", 10**9), ("Mbit/s", 10**6), ("kbit/s", 10**3):
        if bits >= size:
            return f"{bits / size:.6g} {unit}"
    return f"{bits} bit/s"
