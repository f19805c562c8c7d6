# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command `tapster`: it runs a subcommand, and prints an error, once.

`tapster run` has 60 ms until it executes the VMM. A library for commands, such as
Typer, takes longer to import. So this uses argparse, imports only the subcommand
that was given, and imports rich only to draw a table.
"""

from __future__ import annotations

import os
import sys

from tapster.errors import TapsterError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser

COMMANDS = {
    "run": "start a virtual machine with its NICs on your network",
    "ls": "list your NICs",
    "detach": "disconnect a NIC",
    "network": "show the networks that you may use",
    "forward": "forward a host port to a guest",
    "explain": "say what is allowed, and which rule decides",
    "policy": "check the configuration before the broker reads it",
    "events": "print what happens to your NICs, as it happens",
    "doctor": "find out what is wrong with the networks of this host",
}
EXAMPLES = (
    "tapster run -- qemu-system-x86_64 -m 2G disk.qcow2",
    "tapster ls",
    "tapster doctor",
    "tapster run --help",
)


def make_parser() -> ArgumentParser:
    """The parser for a command line that does not start with a subcommand."""
    from tapster.cli import common, subcommands
    from tapster.version import __version__

    parser = common.make_parser(
        "tapster",
        "Networks for your virtual machines, without privileges or configuration.",
        EXAMPLES,
    )
    parser.add_argument("--version", action="version", version=f"tapster {__version__}")
    subcommands.add_commands(parser, COMMANDS)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run a subcommand.

    :param argv: the words after the program's name; those of the process if None.
    :returns: the exit status: 1 for an error, 2 for a wrong command line; as in a
        shell, 126 for a VMM that cannot be executed and 127 for one not found.
    """
    # A stream that was closed before the start is None, which argparse can't write to.
    for name in "stdout", "stderr":
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - until the end
    try:
        status = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return status
    except TapsterError as error:
        _say(error.oneline())
        return 2 if isinstance(error, UsageError) else getattr(error, "status", 1)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _forget_stdout()
        return 141  # what a shell reports for a program that SIGPIPE ended
    except OSError as error:
        _say(": ".join(str(s) for s in (error.filename, error.strerror) if s))
        _forget_stdout()
        return 1


def _run(argv: list[str]) -> int:
    try:
        match argv[:1]:
            case ["run"]:
                from tapster.cli import run

                return run.main(argv[1:])
            case ["ls"]:
                from tapster.cli import ls

                return ls.main(argv[1:])
            case ["detach"]:
                from tapster.cli import detach

                return detach.main(argv[1:])
            case ["network"]:
                from tapster.cli import network

                return network.main(argv[1:])
            case ["forward"]:
                from tapster.cli import forward

                return forward.main(argv[1:])
            case ["explain"]:
                from tapster.cli import explain

                return explain.main(argv[1:])
            case ["policy"]:
                from tapster.cli import policy

                return policy.main(argv[1:])
            case ["events"]:
                from tapster.cli import events

                return events.main(argv[1:])
            case ["doctor"]:
                from tapster.cli import doctor

                return doctor.main(argv[1:])
        parser = make_parser()
        parser.parse_args(argv)
        parser.error("the command comes first")
    except SystemExit as end:  # raised by argparse, which has printed why
        return end.code if isinstance(end.code, int) else 0


def _say(line: str) -> None:
    from tapster.cli.text import note

    try:
        note(line)
    except OSError:
        pass  # stderr is closed or full; the exit status alone tells of the error


def _forget_stdout() -> None:
    """Let the flush at exit succeed, although stdout could not be written."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


if __name__ == "__main__":
    sys.exit(main())
