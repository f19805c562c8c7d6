# SPDX-License-Identifier: LGPL-2.1-or-later
"""tapster policy: whether a configuration is one that the broker takes.

No broker is asked: an administrator checks a file before a broker goes by it. This is
the one command that reads with the broker's own code, so it is the one module of the
client's side that imports `policy`.
"""

from __future__ import annotations

import json
import sys

from tapster.cli import common, subcommands
from tapster.cli.text import visible
from tapster.policy.config.load import DEFAULT_DIRECTORY
from tapster.policy.lint.check import Report, check_directory, check_files
from tapster.policy.lint.host import this_host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Sequence

    from tapster.policy.lint.findings import Finding

DESCRIPTION = "Check what the configuration says about who may have what."
SUMMARIES = {"check": "find what is wrong with the configuration"}
CHECK = f"""\
Find what the broker would refuse in its configuration, and what its author may not
have meant. Nothing is changed, and no broker is asked.

Without FILE, {DEFAULT_DIRECTORY}/tapster.toml and conf.d are checked. With FILE,
only these files are, in that order, as if they were the whole configuration. The
exit status is 1 if there is an error."""
CHECK_EXAMPLES = (
    "tapster policy check",
    "tapster policy check --strict draft.toml",
    "tapster policy check --json --config /srv/tapster",
)


def make_parser() -> ArgumentParser:
    parser = common.make_parser("tapster policy", DESCRIPTION, CHECK_EXAMPLES)
    subcommands.add_commands(parser, SUMMARIES)
    return parser


def make_check_parser() -> ArgumentParser:
    parser = common.make_parser("tapster policy check", CHECK, CHECK_EXAMPLES)
    parser.add_argument(
        "--config",
        metavar="DIR",
        help=f"the configuration's directory, as for tapsterd; {DEFAULT_DIRECTORY}",
    )
    parser.add_argument(
        "--strict", action="store_true", help="make the exit status 1 for warnings, too"
    )
    common.add_json(parser)
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
        report = check_files(
            options.files, this_host(), lambda: sys.stdin.buffer.read()
        )
    else:
        report = check_directory(options.config or DEFAULT_DIRECTORY, this_host())
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
