# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.client.connection`: what any bytes and descriptors of a broker lead to."""

from __future__ import annotations

import json
import socket

import pytest

from fakes import broker as fake
from fakes.broker import ATTACHED, NIC, FakeBroker, Script, encode, error, say
from tapster import errors
from tapster.client import attach as client
from tapster.errors import ProtocolError

pytestmark = pytest.mark.usefixtures("no_leaked_fd")

MISBEHAVIOUR: dict[str, tuple[Script, type[errors.TapsterError]]] = {
    "hangs": (fake.hang, errors.BrokerUnavailable),
    "trickles": (fake.trickle, errors.BrokerUnavailable),
    "sends an fd, then hangs": (
        fake.say_and_hang(b"{", 1),
        errors.BrokerUnavailable,
    ),
    "hangs up": (fake.hang_up, errors.BrokerUnavailable),
    "hangs up in the middle": (say(ATTACHED[:-1], 1), ProtocolError),
    "garbage": (say(b"\xff\xfe{]\0", 1), ProtocolError),
    "nothing": (say(b"\0", 1), ProtocolError),
    "deep": (say(b"[" * 100_000 + b"\0", 1), ProtocolError),
    "a list": (say(b"[1]\0", 1), ProtocolError),
    "no parameters": (say(b"{}\0", 1), ProtocolError),
    "odd parameters": (say(b'{"parameters":7}\0', 1), ProtocolError),
    "odd error": (say(b'{"error":7}\0', 1), ProtocolError),
    "odd continues": (say(encode({}, continues=3), 1), ProtocolError),
    "too many fds": (say(ATTACHED, 40), ProtocolError),
    "huge": (fake.say_and_hang(b" " * (3 << 20), 1), ProtocolError),
    "an error with an fd": (
        say(error("io.tapster.Broker.NotAuthorized", message="no"), 1),
        errors.NotAuthorized,
    ),
}


@pytest.mark.parametrize("kind", MISBEHAVIOUR)
def test_broker_that_misbehaves_is_an_error_in_one_line(path: str, kind: str) -> None:
    script, expected = MISBEHAVIOUR[kind]
    with FakeBroker(path, script), pytest.raises(expected) as caught:
        client.attach(socket=path, timeout=0.3)
    assert "\n" not in caught.value.oneline()


def test_reply_may_be_split_anywhere(path: str) -> None:
    nic = {**NIC, "user": "ürsula"}
    data = json.dumps({"parameters": {"fd": 0, "nic": nic}}, ensure_ascii=False)
    wire = data.encode() + b"\0"
    places = range(1, len(wire))
    with FakeBroker(path, *[fake.split(wire, at, 1) for at in places]) as broker:
        for _ in places:
            with client.attach(socket=path) as attached:
                assert broker.made(attached.fd)


def test_connection_carries_several_calls_until_one_fails(path: str) -> None:
    def script(peer: fake.Peer) -> None:
        peer.send(error("io.tapster.Broker.NoSuchNic", message="none"))
        peer.conn.recv(65536)
        peer.send(encode({"n": 1}) + encode({"n": 2}))
        peer.hang()

    with FakeBroker(path, script), client.connect(path) as broker:
        with pytest.raises(errors.NoSuchNic):
            broker.call("Detach", {"ifname": "x"})
        assert broker.call("org.example.Other", {})[0] == {"n": 1}
        assert broker.fileno() >= 0
        with pytest.raises(ProtocolError, match="nobody asked"):
            broker.call("List", {})
        assert broker.fileno() == -1


def test_full_backlog_is_waited_for(path: str) -> None:
    """Unix sockets refuse at once, with EAGAIN, where others would wait."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(path)
            with pytest.raises(errors.BrokerUnavailable, match="in time"):
                client.attach(socket=path, timeout=0.1)


@pytest.mark.parametrize("kind", errors.RequestError.__subclasses__())
def test_error_of_the_wire_keeps_its_class_message_and_hint(
    path: str, kind: type[errors.RequestError]
) -> None:
    data = error(f"io.tapster.Broker.{kind.__name__}", message="so it is", hint="do it")
    with FakeBroker(path, say(data)), pytest.raises(kind) as caught:
        client.attach(socket=path)
    assert type(caught.value) is kind
    assert caught.value.oneline() == "so it is (do it)"
