# SPDX-License-Identifier: LGPL-2.1-or-later
"""tapster ls: which NICs there are, for people and for programs.

People get a table. Programs use --json, which prints the fields of the wire as they
are, those that this version does not know included.
"""

from __future__ import annotations

import json

from tapster.cli import common, table
from tapster.cli.text import note, size, visible
from tapster.client import attach as client

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Sequence
    from typing import Any

DESCRIPTION = """\
List the NICs that you attached, and those that you manage; as root, those of all
users.

RX and TX are the bytes/packets that the guest received and sent. A NIC is `active`,
`waiting` for the first packet of its guest, `refused`, or `quarantined` because its
tap was tampered with; REASON says why. EXPIRES is when a NIC that was granted for a
limited time will be removed."""
EXAMPLES = ("tapster ls", "tapster ls --json", "tapster ls --rootless")
HEAD = (
    "NAME",
    "USER",
    "PID",
    "NETWORK",
    "IFNAME",
    "MAC",
    "IPV4",
    "IPV6",
    "STATE",
    "RX",
    "TX",
)
COLOURS = {
    "active": "green",
    "waiting": "yellow",
    "refused": "red",
    "quarantined": "red",
}


def make_parser() -> ArgumentParser:
    parser = common.make_parser("tapster ls", DESCRIPTION, EXAMPLES)
    common.add_json(parser)
    common.add_rootless(parser)
    return parser


def parse(arguments: Sequence[str]) -> Namespace:
    return make_parser().parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """:raises TapsterError: a broker runs, or should, and gives no list."""
    options = parse(arguments)
    try:
        nics = client.list_nics(rootless=options.rootless)
        if not nics and not options.json:
            note("nothing is attached")
    except client.NotRunning as error:
        nics = []  # nobody can have a NIC then; say that no broker runs
        note(error.oneline())
    if options.json:
        print(json.dumps(nics, indent=2))
    elif nics:
        table.show(make_table(nics), COLOURS)
    return 0


def make_table(nics: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Rows of text that is safe to print, the head first.

    The columns EXPIRES and REASON are there if any NIC has something in them.
    """
    reasons = [
        visible(nic["reason"]) if nic["reason"] and nic["state"] != "active" else ""
        for nic in nics
    ]
    rows = [list(HEAD)]
    for nic in nics:
        words = [nic[key] for key in ("name", "user", "pid")]
        words += [nic["network"] or nic["bridge"]]
        words += [nic[key] for key in ("ifname", "mac", "ipv4", "ipv6", "state")]
        words += [
            f"{size(nic[f'{way}_bytes'])}/{nic[f'{way}_packets']}"
            for way in ("rx", "tx")
        ]
        rows.append([visible(word) for word in words])
    expiries = [local_time(nic["expires"]) if nic["expires"] else "" for nic in nics]
    for title, column in ("EXPIRES", expiries), ("REASON", reasons):
        if any(column):
            for row, word in zip(rows, [title, *column], strict=True):
                row.append(word)
    return rows


def local_time(date: str) -> str:
    """A date from the broker, in local time."""
    from datetime import datetime

    try:
        return datetime.fromisoformat(date).astimezone().strftime("%F %T")
    except (ValueError, OverflowError):
        return visible(date)
