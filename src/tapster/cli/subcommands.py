# SPDX-License-Identifier: LGPL-2.1-or-later
"""Commands that have commands, such as `tapster network ls`.

The name of the inner command comes first, and the rest is for its parser alone: no
other parser is made, as in `cli.main`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable, Mapping, Sequence


def add_commands(parser: ArgumentParser, summaries: Mapping[str, str]) -> None:
    """List commands in the help of a parser, with a summary of each."""
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
    """The options of an inner command, and `command`, its name.

    :param make_parser: makes the outer parser, which answers --help and reports an
        unknown command.
    :param makers: make the parsers of the inner commands, by name.
    :param arguments: the words after the outer command.
    """
    make_command_parser = makers.get(arguments[0]) if arguments else None
    if make_command_parser is None:
        parser = make_parser()
        parser.parse_args(arguments)
        parser.error("the command comes first")
    options = make_command_parser().parse_args(arguments[1:])
    options.command = arguments[0]
    return options
