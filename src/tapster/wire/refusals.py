# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a caller is answered where the broker says no, and when.

Errors of `tapster.errors` that callers are meant to see become replies here.
A refusal has its time: how long the broker looked for something would tell
whether it exists.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from asyncvarlink import TypedVarlinkErrorReply

from .. import errors
from .errors import ERRORS, BrokerFailure

# A refusal is answered this long after the request came, however it was found.
REFUSAL_SECONDS = 0.05
_REFUSALS = (errors.NotAuthorized, errors.NoSuchNic, errors.NoSuchForward)
_BY_NAME = {error.__name__: error for error in ERRORS}

P = ParamSpec("P")
R = TypeVar("R")


class Clock(Protocol):
    """Who can wait for a moment exactly."""

    async def until(self, moment: float) -> None: ...


class HasService(Protocol):
    """An interface whose service has a clock."""

    @property
    def service(self) -> Clock: ...


S = TypeVar("S", bound=HasService)


def to_wire(error: errors.RequestError) -> TypedVarlinkErrorReply:
    """The reply for an error that the caller is meant to see."""
    kind = _BY_NAME.get(type(error).__name__, BrokerFailure)
    return kind(message=error.message, hint=error.hint)


@contextmanager
def errors_to_wire() -> Iterator[None]:
    """Raise the reply for an error at once: for methods that refuse nothing."""
    try:
        yield
    except errors.RequestError as err:
        raise to_wire(err) from err


def refused_in_time(
    method: Callable[Concatenate[S, P], Awaitable[R]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """Have a method of the interface answer errors; a refusal at its time.

    The annotations of the method stay readable for `varlinkmethod`, which this
    stands below.
    """

    @wraps(method)
    async def answering(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        arrived = asyncio.get_running_loop().time()
        try:
            return await method(self, *args, **kwargs)
        except errors.RequestError as err:
            if isinstance(err, _REFUSALS):
                await wait_for_refusal(self.service, arrived)
            raise to_wire(err) from err

    return answering


async def wait_for_refusal(clock: Clock, arrived: float) -> None:
    """Wait until a refusal is due.

    :param clock: what waits.
    :param arrived: when the request came, in seconds of the event loop's time.
    """
    moment = arrived + REFUSAL_SECONDS
    if moment > asyncio.get_running_loop().time():
        await clock.until(moment)
