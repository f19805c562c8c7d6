# SPDX-License-Identifier: LGPL-2.1-or-later
"""tapster events: print a line for each thing that happens, as it happens.

The command runs until it is interrupted, so Ctrl-C is no error. That the broker
goes away is one: a program that relies on the events must notice it.
"""

from __future__ import annotations

import json
import signal

from tapster.cli import common
from tapster.cli.text import note, visible
from tapster.client import attach as client
from tapster.client.connection import Gone
from tapster.errors import BrokerUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Sequence

COLUMNS = ("time", "event", "name", "user", "network", "ifname", "mac", "ipv4", "ipv6")
# Printed after the columns, if there is anything to print.
MORE = ("verb", "port", "outcome", "reason", "rule")
DESCRIPTION = f"""\
Print what you do and what happens to your NICs, from now on; as root, what all
users do and what happens to theirs.

Each line has: {", ".join(COLUMNS[:6])},
{", ".join(COLUMNS[6:])}. Then, if there is one and it is not the
usual one: {", ".join(MORE[:-1])}, [{MORE[-1]}]. --json has more."""
EXAMPLES = ("tapster events", "tapster events --json", "tapster events --rootless")


def make_parser() -> ArgumentParser:
    parser = common.make_parser("tapster events", DESCRIPTION, EXAMPLES)
    text = 'print an object a line; after the first, "watching", none is missed'
    common.add_json(parser, text)
    common.add_rootless(parser)
    return parser


def parse(arguments: Sequence[str]) -> Namespace:
    return make_parser().parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Print events until Ctrl-C or SIGTERM.

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
    """An event as a line that is safe to print; a bridge stands for a network."""
    event = {**event, "network": event.get("network") or event.get("bridge")}
    words = [visible(event.get(column)) for column in COLUMNS]
    done = event.get("outcome") in (None, "ok")
    for key in MORE:
        value = event.get(key)
        # The event's own name says what was done; some names say the outcome, too.
        if not value or (key == "verb" and done):
            continue
        if key == "outcome" and (done or value == event.get("event")):
            continue
        words.append(f"[{visible(value)}]" if key == "rule" else visible(value))
    return " ".join(words)
