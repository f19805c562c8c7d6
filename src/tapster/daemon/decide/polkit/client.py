# SPDX-License-Identifier: LGPL-2.1-or-later
"""Asks polkit(8) whether a caller may do something.

If anything goes wrong the answer is no, with a reason for the log. Polkit answers
most questions by itself, in milliseconds. A question that polkit puts to a person,
through an authentication agent of the caller's, takes as long as people take: it is
withdrawn when the caller goes, and no other request waits for it.

Polkit lets only root and an action's owner ask about other users' processes and
pass details: data/io.tapster.policy says who the owner is.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ....model import Peer
from ...identify import caller
from .subject import Subject, Unclear

if TYPE_CHECKING:
    from .dbus import Bus

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

PER_USER = 8  # questions of one uid that polkit has not answered
AT_ONCE = 64  # questions of all users together that polkit has not answered
# Of those, questions that are put to persons, who need not answer: with some uids of
# subuid(5) one user could leave so many unanswered that nobody else's were asked.
PERSONS = 48
QUICK = 10.0  # seconds for an answer that no person is asked for
PATIENT = 300.0  # seconds for a person
OPENING = 5.0  # seconds for the bus to accept us
_LONGEST = 255  # bytes of a detail


class Answer(NamedTuple):
    """What polkit says."""

    allowed: bool
    reason: str  # for the log only


class _Question(NamedTuple):
    """Whether a process may do something."""

    subject: Subject
    action: str
    details: Mapping[str, str]
    interactive: bool

    @property
    def patience(self) -> float:
        """Seconds to wait for the answer."""
        return PATIENT if self.interactive else QUICK


class Polkit:
    """The way to polkit: one connection to the bus. The first question opens it, and
    the first question after it was lost opens it anew."""

    def __init__(self, address: str | None = None) -> None:
        """
        :param address: of the bus; None for the system bus, or the bus that
            DBUS_SYSTEM_BUS_ADDRESS names.
        """
        self._address = address
        self._bus: Bus | None = None
        self._opening: asyncio.Future[Bus] | None = None
        self._closed = False
        self._unanswered: Counter[int] = Counter()  # questions, by uid
        self._persons = 0  # questions among them that persons are asked
        self._numbers = itertools.count(1)

    def close(self) -> None:
        """Close the connection; whoever still waits is answered no."""
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
        if self._bus is not None:
            self._bus.close("the broker is ending")

    async def authorize(
        self, peer: Peer, action: str, details: Mapping[str, str], interactive: bool
    ) -> Answer:
        """Whether polkit lets the client whose call this is do something.

        :param peer: that client; polkit is asked about nobody else.
        :param action: one of those in data/io.tapster.policy.
        :param details: what is known of verb, user, network, bridge, guest, port.
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
        if self._is_too_much(peer.uid, interactive):
            return Answer(False, "polkit has too many questions to answer already")
        with Subject(peer, caller.of_this_call()) as subject:
            question = _Question(subject, action, details, interactive)
            answer = await self._ask(question)
            if answer.allowed and not subject.lives():
                # Polkit looks it up by its pid, which may be another's by now.
                return Answer(False, "the client's process is gone")
            return answer

    async def _ask(self, question: _Question) -> Answer:
        """The life of a question: it is counted, sent, and answered; or withdrawn,
        where nobody waits for the answer any more.

        A withdrawn question counts until polkit has answered it: a client that asks,
        goes and asks again gives polkit no more to do than one that waits.

        :raises CancelledError: the client is gone.
        """
        from . import dbus, messages

        loop = asyncio.get_running_loop()
        deadline = loop.time() + question.patience
        gone: asyncio.Future[None] = loop.create_future()  # cancelled when it goes
        number, reply = f"tapster-{next(self._numbers)}", None
        self._count(question, +1)
        try:
            with question.subject.client.until_gone(gone):
                bus = await self._connection(gone, deadline)
                reply = bus.call(messages.check(*question, number))
                said = await _before(deadline, gone, reply)
            return Answer(*messages.understand(said, question.interactive))
        except TimeoutError:
            return Answer(False, f"polkit has not answered in {question.patience:g} s")
        except dbus.BusError as err:
            return Answer(False, f"polkit can't be asked: {err}")
        finally:
            if reply is None or reply.done():
                self._count(question, -1)
            else:
                bus.tell(messages.withdraw(number))
                reply.add_done_callback(lambda _: self._count(question, -1))

    def _is_too_much(self, uid: int, interactive: bool) -> bool:
        return (
            self._unanswered[uid] >= PER_USER
            or self._unanswered.total() >= AT_ONCE
            or (interactive and self._persons >= PERSONS)
        )

    def _count(self, question: _Question, change: int) -> None:
        uid = question.subject.uid
        self._unanswered[uid] += change
        if not self._unanswered[uid]:
            del self._unanswered[uid]
        if question.interactive:
            self._persons += change

    # The connection

    async def _connection(self, gone: asyncio.Future[None], deadline: float) -> Bus:
        """The connection, opened if need be.

        :raises BusError: there is none to be had.
        :raises CancelledError, TimeoutError: as `_before`.
        """
        if self._bus is not None and not self._bus.closed:
            return self._bus
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._open())
            self._opening.add_done_callback(self._opened)
        return await _before(deadline, gone, self._opening)

    async def _open(self) -> Bus:
        from . import dbus

        address = dbus.address_of(self._address)
        try:
            return await asyncio.wait_for(dbus.connect(address), OPENING)
        except TimeoutError:
            raise dbus.BusError(f"the bus at {address} does not answer") from None

    def _opened(self, opening: asyncio.Future[Bus]) -> None:
        self._opening = None
        if not opening.cancelled() and opening.exception() is None:
            self._bus = opening.result()
            if self._closed:
                self._bus.close("the broker is ending")


async def _before(
    deadline: float, gone: asyncio.Future[None], wanted: asyncio.Future[_T]
) -> _T:
    """Wait for a future, which is left alone: others may wait for it, too.

    :param deadline: by the clock of the event loop.
    :param gone: is cancelled when the client goes.
    :param wanted: whose result is waited for.
    :raises TimeoutError: the deadline is over.
    :raises CancelledError: the client is gone.
    """
    timeout = deadline - asyncio.get_running_loop().time()
    either: set[asyncio.Future[Any]] = {wanted, gone}
    # Unlike asyncio.timeout() this needs no current task, and a call that was
    # started eagerly has none.
    await asyncio.wait(either, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    if gone.cancelled():
        raise asyncio.CancelledError
    if not wanted.done():
        raise TimeoutError
    return wanted.result()


def _is_fit(detail: str) -> bool:
    """Whether D-Bus has it for a string. The bus would end the connection, which is
    everybody's, over anything else."""
    try:
        return len(detail.encode()) <= _LONGEST and "\0" not in detail
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
