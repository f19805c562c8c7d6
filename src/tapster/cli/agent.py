# SPDX-License-Identifier: LGPL-2.1-or-later
"""Let polkit ask the person at this terminal.

A request is first made without asking: most need nobody, and only a refusal shows
that a password may help. A desktop session has an agent that polkit asks through. A
terminal without a session, as over ssh, has none: pkttyagent(1) is run there during
the second request, as systemd's tools do.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    T = TypeVar("T")

_AGENT = "pkttyagent"
_PATIENCE = 5.0  # seconds for the agent to register; after that we call without it


def ask_again(call: Callable[[], T]) -> T:
    """Make a request again, while an agent can ask the person at this terminal.

    :raises TapsterError: what the call raises.
    """
    with _agent():
        return call()


@contextlib.contextmanager
def _agent() -> Iterator[None]:
    """Run an agent on this terminal, if the session has none of its own."""
    ours, theirs = os.pipe()
    try:
        command = [_AGENT, "--fallback", "--notify-fd", str(theirs)]
        command += ["--process", f"{os.getpid()},{_started()}"]
        agent = subprocess.Popen(command, pass_fds=[theirs], stderr=subprocess.DEVNULL)
    except (OSError, ValueError):  # no pkttyagent, or no /proc
        agent = None
    finally:
        os.close(theirs)
    try:
        if agent is not None:
            select.select([ours], [], [], _PATIENCE)  # the agent closes its end
        yield
    finally:
        os.close(ours)
        if agent is not None:
            agent.terminate()
            agent.wait()


def _started() -> int:
    """When this process started, in clock ticks since boot: proc_pid_stat(5)."""
    with open("/proc/self/stat", "rb") as file:
        return int(file.read().rpartition(b") ")[2].split()[19])
