# SPDX-License-Identifier: LGPL-2.1-or-later
"""tapsterd: the command."""

from __future__ import annotations

import os
import sys

from ..errors import TapsterError
from . import log
from .options import parse


def _prepare(verbose: bool) -> None:
    log.set_up(verbose)
    # Files for dnsmasq are for its group to read (networks/dnsmasq.py).
    os.umask(0o027)


def main(argv: list[str] | None = None) -> int:
    """The command. Its errors are one line on stderr, and status 1."""
    try:
        options = parse(argv)
        _prepare(options.verbose)
        if options.rootless:
            from .rootless import supervise

            return supervise(options)
        from .programs import Programs

        programs = Programs.start(options.runtime, options.config)
        try:
            from .serve import run

            return run(options, programs, None)
        finally:
            programs.close()
    except TapsterError as err:
        print(f"tapsterd: {err.oneline()}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
