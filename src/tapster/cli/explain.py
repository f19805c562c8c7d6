# SPDX-License-Identifier: LGPL-2.1-or-later
"""tapster explain: whether somebody may have something, and which rule says so.

People trust a policy that they can question. The broker decides as it would decide
the request itself, and this command shows how: an administrator sees all of it, a
user sees what the request would have told, and whom to ask.
"""

from __future__ import annotations

import json
import os

from tapster.cli import common, table
from tapster.cli.text import visible
from tapster.client import attach as client
from tapster.client import manage
from tapster.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Sequence
    from typing import Any

DESCRIPTION = """\
Say whether you may attach a guest, or forward a port to it, and which rule of which
file decides; as root, about any user. Nothing is done, and polkit is not asked: what
it would want a password for is denied.

All rules about the same network or bridge follow, in their order, each with its
outcome. The exit status is 0 if it is allowed, and 1 if it is denied."""
EXAMPLES = (
    "tapster explain",
    "tapster explain --network lan --name web1",
    "tapster explain --network lan --name web1 --forward tcp/8080",
    "tapster explain --user alice --bridge br0 --json",
)
HEAD = ("RULE", "EFFECT", "OUTCOME")
# The options that say what is asked about.
ASKED = ("network", "bridge", "name", "mac", "forward")


def make_parser() -> ArgumentParser:
    parser = common.make_parser("tapster explain", DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "--user",
        metavar="NAME",
        help="the user, by name or number; only root may ask about others (default: "
        "you)",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--network", metavar="NAME", help="the network; without it the default one"
    )
    where.add_argument("--bridge", metavar="NAME", help="a Linux bridge instead")
    parser.add_argument(
        "--name",
        metavar="NAME",
        help="the guest's name; without it the next that the broker would give",
    )
    parser.add_argument(
        "--mac",
        metavar="MAC",
        help="the guest's MAC address; without it any that it may have",
    )
    parser.add_argument(
        "--forward",
        metavar="PORT",
        help="ask about forwarding this port of the host to the guest: tcp/N or udp/N",
    )
    common.add_json(parser, "print an object, all fields, and how many NICs are `left`")
    common.add_rootless(parser)
    return parser


def parse(arguments: Sequence[str]) -> Namespace:
    """The options.

    :raises UsageError: a port is not written as one, or can't be forwarded.
    """
    options = make_parser().parse_args(arguments)
    if options.forward is not None:
        from tapster.cli.forward import parse_port

        options.forward, _ = parse_port(options.forward)
        if options.bridge is not None:
            raise UsageError("--forward: not on a Linux bridge", "name a network")
    return options


def main(arguments: Sequence[str]) -> int:
    """:raises TapsterError: there is no broker, or it does not tell."""
    options = parse(arguments)
    asked = {key: getattr(options, key) for key in ASKED}
    told = manage.explain(options.user, **asked, rootless=options.rootless)
    if options.json:
        left = None if options.forward else left_of(told)
        print(json.dumps({**told, "left": left}, indent=2))
    else:
        print("\n".join(describe(told, asked)))
        if is_withheld(told):
            print("\n" + whom_to_ask(told, asked, options.rootless))
    return 0 if told["allowed"] else 1


def describe(told: dict[str, Any], asked: dict[str, str | None]) -> list[str]:
    """Lines that are safe to print: the verdict, the request, each rule, the notes."""
    facts = [
        ("user", f"{told['user']} (uid {told['uid']})"),
        ("request", request(asked)),
    ]
    if told["rule"] is not None:
        facts.append(("rule", told["rule"]))
    if told["polkit"]:
        facts.append(("polkit", "has to allow it, too"))
    if asked["forward"] is None:
        facts += quotas(told)
    lines = [verdict(told)]
    lines += [f"  {label:<9}{visible(text)}" for label, text in facts]
    if told["steps"]:
        rows = [
            [visible(step[key]) for key in ("place", "effect", "outcome")]
            for step in told["steps"]
        ]
        lines += ["", *table.plain([HEAD, *rows]).splitlines()]
    if told["notes"]:
        lines += ["", *(f"note: {visible(note)}" for note in told["notes"])]
    return lines


def verdict(told: dict[str, Any]) -> str:
    """`allowed` or `denied`, and why; a reason that begins with the word is enough."""
    word = "allowed" if told["allowed"] else "denied"
    reason = visible(told["reason"])
    return reason if reason.startswith(f"{word} ") else f"{word}: {reason}"


def request(asked: dict[str, str | None]) -> str:
    """The request that the question is about, in words."""
    where = f"network {asked['network']}" if asked["network"] else "the default network"
    if asked["bridge"]:
        where = f"bridge {asked['bridge']}"
    guest = f"guest {asked['name']}" if asked["name"] else "a guest"
    if asked["mac"]:
        guest += f" with MAC {asked['mac']}"
    if asked["forward"]:
        return f"forward {asked['forward']} of this host to {guest} on {where}"
    return f"attach {guest} to {where}"


def quotas(told: dict[str, Any]) -> list[tuple[str, str]]:
    """How many NICs the user has by the rule, and how many all users have together."""
    found = []
    if told["max_nics"] is not None:
        of = "by that rule" if told["rule"] else "there"
        found.append(("quota", quota(told["nics"], told["max_nics"], of)))
    elif told["allowed"]:
        found.append(("quota", f"{told['nics']} NICs, without a limit"))
    if told["network_max_nics"] is not None:
        used = told["network_nics"] or 0
        text = quota(used, told["network_max_nics"], "of all users together")
        found.append(("network", text))
    return found


def quota(used: int, limit: int, of: str) -> str:
    return f"{used} of {limit} NICs {of}, {max(limit - used, 0)} left"


def left_of(told: dict[str, Any]) -> int | None:
    """How many NICs the quotas leave; None: no quota, or the user is not told."""
    pairs = (
        (told["max_nics"], told["nics"]),
        (told["network_max_nics"], told["network_nics"]),
    )
    return min(
        (max(limit - (used or 0), 0) for limit, used in pairs if limit is not None),
        default=None,
    )


def is_withheld(told: dict[str, Any]) -> bool:
    """Whether the broker says no and does not say why, as to all users but root."""
    silent = told["rule"] is None and not told["steps"]
    return not told["allowed"] and silent and os.geteuid() != 0


def whom_to_ask(
    told: dict[str, Any], asked: dict[str, str | None], rootless: bool
) -> str:
    """A hint: the command with which an administrator finds out why."""
    if client.get_info(rootless=rootless).get("tier") == "rootless":
        return "it is your own broker; tapsterd(8) says where its rules are"
    from shlex import quote

    words = ["sudo"]
    chosen = os.environ.get("TAPSTER_SOCKET")
    if chosen:  # sudo does not pass it on
        words += ["env", f"TAPSTER_SOCKET={chosen}"]
    words += ["tapster", "explain", "--user", told["user"]]
    for key, value in asked.items():
        if value is not None:
            dash = value.startswith("-")  # the name of a Linux bridge may
            words += [f"--{key}={value}"] if dash else [f"--{key}", value]
    command = " ".join(map(quote, words))
    return f"an administrator is told why by:\n  {visible(command)}"
