# SPDX-License-Identifier: LGPL-2.1-or-later
"""One request of a caller, as the audit record tells of it."""

from __future__ import annotations

import time

from ...model import Peer
from ..identify import caller


class RequestContext:
    """Who asks for what, and since when.

    Whoever serves the request sets what it turned out to be about, in the caller's
    words, and the rule that decided. One is made for each request before its
    answer: what is not known yet is an attribute of the class, which costs nothing.
    """

    rule: str | None = None
    network: str | None = None
    bridge: str | None = None
    name: str | None = None
    ifname: str | None = None
    mac: str | None = None
    port: str | None = None
    guest_port: int | None = None

    def __init__(self, peer: Peer, verb: str) -> None:
        """
        :param peer: the caller.
        :param verb: what it asks for: "attach", "detach", "reload" and so on.
        """
        self.peer = peer
        self.verb = verb
        # CLOCK_BOOTTIME: the kernel notes the start of processes by it.
        self.arrived = time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def duration(self) -> int:
        """Microseconds since its arrival."""
        return (time.clock_gettime_ns(time.CLOCK_BOOTTIME) - self.arrived) // 1000

    def connected_by(self) -> int:
        """The latest time at which the caller's process can have started, in
        nanoseconds of CLOCK_BOOTTIME: its connection's, where that is known, as the
        socket may be in another process's hands by the time of the request."""
        connection = caller.of_this_call()
        if connection is None or connection.peer != self.peer:
            return self.arrived
        return min(self.arrived, int(connection.accepted * 1e9))
