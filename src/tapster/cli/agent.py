# SPDX-License-Identifier: LGPL-2.1-or-later
"""A person whom polkit may ask: on a desktop its agent does, on a terminal ours.

Nobody is asked before the broker has said no without it: most requests need no
person, and a refusal is the only sign that one may help. On a terminal without
a session, as over ssh, polkit knows nobody to ask: pkttyagent(1) is started for
that moment, as systemd's tools do.
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
_PATIENCE = 5.0  # seconds for it to register; then it is as if there were none


def ask_again(call: Callable[[], T]) -> T:
    """Call for a second time, now with a person who may be asked.

    :raises TapsterError: as the call.
    """
    with _agent():
        return call()


@contextlib.contextmanager
def _agent() -> Iterator[None]:
    """An agent on this terminal, where the session has none of its own."""
    ours, theirs = os.pipe()
    try:
        command = [_AGENT, "--fallback", "--notify-fd", str(theirs)]
        command += ["--process", f"{os.getpid()},{_started()}"]
        agent = subprocess.Popen(command, pass_fds=[theirs], stderr=subprocess.DEVNULL)
    except (OSError, ValueError):  # there is none, or no /proc
        agent = None
    finally:
        os.close(theirs)
    try:
        if agent is not None:
            select.select([ours], [], [], _PATIENCE)  # it closes its end
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
