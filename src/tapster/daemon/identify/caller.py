# SPDX-License-Identifier: LGPL-2.1-or-later
"""The connection of the client whose call is being served.

A call is given its `Peer`, which says who the client was when it connected. Polkit
needs more: it may take minutes, and has to be asked about the very process that is
connected, and only as long as that process is. For that the connection is needed.
The server puts it into a context variable for each call, which costs a call that
asks nobody next to nothing.
"""

from __future__ import annotations

import asyncio
import weakref
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, Protocol

from ...model import Peer


class Caller(Protocol):
    """What a connection knows of the client."""

    peer: Peer
    accepted: float  # when it was accepted, in seconds since boot (CLOCK_BOOTTIME)

    def pidfd(self) -> int:
        """A pidfd of the client's process, as `peer.pidfd` gives it."""

    def until_gone(self, future: asyncio.Future[Any]) -> AbstractContextManager[None]:
        """Cancel `future` if the client goes before the block ends.

        A call is cancelled in no other place because its client has gone: between a
        decision and its publishing nothing may be left half done.

        :raises OSError: no descriptor is left to watch the client with.
        """


# A weak reference: contexts are copied into timers and tasks that outlive a call.
CALLER: ContextVar[weakref.ref[Caller] | None] = ContextVar("caller", default=None)


def of_this_call() -> Caller | None:
    """The connection whose call this is; None outside of any call."""
    reference = CALLER.get()
    return reference() if reference is not None else None
