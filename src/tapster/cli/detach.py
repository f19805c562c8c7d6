# SPDX-License-Identifier: LGPL-2.1-or-later
"""tapster detach: disconnect a NIC, although its guest still holds the tap.

To end the VMM is the usual way to remove a NIC. This one is for a guest that has to
go on running: one that floods the network, or whose NIC takes up a quota.
"""

from __future__ import annotations

import os

from tapster.cli import common
from tapster.cli.text import visible
from tapster.client import attach as client
from tapster.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Sequence
    from typing import Any

DESCRIPTION = """\
Disconnect a NIC from its guest, at once. The guest runs on without it.

NIC is what `tapster ls` shows: an IFNAME, or the NAME of a guest of yours that has
a single NIC. A NIC of another user, if you manage it, is named by its IFNAME."""
EXAMPLES = ("tapster detach web1", "tapster detach tapstern1x2y3z")


def make_parser() -> ArgumentParser:
    parser = common.make_parser("tapster detach", DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "nic", metavar="NIC", help="the name of the tap, or of your guest"
    )
    common.add_no_ask(parser)
    common.add_rootless(parser)
    return parser


def parse(arguments: Sequence[str]) -> Namespace:
    return make_parser().parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """:raises TapsterError: there is no such NIC, or no broker, or it says no."""
    options = parse(arguments)
    nics = client.list_nics(rootless=options.rootless)
    nic = find(options.nic, nics, os.geteuid())
    # A NIC that is not listed may exist: polkit may have to be asked first.
    ifname = nic["ifname"] if nic else options.nic
    common.ask(
        options,
        lambda person: client.detach(
            ifname, interactive=person, rootless=options.rootless
        ),
    )
    print(line(ifname, nic))
    return 0


def find(word: str, nics: Sequence[dict[str, Any]], uid: int) -> dict[str, Any] | None:
    """The NIC that a word means: the one with that ifname, or else that of the user's
    own guest with that name.

    Users choose the names of their guests, so another user's guest is never found
    by its name.

    :param word: what the user wrote.
    :param nics: those that the user may see.
    :param uid: the user's.
    :raises UsageError: the guest has several NICs.
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
    """What was done, with what was known of the NIC before."""
    text = f"{ifname} is detached"
    if nic is not None:
        text += (
            f": {nic['name']} of {nic['user']}, on {nic['network'] or nic['bridge']}"
        )
    return visible(text)
