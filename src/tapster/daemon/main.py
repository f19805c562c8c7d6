# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command `tapsterd`.

What each step needs is imported only when its turn has come: the spawner is started
before most of the broker's code is loaded, and the supervisor of a rootless broker
never loads it.
"""

from __future__ import annotations

import sys

from ..errors import TapsterError
from .audit import log
from .process import startup
from .process.options import parse


def _prepare(verbose: bool) -> None:
    log.set_up(verbose)
    startup.sanitize()


def main(argv: list[str] | None = None) -> int:
    """Run tapsterd.

    :param argv: the words of the command line; None: this process's own.
    :returns: the exit status; an error is one line on stderr, and status 1.
    """
    startup.close_descriptors()
    try:
        options = parse(argv)
        _prepare(options.verbose)
        if options.rootless:
            from .rootless import supervise

            return supervise(options)
        from .process import sandbox, spawner_process

        sandbox.restrict_children()
        spawner = spawner_process.start(options.runtime, options.config)
        try:
            from .serve import run

            return run(options, spawner, None)
        finally:
            spawner.close()
    except TapsterError as err:
        print(f"tapsterd: {err.oneline()}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
