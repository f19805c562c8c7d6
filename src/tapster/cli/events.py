# SPDX-License-Identifier: LGPL-2.1-or-later
"""tapster events: what happens, one line each, as it happens.

It runs until somebody ends it, so Ctrl-C is a good end; that the broker goes
away is not, and a program that relies on the events must see it.
"""

from __future__ import annotations

import json
import signal

from tapster import client
from tapster.cli import arguments as look
from tapster.cli.text import note, visible
from tapster.connection import Gone
from tapster.errors import BrokerUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Sequence

COLUMNS = ("time", "event", "name", "user", "network", "ifname", "mac", "ipv4", "ipv6")
DESCRIPTION = f"""\
Print what happens to your NICs, as root to those of all users, from now on.

Each line has: {", ".join(COLUMNS[:6])},
{", ".join(COLUMNS[6:])}, and the reason, if there is one."""
EXAMPLES = ("tapster events", "tapster events --json", "tapster events --rootless")


def make_parser() -> ArgumentParser:
    parser = look.make_parser("tapster events", DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "--json",
        action="store_true",
        help='an object a line; the first, "watching", says that the watch is on',
    )
    look.add_rootless(parser)
    return parser


def parse(arguments: Sequence[str]) -> Namespace:
    return make_parser().parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Returns when Ctrl-C or SIGTERM ends it.

    :raise BrokerUnavailable: there is no broker, or it has gone away.
    """
    options = parse(arguments)
    try:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        for event in client.watch(rootless=options.rootless):
            if options.json:
                print(json.dumps(event), flush=True)
            elif event.get("event") == "watching":
                note("watching")
            else:
                print(line(event), flush=True)
    except KeyboardInterrupt:
        return 0
    except Gone:
        raise BrokerUnavailable("the broker has gone away") from None
    raise BrokerUnavailable("the broker has ended the watch")


def line(event: dict[str, object]) -> str:
    """An event in safe words, with a bridge in the place of its network."""
    event = {**event, "network": event.get("network") or event.get("bridge")}
    words = [visible(event.get(column)) for column in COLUMNS]
    if event.get("reason"):
        words.append(visible(event["reason"]))
    return " ".join(words)
