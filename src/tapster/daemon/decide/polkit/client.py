# SPDX-License-Identifier: LGPL-2.1-or-later
"""Asks polkit(8) whether a caller may do something.

Whatever goes wrong, the answer is no, with a reason for the log. Most questions
polkit answers by itself, in milliseconds. One that it puts to a person, by an
authentication agent of the caller's, takes as long as people do: it is withdrawn
when the caller goes, and nobody else waits for it.

polkit lets only root and an action's owner ask about other users' processes and
tell details: data/io.tapster.policy says who that is.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from ....model import Peer
from ...identify import caller
from .subject import Subject, Unclear

if TYPE_CHECKING:
    from jeepney import Message

    from .dbus import Bus

_log = logging.getLogger(__name__)

PER_USER = 8  # questions of one uid that polkit has not answered
AT_ONCE = 64  # the same of all users together
# Of those, put to persons, who need not answer: with some uids of subuid(5) one
# user could have so many unanswered that nobody else's were asked.
PERSONS = 48
QUICK = 10.0  # seconds for an answer that no person is asked for
PATIENT = 300.0  # seconds for a person
OPENING = 5.0  # seconds for the bus to take us
_LONGEST = 255  # bytes of a detail


class Answer(NamedTuple):
    allowed: bool
    reason: str  # for the log only


class Polkit:
    """The way to polkit: one connection, which the first question opens, and the
    first after it was lost opens anew."""

    def __init__(self, address: str | None = None) -> None:
        """
        :param address: of the bus; None for the system bus, which may be where
            DBUS_SYSTEM_BUS_ADDRESS says.
        """
        self._address = address
        self._bus: Bus | None = None
        self._opening: asyncio.Future[Bus] | None = None
        self._closed = False
        self._unanswered: Counter[int] = Counter()  # by uid
        self._persons = 0  # that are asked now
        self._numbers = itertools.count(1)

    def close(self) -> None:
        """Close the connection; who still waits is answered no."""
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
        if self._bus is not None:
            self._bus.close("the broker is ending")

    async def authorize(
        self, peer: Peer, action: str, details: Mapping[str, str], interactive: bool
    ) -> Answer:
        """Whether polkit lets the client whose call this is do something.

        :param peer: the client's; about anybody else polkit is not asked.
        :param details: user, network, bridge, guest: those that there are.
        :param interactive: whether a person may be asked.
        :raises CancelledError: the client is gone, and with it the call's purpose.
        """
        try:
            return await self._authorize(peer, action, details, interactive)
        except Unclear as err:
            return Answer(False, str(err))
        except Exception as err:  # noqa: BLE001 - in doubt the answer is no
            _log.exception("polkit could not be asked")
            return Answer(False, f"polkit could not be asked: {err!r}")

    async def _authorize(
        self, peer: Peer, action: str, details: Mapping[str, str], interactive: bool
    ) -> Answer:
        if not all(map(_is_fit, details.values())):
            return Answer(False, "polkit can't be told of such a name")
        unanswered = self._unanswered
        if (
            unanswered[peer.uid] >= PER_USER
            or unanswered.total() >= AT_ONCE
            or (interactive and self._persons >= PERSONS)
        ):
            return Answer(False, "polkit has too many questions to answer already")
        client = caller.of_this_call()
        subject = Subject(peer, client)
        try:
            assert client is not None  # noqa: S101 - or there were no subject
            question = self._put(subject, action, details, interactive)
            limit = PATIENT if interactive else QUICK
            try:
                with client.until_gone(question):
                    # Which, unlike asyncio.timeout, needs no current task.
                    await asyncio.wait({question}, timeout=limit)
            finally:
                answered = not question.cancel()
            if not answered:
                return Answer(False, f"polkit has not answered in {limit:g} s")
            answer = question.result()  # CancelledError, if the client is gone
            if answer.allowed and not subject.lives():
                # polkit looked it up by its pid, which may be another's by then.
                return Answer(False, "the client's process is gone")
            return answer
        finally:
            subject.close()

    def _put(
        self,
        subject: Subject,
        action: str,
        details: Mapping[str, str],
        interactive: bool,
    ) -> asyncio.Future[Answer]:
        """A question on its way; to cancel it is to withdraw it.

        Withdrawn or not, it counts until polkit has answered: who asks, goes and
        asks again leaves polkit no more to do than who waits.
        """
        uid = subject.uid
        replies: list[asyncio.Future[Message]] = []  # one, once it was sent

        def answered(_: object) -> None:
            self._persons -= interactive
            self._unanswered[uid] -= 1
            if not self._unanswered[uid]:
                del self._unanswered[uid]

        self._unanswered[uid] += 1
        self._persons += interactive
        question = asyncio.ensure_future(
            self._ask(subject, action, details, interactive, replies)
        )
        question.add_done_callback(
            lambda done: (replies or [done])[0].add_done_callback(answered)
        )
        return question

    async def _ask(
        self,
        subject: Subject,
        action: str,
        details: Mapping[str, str],
        interactive: bool,
        replies: list[asyncio.Future[Message]],
    ) -> Answer:
        from . import dbus as bus
        from . import messages as authority

        number = f"tapster-{next(self._numbers)}"
        try:
            connection = await self._connection()
            reply = connection.call(
                authority.check(subject, action, details, interactive, number)
            )
            replies.append(reply)
            try:
                await asyncio.wait({reply})  # which, unlike await, leaves it alone
            finally:
                if not reply.done():
                    connection.tell(authority.withdraw(number))
            return Answer(*authority.understand(reply.result(), interactive))
        except bus.BusError as err:
            return Answer(False, f"polkit can't be asked: {err}")

    async def _connection(self) -> Bus:
        """:raises BusError: there is none to be had."""
        if self._bus is not None and not self._bus.closed:
            return self._bus
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._open())
            self._opening.add_done_callback(self._opened)
        # Others may wait for the same connection.
        return await asyncio.shield(self._opening)

    async def _open(self) -> Bus:
        from . import dbus as bus

        address = bus.address_of(self._address)
        try:
            return await asyncio.wait_for(bus.connect(address), OPENING)
        except TimeoutError:
            raise bus.BusError(f"the bus at {address} does not answer") from None

    def _opened(self, opening: asyncio.Future[Bus]) -> None:
        self._opening = None
        if not opening.cancelled() and opening.exception() is None:
            self._bus = opening.result()
            if self._closed:
                self._bus.close("the broker is ending")


def _is_fit(detail: str) -> bool:
    """Whether D-Bus has it for a string; what it hasn't would end the connection,
    which is everybody's."""
    try:
        return len(detail.encode()) <= _LONGEST and "\0" not in detail
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
