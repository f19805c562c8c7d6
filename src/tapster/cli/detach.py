# SPDX-License-Identifier: LGPL-2.1-or-later
"""tapster detach: take a NIC away, though its guest still holds the tap.

A guest that runs wild, or a NIC that fills a quota: ending the VMM is the usual
way, this is the one that leaves it running.
"""

from __future__ import annotations

import os

from tapster.cli import arguments as look
from tapster.cli.text import visible
from tapster.client import attach as client
from tapster.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Sequence
    from typing import Any

DESCRIPTION = """\
Take a NIC away from its guest, at once. The guest runs on without it.

NIC is what `tapster ls` shows: an IFNAME, or the NAME of a guest of yours that has
no more than one. Other users' NICs, where you manage them, go by IFNAME alone."""
EXAMPLES = ("tapster detach web1", "tapster detach tapstern1x2y3z")


def make_parser() -> ArgumentParser:
    parser = look.make_parser("tapster detach", DESCRIPTION, EXAMPLES)
    parser.add_argument("nic", metavar="NIC", help="the tap's name, or your guest's")
    look.add_no_ask(parser)
    look.add_rootless(parser)
    return parser


def parse(arguments: Sequence[str]) -> Namespace:
    return make_parser().parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """:raises TapsterError: there is no such NIC, or no broker, or it says no."""
    options = parse(arguments)
    nics = client.list_nics(rootless=options.rootless)
    nic = find(options.nic, nics, os.geteuid())
    # What is not seen may still be there: polkit may have to be asked first.
    ifname = nic["ifname"] if nic else options.nic
    look.ask(
        options,
        lambda person: client.detach(
            ifname, interactive=person, rootless=options.rootless
        ),
    )
    print(line(ifname, nic))
    return 0


def find(word: str, nics: Sequence[dict[str, Any]], uid: int) -> dict[str, Any] | None:
    """The NIC that is meant: the one of that ifname, or else the only one of the
    user's own guest of that name. A name is its user's choice, so another's guest
    is never found by it.

    :raises UsageError: several are.
    """
    for nic in nics:
        if nic["ifname"] == word:
            return nic
    found = [n for n in nics if n["name"] == word.lower() and n["uid"] == uid]
    if len(found) > 1:
        names = ", ".join(nic["ifname"] for nic in found)
        raise UsageError(f"{word!r} has {len(found)} NICs", f"name one: {names}")
    return found[0] if found else None


def line(ifname: str, nic: dict[str, Any] | None) -> str:
    """What was done; what is known of the NIC is of the moment before."""
    text = f"{ifname} is detached"
    if nic is not None:
        text += (
            f": {nic['name']} of {nic['user']}, on {nic['network'] or nic['bridge']}"
        )
    return visible(text)
