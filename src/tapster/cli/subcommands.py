# SPDX-License-Identifier: LGPL-2.1-or-later
"""Commands that are families, such as `tapster network ls`.

As in `cli.main`, the name of a command comes first, and what is behind it is that
command's own: only its parser is made.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable, Mapping, Sequence


def add_commands(parser: ArgumentParser, summaries: Mapping[str, str]) -> None:
    """Have a parser's help list commands, and its errors know them."""
    commands = parser.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", required=True
    )
    for name, summary in summaries.items():
        commands.add_parser(name, help=summary, add_help=False)


def parse(
    make_parser: Callable[[], ArgumentParser],
    makers: Mapping[str, Callable[[], ArgumentParser]],
    arguments: Sequence[str],
) -> Namespace:
    """The options of a command of the family, and `command`, which of them it is.

    :param make_parser: the family's own parser; it answers where none is named.
    :param makers: the parsers of its commands.
    """
    make_command_parser = makers.get(arguments[0]) if arguments else None
    if make_command_parser is None:
        parser = make_parser()
        parser.parse_args(arguments)
        parser.error("the command comes first")
    options = make_command_parser().parse_args(arguments[1:])
    options.command = arguments[0]
    return options
