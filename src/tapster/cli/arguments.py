# SPDX-License-Identifier: LGPL-2.1-or-later
"""The look of every command's --help, and of its usage errors."""

from __future__ import annotations

import argparse
import os

from tapster.errors import ForwardRefused, NoSuchForward, NoSuchNic, NotAuthorized

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    T = TypeVar("T")


def make_parser(
    prog: str, description: str, examples: Sequence[str], usage: str | None = None
) -> argparse.ArgumentParser:
    """A parser whose options must be written out: scripts outlive abbreviations.

    :param examples: complete command lines; a test parses each of them.
    """
    return argparse.ArgumentParser(
        prog=prog,
        usage=usage,
        description=description,
        epilog="\n  ".join(["examples:", *examples]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_rootless(parser: argparse.ArgumentParser) -> None:
    """The option that means the same in every command."""
    parser.add_argument(
        "--rootless",
        action="store_true",
        help="use your own broker, even where the system has one",
    )


def add_no_ask(parser: argparse.ArgumentParser) -> None:
    """The option of the commands for which a person may be asked."""
    parser.add_argument(
        "--no-ask",
        action="store_true",
        help="polkit may ask for a password where a rule wants it, if stdin is a "
        "terminal; with this it never does",
    )


def ask(options: argparse.Namespace, call: Callable[[bool], T]) -> T:
    """Have a call answered, by a person too, if it is refused and there is one.

    :param call: takes whether polkit may ask somebody.
    :raises TapsterError: as the call.
    """
    try:
        return call(False)
    except (NotAuthorized, NoSuchNic, NoSuchForward, ForwardRefused):
        if options.no_ask or not os.isatty(0):
            raise
    from tapster.cli.agent import ask_again

    return ask_again(lambda: call(True))
