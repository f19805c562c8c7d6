# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the commands share: their parsers, their common options, and polkit."""

from __future__ import annotations

import argparse
import os
import sys

from tapster.errors import ForwardRefused, NoSuchForward, NoSuchNic, NotAuthorized

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, TypeVar

    T = TypeVar("T")


class _Parser(argparse.ArgumentParser):
    """A parser that does not hide that the help could not be written.

    argparse passes over every error there since Python 3.12; a command whose reader
    has left ends as other programs do.
    """

    def print_help(self, file: Any = None) -> None:
        """Write the help.

        :param file: where; standard output if it is None.
        :raises OSError: it could not be written.
        """
        out = file or sys.stdout or sys.stderr
        if out is not None:
            out.write(self.format_help())


def make_parser(
    prog: str, description: str, examples: Sequence[str], usage: str | None = None
) -> argparse.ArgumentParser:
    """A parser for one command. Options can't be abbreviated, as scripts would.

    :param prog: the command, such as "tapster ls".
    :param description: what --help says about it.
    :param examples: complete command lines; a test parses each of them.
    :param usage: the usage line; argparse writes one if None.
    """
    return _Parser(
        prog=prog,
        usage=usage,
        description=description,
        epilog="\n  ".join(["examples:", *examples]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_rootless(parser: argparse.ArgumentParser) -> None:
    """Add --rootless, which every command has."""
    parser.add_argument(
        "--rootless",
        action="store_true",
        help="use your own broker, even if the system has one",
    )


def add_json(
    parser: argparse.ArgumentParser, text: str = "print a list of objects, all fields"
) -> None:
    """Add --json, which a command has whose output programs read.

    :param text: what --help says about it.
    """
    parser.add_argument("--json", action="store_true", help=text)


def add_no_ask(parser: argparse.ArgumentParser) -> None:
    """Add --no-ask, for a command that polkit may ask a password for."""
    parser.add_argument(
        "--no-ask",
        action="store_true",
        help="never ask for a password; without this option polkit may, if a rule "
        "wants it and stdin is a terminal",
    )


def ask(options: argparse.Namespace, call: Callable[[bool], T]) -> T:
    """Call; if that is refused and a person is at the terminal, let polkit ask.

    :param options: of the command line, with `no_ask`.
    :param call: is given whether polkit may ask a person.
    :raises TapsterError: what the call raises.
    """
    try:
        return call(False)
    except (NotAuthorized, NoSuchNic, NoSuchForward, ForwardRefused):
        if options.no_ask or not os.isatty(0):
            raise
    from tapster.cli.agent import ask_again

    return ask_again(lambda: call(True))
