# SPDX-License-Identifier: LGPL-2.1-or-later
"""The daemon's command line."""

from __future__ import annotations

import argparse
import os
from typing import NamedTuple

from ...paths import SOCKET_NAME, SYSTEM_DIRECTORY, runtime_directory
from ...policy.config.load import DEFAULT_DIRECTORY
from ...version import __version__

STATE = "/var/lib/tapster"
# The exit status for an error that nobody foresaw (EX_SOFTWARE): whoever started the
# broker, a service manager or the supervisor, is to start it again.
BROKEN = 70

_EPILOG = """\
examples:
  tapsterd                        serve /run/tapster/io.tapster.Broker
  tapsterd --socket /tmp/t/sock --runtime-dir /tmp/t --state-dir /tmp/t/state
  tapsterd --rootless             the calling user's own broker; 'tapster run'
                                  starts it by itself

tapsterd acts in the network namespace that it is started in. It logs to stderr,
reports READY=1 by sd_notify(3), and takes a socket by socket activation.
"""


class Options(NamedTuple):
    """What the command line says, with defaults filled in. Paths are absolute."""

    socket: str
    config: str  # a directory, as are the next two
    runtime: str
    state: str
    rootless: bool
    verbose: bool


def parse(argv: list[str] | None = None) -> Options:
    """Read the command line. If it is wrong, this ends the process with status 2.

    :param argv: its words; None: this process's own.
    """
    parser = argparse.ArgumentParser(
        prog="tapsterd",
        description="Gives users' virtual machines taps on real bridges.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--socket", metavar="PATH", help="where to listen")
    parser.add_argument(
        "--config",
        metavar="DIR",
        help=f"default: {DEFAULT_DIRECTORY}; rootless, ~/.config/tapster if it exists",
    )
    parser.add_argument(
        "--runtime-dir", metavar="DIR", help=f"default: {SYSTEM_DIRECTORY}"
    )
    parser.add_argument(
        "--state-dir",
        metavar="DIR",
        help=f"default: {STATE}; rootless, ~/.local/state/tapster",
    )
    parser.add_argument(
        "--rootless",
        action="store_true",
        help="serve only the calling user, in namespaces of its own",
    )
    parser.add_argument("--verbose", action="store_true", help="log details")
    parser.add_argument(
        "--version", action="version", version=f"tapsterd {__version__}"
    )
    args = parser.parse_args(argv)
    runtime, state, config = SYSTEM_DIRECTORY, STATE, DEFAULT_DIRECTORY
    if args.rootless:
        runtime = args.runtime_dir or os.path.join(runtime_directory(), "tapster")
        state = _user_directory("XDG_STATE_HOME", ".local/state") or f"{runtime}/state"
        own = _user_directory("XDG_CONFIG_HOME", ".config")
        if own is not None and os.path.isdir(own):
            config = own
    runtime = args.runtime_dir or runtime
    return Options(
        os.path.abspath(args.socket or os.path.join(runtime, SOCKET_NAME)),
        os.path.abspath(args.config or config),
        os.path.abspath(runtime),
        os.path.abspath(args.state_dir or state),
        args.rootless,
        args.verbose,
    )


def _user_directory(variable: str, below_home: str) -> str | None:
    """Our directory for one kind of a user's files (XDG base directory specification).

    :param variable: that names the directory of all programs.
    :param below_home: where that directory is by default.
    :returns: None if the user has no home directory.
    """
    base = os.environ.get(variable, "")
    if not base.startswith("/"):
        base = os.path.join(os.path.expanduser("~"), below_home)
    return os.path.join(base, "tapster") if base.startswith("/") else None
