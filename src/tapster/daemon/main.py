# SPDX-License-Identifier: LGPL-2.1-or-later
"""tapsterd: the command."""

from __future__ import annotations

import logging
import os
import sys

from ..errors import TapsterError
from .options import parse


def _prepare(verbose: bool) -> None:
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="tapsterd: %(levelname)s: %(message)s",
        stream=sys.stderr,
    )
    # Who logs a line is in the line; where in the source is not, so do not look.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
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
        from .serve import run

        return run(options, None)
    except TapsterError as err:
        print(f"tapsterd: {err.oneline()}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
