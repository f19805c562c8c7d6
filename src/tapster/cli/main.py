# SPDX-License-Identifier: LGPL-2.1-or-later
"""tapster: the command. It finds the command, and prints what went wrong, once.

`tapster run` has 60 ms before the VMM is executed. A CLI library such as Typer
would take more than that for its own imports, so this is argparse, each command
is imported only when it is the one, and rich only where a table is drawn.
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
    "detach": "take a NIC away from its guest",
    "network": "show the networks that you may use",
    "forward": "have ports of this host lead to your guests",
    "explain": "tell what is allowed, and which rule says so",
    "policy": "check the configuration before the broker reads it",
    "events": "follow what happens to your NICs",
    "doctor": "find out what is wrong with the networks of this host",
}
EXAMPLES = (
    "tapster run -- qemu-system-x86_64 -m 2G disk.qcow2",
    "tapster ls",
    "tapster doctor",
    "tapster run --help",
)


def make_parser() -> ArgumentParser:
    """What is before the command: it is never asked where there is a command."""
    from tapster.cli import arguments, subcommands
    from tapster.version import __version__

    parser = arguments.make_parser(
        "tapster",
        "Networks for your virtual machines, without privileges or configuration.",
        EXAMPLES,
    )
    parser.add_argument("--version", action="version", version=f"tapster {__version__}")
    subcommands.add_commands(parser, COMMANDS)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    :param argv: without the program's name; that of the process if None.
    :returns: the exit status: 1 for an error, 2 for a wrong command line, 126 and
        127 for a VMM that cannot be executed, as of a shell.
    """
    # Python has None for a stream that was closed before; argparse has not.
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
        return 141  # what a shell reports of a program that SIGPIPE ended
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
    except SystemExit as end:  # argparse's, which has said why
        return end.code if isinstance(end.code, int) else 0


def _say(line: str) -> None:
    from tapster.cli.text import note

    try:
        note(line)
    except OSError:
        pass  # stderr is closed or full; the exit status has to do


def _forget_stdout() -> None:
    """Have the interpreter's last flush of what could not be written succeed."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


if __name__ == "__main__":
    sys.exit(main())
