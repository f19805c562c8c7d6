# SPDX-License-Identifier: LGPL-2.1-or-later
"""tapster doctor: what is wrong with the host's networks, and what to do.

The broker knows what its networks need of the host, and looks for it. If no broker
answers, that is the finding.
"""

from __future__ import annotations

import json
import os
import time

from tapster import paths
from tapster.cli import common
from tapster.cli.text import visible
from tapster.client import manage
from tapster.client.attach import NotRunning
from tapster.client.connection import open_socket
from tapster.errors import BrokerUnavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Sequence
    from typing import Any

DESCRIPTION = """\
Look for anything that keeps the broker's networks on this host from working, or
will.

Prints what was found, the most severe first, each with what to do about it.
The exit status is 1 if an error was found, or if no broker answers."""
EXAMPLES = ("tapster doctor", "tapster doctor --json", "tapster doctor --rootless")
SEVERITIES = ("error", "warning", "info")
START_OWN = "`tapster run` starts your own"
START = f"{START_OWN}; for all users of this host, root starts `tapsterd`"


def make_parser() -> ArgumentParser:
    parser = common.make_parser("tapster doctor", DESCRIPTION, EXAMPLES)
    common.add_json(parser)
    common.add_rootless(parser)
    return parser


def parse(arguments: Sequence[str]) -> Namespace:
    return make_parser().parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """:raises TapsterError: a broker runs, and says no, or makes no sense."""
    options = parse(arguments)
    try:
        findings = manage.diagnose(rootless=options.rootless)
    except BrokerUnavailable as error:
        findings = [no_broker(error, options.rootless)]
    findings.sort(key=urgency)
    if options.json:
        print(json.dumps(findings, indent=2))
    elif findings:
        print("\n".join(describe(finding) for finding in findings))
    else:
        print("nothing to report")
    return 1 if any(finding["severity"] == "error" for finding in findings) else 0


def urgency(finding: dict[str, Any]) -> int:
    """The place of a finding in the list; an unknown severity comes last."""
    severity = finding["severity"]
    return SEVERITIES.index(severity) if severity in SEVERITIES else len(SEVERITIES)


def describe(finding: dict[str, Any]) -> str:
    """A line that says what was found, then the lines of the remedy, indented."""
    message, code = visible(finding["message"]), visible(finding["code"])
    lines = [f"{visible(finding['severity'])}: {message} [{code}]"]
    lines += [f"  {visible(line)}" for line in (finding["remedy"] or "").splitlines()]
    return "\n".join(lines)


def no_broker(error: BrokerUnavailable, rootless: bool) -> dict[str, Any]:
    """The finding that no broker answers: where one was looked for, and what failed."""
    message, remedy = error.message, error.hint
    chosen = os.environ.get("TAPSTER_SOCKET")
    if chosen and remedy:  # without a hint, a broker was there and failed
        remedy = f"unset TAPSTER_SOCKET, or start one: tapsterd --socket {chosen}"
    elif isinstance(error, NotRunning):
        places = [] if rootless else [paths.SYSTEM_SOCKET]
        places.append(os.path.join(paths.runtime_directory(), "tapster"))
        places[-1] = os.path.join(places[-1], paths.SOCKET_NAME)
        message += ": " + ", ".join(f"not at {at} ({silence(at)})" for at in places)
        remedy = START_OWN if rootless else START
    return {
        "code": "no-broker",
        "severity": "error",
        "message": message,
        "remedy": remedy,
    }


def silence(path: str) -> str:
    """Why no broker answers at a socket."""
    try:
        open_socket(path, time.monotonic() + 1).close()
    except OSError as error:
        return error.strerror or str(error)
    except BrokerUnavailable as error:
        return error.message
    return "it answers now"
