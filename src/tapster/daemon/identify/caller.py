# SPDX-License-Identifier: LGPL-2.1-or-later
"""The client that a call is made by, for what needs more of it than who it is.

A call knows its peer, which is facts. Whoever is asked about that peer, and may
take minutes to answer, is to be asked about the very process that is connected,
and only for as long as it is. Both need the connection. It is found here, by
the context that the call runs in: an attach that asks nobody does no more for
it than to set a variable.
"""

from __future__ import annotations

import asyncio
import weakref
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, Protocol

from ...model import Peer


class Caller(Protocol):
    """What a connection can say of its other end."""

    peer: Peer
    accepted: float  # when, in seconds since boot (CLOCK_BOOTTIME)

    def pidfd(self) -> int:
        """As `daemon.peer.pidfd`."""

    def until_gone(self, future: asyncio.Future[Any]) -> AbstractContextManager[None]:
        """Cancel `future` if the client goes before the block ends.

        Nothing else of a call is ever cancelled so: from a decision to its
        publishing there is no place to stop at.

        :raises OSError: it would not be noticed, for lack of descriptors.
        """


# Weak, as contexts are copied into timers and tasks that outlive a call.
CALLER: ContextVar[weakref.ref[Caller] | None] = ContextVar("caller", default=None)


def of_this_call() -> Caller | None:
    """The client whose call this is; None outside of any."""
    reference = CALLER.get()
    return reference() if reference is not None else None
