# SPDX-License-Identifier: LGPL-2.1-or-later
"""tapsterd with its calls of the kernel noted: `traced_daemon.py LOG OPTIONS…`.

It serves as ever, and writes what it noted (see `edges`) to LOG when it ends.
"""

from __future__ import annotations

import json
import sys

from benchmarks.edges import Edges


def main() -> int:
    path, *options = sys.argv[1:]
    edges = Edges()
    overhead = edges.overhead()
    edges.install_daemon()
    from tapster.daemon.main import main as serve

    try:
        return serve(options)
    finally:
        edges.uninstall()
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"overhead": overhead, "edges": edges.log}, file)


if __name__ == "__main__":
    sys.exit(main())
