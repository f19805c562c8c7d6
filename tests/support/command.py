# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster` as a shell starts it, in a world with one broker or none."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# The system's broker, if this machine has one, is no part of a test.
COMMAND = [
    sys.executable,
    "-c",
    """if True:
        import sys
        from tapster import paths
        paths.SYSTEM_SOCKET = "/nowhere"
        from tapster.cli.main import main
        sys.exit(main())
    """,
]


def world(broker: str | None, **more: str) -> dict[str, str]:
    """The environment, with this broker's socket and no other."""
    known = {k: v for k, v in os.environ.items() if not k.startswith("TAPSTER_")}
    return {**known, **({"TAPSTER_SOCKET": broker} if broker else {}), **more}


def tapster(
    *arguments: str | bytes, broker: str | None, env: dict[str, str] | None = None,
    **how: Any,
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """Run it to its end; it reads nothing."""
    return subprocess.run(
        [*COMMAND, *arguments],
        env=world(broker, **(env or {})),
        **{
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            "timeout": 60,
            **how,
        },
    )


@contextmanager
def terminal() -> Iterator[int]:
    """A terminal that nobody types at, as a descriptor to be a program's stdin."""
    ours, theirs = pty.openpty()
    try:
        yield theirs
    finally:
        os.close(ours)
        os.close(theirs)
