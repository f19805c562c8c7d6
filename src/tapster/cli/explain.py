# SPDX-License-Identifier: LGPL-2.1-or-later
"""tapster explain: may somebody have something, and which rule says so.

A policy is trusted by those who can ask it. The broker decides as it would decide
a request, and this shows how that came: to an administrator all of it, to a user
what a request would have told, and whom to ask.
"""

from __future__ import annotations

import json
import os

from tapster.cli import arguments as look
from tapster.cli import table
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
Tell whether you may attach a guest, or forward a port to it, and which rule of
which file says so; as root, about anybody. Nothing is done, and nobody is asked:
what polkit would want a password for is denied.

Below are the rules about the same network or bridge, in their order, and what came
of each. The exit status is 0 if it is allowed, and 1 if it is denied."""
EXAMPLES = (
    "tapster explain",
    "tapster explain --network lan --name web1",
    "tapster explain --network lan --name web1 --forward tcp/8080",
    "tapster explain --user alice --bridge br0 --json",
)
HEAD = ("RULE", "EFFECT", "OUTCOME")
# What was asked for, as it is asked for again.
ASKED = ("network", "bridge", "name", "mac", "forward")


def make_parser() -> ArgumentParser:
    parser = look.make_parser("tapster explain", DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "--user",
        metavar="NAME",
        help="whose request it would be: a name or a number; only root may ask about "
        "others (default: yours)",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--network", metavar="NAME", help="the network; without it the default one"
    )
    where.add_argument("--bridge", metavar="NAME", help="a Linux bridge instead")
    parser.add_argument(
        "--name",
        metavar="NAME",
        help="the guest's; without it the next that the broker would give",
    )
    parser.add_argument(
        "--mac", metavar="MAC", help="the guest's; without it any that it may have"
    )
    parser.add_argument(
        "--forward",
        metavar="PORT",
        help="ask about a port of this host that is to lead to the guest: tcp/N or "
        "udp/N",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="an object, all its words, and how many NICs are `left`",
    )
    look.add_rootless(parser)
    return parser


def parse(arguments: Sequence[str]) -> Namespace:
    """:raises UsageError: a port is not written as one, or can't be forwarded."""
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
    """Lines of safe text: the verdict, what it is about, each rule, what is odd."""
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
    """`allowed` or `denied`, and why, without saying either twice."""
    word = "allowed" if told["allowed"] else "denied"
    reason = visible(told["reason"])
    return reason if reason.startswith(f"{word} ") else f"{word}: {reason}"


def request(asked: dict[str, str | None]) -> str:
    """What the question is about, in words."""
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
    """How many NICs the user has by the rule, and all users on the network."""
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
    """How many NICs the quotas leave; None: there is none, or none is told."""
    pairs = (
        (told["max_nics"], told["nics"]),
        (told["network_max_nics"], told["network_nics"]),
    )
    return min(
        (max(limit - (used or 0), 0) for limit, used in pairs if limit is not None),
        default=None,
    )


def is_withheld(told: dict[str, Any]) -> bool:
    """Whether the broker says no and keeps why to itself: to all but root."""
    silent = told["rule"] is None and not told["steps"]
    return not told["allowed"] and silent and os.geteuid() != 0


def whom_to_ask(
    told: dict[str, Any], asked: dict[str, str | None], rootless: bool
) -> str:
    """A hint, with the very command that tells an administrator why."""
    if client.get_info(rootless=rootless).get("tier") == "rootless":
        return "it is your own broker; tapsterd(8) says where its rules are"
    from shlex import quote

    words = ["sudo"]
    chosen = os.environ.get("TAPSTER_SOCKET")
    if chosen:  # which sudo does not pass on
        words += ["env", f"TAPSTER_SOCKET={chosen}"]
    words += ["tapster", "explain", "--user", told["user"]]
    for key, value in asked.items():
        if value is not None:
            dash = value.startswith("-")  # as a Linux bridge's name may
            words += [f"--{key}={value}"] if dash else [f"--{key}", value]
    command = " ".join(map(quote, words))
    return f"an administrator is told why by:\n  {visible(command)}"
