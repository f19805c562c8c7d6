# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs a call's method and sends what it returns.

asyncvarlink knows the interfaces: it finds the method, converts parameters and
results, and describes both to clients. All of it that is used here is public.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

from asyncvarlink import (
    AnnotatedResult,
    FileDescriptorArray,
    GenericVarlinkErrorReply,
    VarlinkErrorReply,
    VarlinkInterfaceRegistry,
    VarlinkMethodCall,
    VarlinkMethodReply,
    VarlinkMethodSignature,
)
from asyncvarlink.conversion import ConversionError, FileDescriptorVarlinkType
from asyncvarlink.serviceinterface import InvalidParameter
from asyncvarlink.types import JSONObject

from ...errors import BrokerFailure
from ...wire.refusals import to_wire

_log = logging.getLogger(__name__)

# Sends a reply and descriptors. Returns None if that is done, or what is done then.
Send = Callable[[JSONObject, list[int]], asyncio.Future[None] | None]


def begin(
    interfaces: VarlinkInterfaceRegistry, message: JSONObject, uid: int, send: Send
) -> asyncio.Future[None] | None:
    """Run a call, and send its reply or replies.

    :param interfaces: has the methods.
    :param message: the call.
    :param uid: the caller, for the log.
    :param send: sends a reply.
    :returns: None if the call is done; otherwise what is done when the call is, and
        fails only by being cancelled.
    """
    call = _Call(uid, send, is_oneway=bool(message.get("oneway", False)))
    try:
        return call.begin(interfaces, message)
    except Exception as err:  # noqa: BLE001 - fail() logs what nobody foresaw
        call.fail(err)
        return None


class _Call:
    """Where the replies to a call go."""

    __slots__ = ("_is_oneway", "_send", "_uid")

    def __init__(self, uid: int, send: Send, *, is_oneway: bool) -> None:
        self._uid = uid
        self._send = send
        self._is_oneway = is_oneway

    def begin(
        self, interfaces: VarlinkInterfaceRegistry, message: JSONObject
    ) -> asyncio.Future[None] | None:
        """
        :returns: as the function `begin`.
        :raises Exception: what is wrong with the call, or went wrong in it.
        """
        try:
            call = VarlinkMethodCall.fromjson(message)
        except (TypeError, ValueError):
            raise GenericVarlinkErrorReply(
                "invalid.asyncvarlink.ProtocolViolation"
            ) from None
        method, signature = interfaces.lookup_method(call)
        try:
            parameters = signature.parameter_type.fromjson(call.parameters)
        except ConversionError as err:
            name = str(err.location[0]) if err.location else "parameters"
            raise InvalidParameter(parameter=name) from err
        if signature.more:  # all methods with several replies are asynchronous
            return asyncio.ensure_future(self._stream(method(**parameters), signature))
        if signature.asynchronous:
            return asyncio.ensure_future(self._single(method(**parameters), signature))
        self._reply(signature, method(**parameters))
        return None

    async def _single(self, coroutine: Any, signature: VarlinkMethodSignature) -> None:
        try:
            self._reply(signature, await coroutine)
        except Exception as err:  # noqa: BLE001 - fail() logs what nobody foresaw
            self.fail(err)

    async def _stream(self, generator: Any, signature: VarlinkMethodSignature) -> None:
        try:
            async with aclosing(generator) as results:
                async for result in results:
                    sent = self._reply(signature, result)
                    if sent is not None:
                        await sent
        except Exception as err:  # noqa: BLE001 - fail() logs what nobody foresaw
            self.fail(err)

    def _reply(
        self, signature: VarlinkMethodSignature, result: AnnotatedResult
    ) -> asyncio.Future[None] | None:
        """Convert and send a result. Its descriptors are closed a turn of the event
        loop after it is sent; those of a oneway call at once."""
        with FileDescriptorArray.new_managed() as fds:
            parameters = signature.return_type.tojson(
                result.parameters, {FileDescriptorVarlinkType: fds}
            )
            if self._is_oneway:
                return None
            reply = VarlinkMethodReply(
                parameters, continues=result.continues, extensions=result.extensions
            )
            sent = self._send(reply.tojson(), [fd.fileno() for fd in fds])
            if fds:
                fds.reference_until_done(sent or _next_turn())
        return sent

    def fail(self, error: Exception) -> None:
        """Send an error. One that nobody foresaw is logged in full, and the caller
        is told nothing of it."""
        if not isinstance(error, VarlinkErrorReply):
            _log.error(
                "unexpected error in a call of uid %d", self._uid, exc_info=error
            )
            error = to_wire(
                BrokerFailure("internal error", "the broker's log has the reason")
            )
        if not self._is_oneway:
            self._send(error.tojson(), [])


def _next_turn() -> asyncio.Future[None]:
    """
    :returns: what is done in the next turn of the event loop. Whoever closes the
        last descriptor of a tap waits some 20 ms for the kernel. A caller that
        closes its own at once is usually first then, and one of our threads waits.
    """
    turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    turn.set_result(None)
    return turn
