# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.manage` against the daemon's own listener, and against nonsense."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any, cast

import pytest

from fakes.broker import FINDING, FORWARD, NETWORK, FakeBroker, encode, say
from tapster import errors, fields, manage
from tapster.daemon.listener import Listener
from tapster.model import Peer
from tapster.policy.config import Limits
from tapster.wire import interface

pytestmark = pytest.mark.usefixtures("no_leaked_fd")


class Service:
    """What the daemon would do, written down; whatever it answers is agreed on."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []

    def _note(self, peer: Peer, *words: object) -> None:
        assert (peer.uid, peer.pid) == (os.getuid(), os.getpid())
        self.asked.append(words)

    def list_networks(self, peer: Peer) -> list[interface.NetworkInfo]:
        self._note(peer, "list_networks")
        isolated = dict.fromkeys(
            key for key, (_, null) in fields.NETWORK.items() if null
        )
        return [
            interface.NetworkInfo(**NETWORK),
            interface.NetworkInfo(**{**NETWORK, **isolated, "notes": ["odd"]}),
        ]

    def reload(self, peer: Peer) -> list[str]:
        self._note(peer, "reload")
        if len(self.asked) > 1:
            raise errors.ConfigInvalid("a.toml:1:2: no", "say yes")
        return ["network lan: new"]

    async def add_forward(
        self, peer: Peer, network: str | None, port: str, guest: str, guest_port: int
    ) -> interface.ForwardInfo:
        self._note(peer, "add_forward", network, port, guest, guest_port)
        if network:
            raise errors.ForwardRefused("tcp/80 is privileged", "from 1024 up")
        return interface.ForwardInfo(**FORWARD)

    async def remove_forward(self, peer: Peer, network: str | None, port: str) -> None:
        self._note(peer, "remove_forward", network, port)
        if network:
            raise errors.NoSuchForward("no")

    def list_forwards(self, peer: Peer) -> list[interface.ForwardInfo]:
        self._note(peer, "list_forwards")
        return [interface.ForwardInfo(**FORWARD)]

    async def diagnose(self, peer: Peer) -> list[interface.Finding]:
        self._note(peer, "diagnose")
        return [interface.Finding(**FINDING), interface.Finding("a", "info", "b", None)]


def served(path: str, service: Service, call: Callable[[], None]) -> None:
    """Call while the daemon's listener serves this."""

    async def serve() -> None:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(path)
        listening.listen()
        listener = Listener(listening, cast(interface.Service, service), Limits())
        listener.start()
        try:
            await asyncio.to_thread(call)
        finally:
            listener.close()
            while len(listener):
                await asyncio.sleep(0)  # a turn of the loop

    asyncio.run(serve())


def test_networks(path: str) -> None:
    def call() -> None:
        here, gone = manage.list_networks(socket=path)
        assert here == NETWORK
        assert gone["uid"] is gone["mtu"] is gone["max_nics"] is None
        assert gone["notes"] == ["odd"]

    served(path, Service(), call)


def test_reload(path: str) -> None:
    def call() -> None:
        assert manage.reload(socket=path) == ["network lan: new"]
        with pytest.raises(errors.ConfigInvalid) as caught:
            manage.reload(socket=path)
        assert caught.value.oneline() == "a.toml:1:2: no (say yes)"

    served(path, Service(), call)


def test_forwards(path: str) -> None:
    def call() -> None:
        assert manage.add_forward("tcp/8080", "web", 80, socket=path) == FORWARD
        with pytest.raises(errors.ForwardRefused) as caught:
            manage.add_forward("tcp/80", "web", 80, "lan", socket=path)
        assert caught.value.oneline() == "tcp/80 is privileged (from 1024 up)"
        assert manage.list_forwards(socket=path) == [FORWARD]
        manage.remove_forward("tcp/8080", socket=path)
        with pytest.raises(errors.NoSuchForward):
            manage.remove_forward("tcp/80", "lan", socket=path)

    service = Service()
    served(path, service, call)
    assert service.asked == [
        ("add_forward", None, "tcp/8080", "web", 80),
        ("add_forward", "lan", "tcp/80", "web", 80),
        ("list_forwards",),
        ("remove_forward", None, "tcp/8080"),
        ("remove_forward", "lan", "tcp/80"),
    ]


def test_diagnose(path: str) -> None:
    def call() -> None:
        bad, good = manage.diagnose(socket=path)
        assert bad == FINDING
        assert good == {"code": "a", "severity": "info", "message": "b", "remedy": None}

    served(path, Service(), call)


CALLS: list[tuple[str, Callable[..., object]]] = [
    ("networks", manage.list_networks),
    ("changes", manage.reload),
    ("forwards", manage.list_forwards),
    ("findings", manage.diagnose),
]


@pytest.mark.parametrize(("key", "call"), CALLS, ids=[key for key, _ in CALLS])
@pytest.mark.parametrize("value", [None, {}, "x", [1], [None], [{}]])
def test_an_answer_that_makes_no_sense(
    path: str, key: str, call: Callable[..., object], value: object
) -> None:
    script = say(encode({key: value}))
    with FakeBroker(path, script), pytest.raises(errors.ProtocolError):
        call(socket=path)


@pytest.mark.parametrize("forward", [None, [], {**FORWARD, "static": 1}])
def test_a_forward_that_makes_no_sense(path: str, forward: object) -> None:
    script = say(encode({"forward": forward}))
    with FakeBroker(path, script), pytest.raises(errors.ProtocolError):
        manage.add_forward("tcp/8080", "web", 80, socket=path)


@pytest.mark.parametrize(
    "field", [k for k, v in fields.NETWORK.items() if v[0] is list]
)
@pytest.mark.parametrize("value", [None, "x", [1], ["x", None], {}])
def test_a_list_is_one_of_strings(field: str, value: object) -> None:
    network: dict[str, Any] = {**NETWORK, field: value}
    with pytest.raises(errors.ProtocolError, match=field):
        fields.check(network, fields.NETWORK, "network")
