# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a caller is answered where the broker says no, and when."""

# No "from __future__ import annotations": asyncvarlink reads the annotations.

import asyncio

import pytest
from asyncvarlink import TypedVarlinkErrorReply, varlinkmethod, varlinksignature

from tapster import errors
from tapster.wire import errors as wire_errors
from tapster.wire.generate import request_errors
from tapster.wire.refusals import (
    REFUSAL_SECONDS,
    errors_to_wire,
    refused_in_time,
    to_wire,
)

IN_TIME = {errors.NotAuthorized, errors.NoSuchNic, errors.NoSuchForward}


class Clock:
    """Says what it was asked to wait for, and lets that be now."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    async def until(self, moment: float) -> None:
        self.moments.append(moment)


class Asked:
    """An interface of one method, which raises what it is told to."""

    def __init__(self, error: Exception | None) -> None:
        self.service = Clock()
        self.error = error

    @refused_in_time
    async def ask(self, *, word: str) -> list[str]:
        """Say it."""
        if self.error:
            raise self.error
        return [word]


@pytest.mark.parametrize("kind", request_errors())
@pytest.mark.parametrize("hint", [None, "try that"])
def test_reply_has_the_name_message_and_hint_of_the_error(
    kind: type[errors.RequestError], hint: str | None
) -> None:
    reply = to_wire(kind("no", hint))
    assert type(reply).__name__ == kind.__name__
    assert reply.name == f"{wire_errors.INTERFACE}.{kind.__name__}"
    assert reply.paramstojson() == {"message": "no", "hint": hint}


def test_error_that_is_not_on_the_wire_is_told_as_a_failure() -> None:
    reply = to_wire(errors.RequestError("what"))
    assert isinstance(reply, wire_errors.BrokerFailure)


@pytest.mark.parametrize("kind", request_errors())
def test_refusal_alone_waits_for_its_time(kind: type[errors.RequestError]) -> None:
    asked = Asked(kind("no"))

    async def ask() -> float:
        now = asyncio.get_running_loop().time()
        with pytest.raises(TypedVarlinkErrorReply) as raised:
            await asked.ask(word="x")
        assert type(raised.value).__name__ == kind.__name__
        assert raised.value.__cause__ is asked.error
        return now

    before = asyncio.run(ask())
    assert len(asked.service.moments) == (kind in IN_TIME)
    assert all(moment >= before + REFUSAL_SECONDS for moment in asked.service.moments)


def test_refusal_that_is_late_already_is_answered_at_once() -> None:
    class Slow(Asked):
        @refused_in_time
        async def ask(self, *, word: str) -> list[str]:
            await asyncio.sleep(REFUSAL_SECONDS)
            raise errors.NotAuthorized(word)

    asked = Slow(None)
    with pytest.raises(wire_errors.NotAuthorized):
        asyncio.run(asked.ask(word="no"))
    assert not asked.service.moments


def test_what_is_granted_and_what_is_unforeseen_is_passed_on() -> None:
    assert asyncio.run(Asked(None).ask(word="x")) == ["x"]
    with pytest.raises(ZeroDivisionError):
        asyncio.run(Asked(ZeroDivisionError()).ask(word="x"))


def test_error_of_a_method_that_refuses_nothing_is_a_reply_at_once() -> None:
    with pytest.raises(wire_errors.BrokerBusy), errors_to_wire():
        raise errors.BrokerBusy("wait")


def test_signature_is_the_methods_own() -> None:
    method = varlinkmethod(return_parameter="words")(Asked.ask)
    signature = varlinksignature(method)
    assert signature is not None and signature.asynchronous and not signature.more
    assert signature.parameter_type.as_varlink == "(word: string)"
    assert signature.return_type.as_varlink == "(words: []string)"
    assert method.__doc__ == "Say it."
