# SPDX-License-Identifier: LGPL-2.1-or-later
"""`daemon.server.framing`: messages come whole, whatever pieces they are read in."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapster.daemon.server.framing import (
    MESSAGE_LIMIT,
    BadMessage,
    Inbox,
    decode,
    encode,
)
from tapster.daemon.server.transport import READ_SIZE


def taken(inbox: Inbox) -> list[bytes]:
    return [inbox.take() for _ in range(len(inbox))]


MESSAGE = st.binary(max_size=50).map(lambda data: data.replace(b"\0", b"x"))


@settings(deadline=None)
@given(st.lists(MESSAGE), MESSAGE, st.lists(st.integers(1, 20)))
def test_messages_are_the_same_in_whatever_pieces_they_come(
    messages: list[bytes], rest: bytes, sizes: list[int]
) -> None:
    inbox = Inbox()
    data = b"".join(message + b"\0" for message in messages) + rest
    for size in sizes:
        inbox.feed(data[:size], 0.0)
        data = data[size:]
    inbox.feed(data, 0.0)
    assert taken(inbox) == messages


@settings(deadline=None)
@given(st.dictionaries(st.text(), st.none() | st.integers() | st.text()))
def test_what_is_encoded_is_decoded_and_has_one_nul(message: dict[str, object]) -> None:
    data = encode(message)  # type: ignore[arg-type]
    assert data.index(b"\0") == len(data) - 1
    assert decode(data[:-1]) == message == json.loads(data[:-1])


@pytest.mark.parametrize("size", [MESSAGE_LIMIT, MESSAGE_LIMIT + 1])
def test_a_message_of_the_limit_is_the_longest(size: int) -> None:
    inbox = Inbox()
    data = b"x" * size + b"\0"
    pieces = [data[at : at + READ_SIZE] for at in range(0, len(data), READ_SIZE)]
    if size > MESSAGE_LIMIT:
        with pytest.raises(BadMessage, match="too large"):
            for piece in pieces:
                inbox.feed(piece, 0.0)
    else:
        for piece in pieces:
            inbox.feed(piece, 0.0)
        assert taken(inbox) == [data[:-1]]


@pytest.mark.parametrize("data", [b"", b"x", b"{", b"\xff", b"[" * 9000, b"{} {}"])
def test_what_is_no_json_is_no_message(data: bytes) -> None:
    with pytest.raises(BadMessage, match="no JSON"):
        decode(data)


@pytest.mark.parametrize("data", [b"[]", b"1", b"null", b'"x"'])
def test_a_message_is_an_object(data: bytes) -> None:
    with pytest.raises(BadMessage, match="no JSON object"):
        decode(data)


def test_the_rest_of_a_message_is_waited_for_since_its_first_byte() -> None:
    inbox = Inbox()
    assert not inbox.is_part_older(1000.0)  # there is none
    inbox.feed(b"a", 1.0)
    inbox.feed(b"b", 5.0)
    assert inbox.is_part_older(1.5)
    inbox.feed(b"\0c", 6.0)  # the next message
    assert not inbox.is_part_older(5.5)
    assert inbox.is_part_older(6.5)
    inbox.restart_part(9.0)
    assert not inbox.is_part_older(8.5)


def test_clearing_forgets_whole_messages() -> None:
    inbox = Inbox()
    inbox.feed(b"a\0b\0", 0.0)
    inbox.clear()
    assert not inbox
