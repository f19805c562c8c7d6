# SPDX-License-Identifier: LGPL-2.1-or-later
"""tapster events: what happens, one line each, as it happens.

It runs until somebody ends it, so Ctrl-C is a good end; that the broker goes
away is not, and a program that relies on the events must see it.
"""

from __future__ import annotations

import json
import signal

from tapster.cli import arguments as look
from tapster.cli.text import note, visible
from tapster.client import attach as client
from tapster.client.connection import Gone
from tapster.errors import BrokerUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Sequence

COLUMNS = ("time", "event", "name", "user", "network", "ifname", "mac", "ipv4", "ipv6")
# Said after the columns, where there is something to say.
MORE = ("verb", "port", "outcome", "reason", "rule")
DESCRIPTION = f"""\
Print what you did and what happens to your NICs, as root what all users did and
what happens to theirs, from now on.

Each line has: {", ".join(COLUMNS[:6])},
{", ".join(COLUMNS[6:])}. Then, where there is one, and it is not as
usual: {", ".join(MORE[:-1])}, [{MORE[-1]}]. --json has more."""
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

    :raises BrokerUnavailable: there is no broker, or it has gone away.
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
    done = event.get("outcome") in (None, "ok")
    for key in MORE:
        value = event.get(key)
        # What is done is in the event's own word, and some outcomes are, too.
        if not value or (key == "verb" and done):
            continue
        if key == "outcome" and (done or value == event.get("event")):
            continue
        words.append(f"[{visible(value)}]" if key == "rule" else visible(value))
    return " ".join(words)
