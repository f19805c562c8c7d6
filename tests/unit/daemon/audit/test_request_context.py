# SPDX-License-Identifier: LGPL-2.1-or-later
"""`audit.request_context`: by when the process of a request had started."""

from __future__ import annotations

import os
import subprocess
import time
import weakref
from typing import Any

from tapster.daemon.audit.request_context import RequestContext
from tapster.daemon.identify import caller
from tapster.daemon.identify.program import ProgramReader
from tapster.model import Peer


def test_a_process_that_started_after_the_connection_is_not_the_caller() -> None:
    """Its socket may be in other hands by the time of the request."""

    class Connection:
        """A real one's words."""

    accepted = time.clock_gettime(time.CLOCK_BOOTTIME)
    time.sleep(0.02)
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            who = Peer(os.getuid(), os.getgid(), frozenset(), child.pid)
            other = Peer(who.uid, who.gid, frozenset(), 1)
            for connected, known in ((who, False), (other, True)):
                connection: Any = Connection()
                connection.peer, connection.accepted = connected, accepted
                token = caller.CALLER.set(weakref.ref(connection))
                since = RequestContext(who, "attach").connected_by()
                caller.CALLER.reset(token)
                made = ProgramReader().read(who.pid, who.uid, since)
                assert (made.command is not None) is known
        finally:
            child.kill()
