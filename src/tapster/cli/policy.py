# SPDX-License-Identifier: LGPL-2.1-or-later
"""tapster policy: whether a configuration is one that the broker takes.

No broker is asked: an administrator checks a file before there is one that goes by
it. This is the one command that has the broker's own reader do its work; for that,
the client side knows the policy here, and nowhere else.
"""

from __future__ import annotations

import functools
import grp
import json
import os
import pwd
import re
import sys

from tapster.cli import arguments as look
from tapster.cli import subcommands
from tapster.cli.text import visible
from tapster.policy.config.load import DEFAULT_DIRECTORY
from tapster.policy.config.values import NSS, Names
from tapster.policy.lint.check import Report, check_directory, check_files
from tapster.policy.lint.values import Host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable, Sequence

    from tapster.policy.lint.findings import Finding

DESCRIPTION = "Look at who may have what, as the configuration has it."
SUMMARIES = {"check": "find what is wrong with the configuration"}
CHECK = f"""\
Find what the broker would refuse in its configuration, and what may not be meant
as it is written. Nothing is changed, and no broker is asked.

Without FILE, {DEFAULT_DIRECTORY}/tapster.toml and conf.d are checked; with FILE,
these alone, in that order, as if they were all there is. The exit status is 1 if
there is an error."""
CHECK_EXAMPLES = (
    "tapster policy check",
    "tapster policy check --strict draft.toml",
    "tapster policy check --json --config /srv/tapster",
)


def make_parser() -> ArgumentParser:
    parser = look.make_parser("tapster policy", DESCRIPTION, CHECK_EXAMPLES)
    subcommands.add_commands(parser, SUMMARIES)
    return parser


def make_check_parser() -> ArgumentParser:
    parser = look.make_parser("tapster policy check", CHECK, CHECK_EXAMPLES)
    parser.add_argument(
        "--config",
        metavar="DIR",
        help=f"where the configuration is, as of tapsterd; {DEFAULT_DIRECTORY}",
    )
    parser.add_argument(
        "--strict", action="store_true", help="the exit status is 1 for warnings, too"
    )
    parser.add_argument(
        "--json", action="store_true", help="a list of objects, all their words"
    )
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help="a draft; - is the standard input"
    )
    return parser


def parse(arguments: Sequence[str]) -> Namespace:
    options = subcommands.parse(make_parser, {"check": make_check_parser}, arguments)
    if options.files and options.config is not None:
        make_check_parser().error("either --config or files")
    if options.files.count("-") > 1:
        make_check_parser().error("the standard input is only one file")
    return options


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    if options.files:
        report = check_files(options.files, host(), lambda: sys.stdin.buffer.read())
    else:
        report = check_directory(options.config or DEFAULT_DIRECTORY, host())
    if options.json:
        print(json.dumps([words(finding) for finding in report.findings], indent=2))
    elif report.findings:
        print("\n".join(describe(finding) for finding in report.findings))
    else:
        print(f"{summary(report)}: nothing to report")
    bad = {"error", "warning"} if options.strict else {"error"}
    return 1 if any(finding.severity in bad for finding in report.findings) else 0


def words(finding: Finding) -> dict[str, object]:
    """A finding as programs read it."""
    return {
        **finding._asdict(),
        "severity": str(finding.severity),
        "related": list(finding.related),
    }


def describe(finding: Finding) -> str:
    """A line as compilers write it, and an indented one with the hint."""
    text = f"{finding.severity}: {finding.message} [{finding.code}]"
    if finding.location:
        text = f"{finding.location}: {text}"
    lines = [visible(text)]
    if finding.hint:
        lines.append(f"  {visible(finding.hint)}")
    return "\n".join(lines)


def summary(report: Report) -> str:
    return f"{count(report.rules, 'rule')}, {count(report.networks, 'network')}"


def count(number: int | None, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


# --- this host


def host() -> Host:
    """What it knows. A directory may be slow, so no name is looked up twice."""
    return Host(
        Names(once(NSS.uid), once(NSS.gid)),
        has_user,
        has_group,
        has_members,
        is_bridge,
    )


def once(resolve: Callable[[str], int]) -> Callable[[str], int]:
    """The same, with its answers remembered, KeyError too."""

    @functools.cache
    def found(name: str) -> int | None:
        try:
            return resolve(name)
        except (KeyError, ValueError):
            return None

    def answer(name: str) -> int:
        number = found(name)
        if number is None:
            raise KeyError(name)
        return number

    return answer


def has_user(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def has_group(gid: int) -> bool:
    try:
        grp.getgrgid(gid)
    except KeyError:
        return False
    return True


def has_members(gid: int) -> bool | None:
    """Whether anybody is in a group; None if that cannot be told.

    A directory service may have members that it does not list: LDAP often keeps
    its users from being enumerated.
    """
    try:
        if grp.getgrgid(gid).gr_mem or gid in primary_groups():
            return True
    except KeyError:
        return None
    return False if is_enumerable() else None


@functools.cache
def primary_groups() -> frozenset[int]:
    if not is_enumerable():
        return frozenset()
    return frozenset(user.pw_gid for user in pwd.getpwall())


@functools.cache
def is_enumerable() -> bool:
    """Whether all users and groups are known to those who ask for all of them."""
    try:
        with open("/etc/nsswitch.conf", encoding="utf-8", errors="replace") as file:
            return lists_all(file.read())
    except FileNotFoundError:
        return True  # files alone
    except OSError:
        return False


def lists_all(nsswitch: str) -> bool:
    """Whether users and groups come from where they can be listed."""
    for line in nsswitch.splitlines():
        database, colon, services = line.partition("#")[0].partition(":")
        if colon and database.strip() in ("passwd", "group", "initgroups"):
            names = re.sub(r"\[.*?\]", " ", services).split()
            if not {"files", "systemd"}.issuperset(names):
                return False
    return True


def is_bridge(name: str) -> bool | None:
    """Whether an interface is a Linux bridge; None if there is none of that name."""
    if "/" in name or "\0" in name or name in ("", ".", ".."):
        return None
    device = f"/sys/class/net/{name}"
    if not os.path.exists(device):
        return None
    return os.path.isdir(f"{device}/bridge")
