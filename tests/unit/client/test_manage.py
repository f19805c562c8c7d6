# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.client.manage` against the daemon's own listener, and against nonsense."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import cast

import pytest

from fakes import broker as fake
from fakes.broker import (
    EXPLANATION,
    FINDING,
    FORWARD,
    NETWORK,
    STEP,
    FakeBroker,
    encode,
    say,
)
from tapster import errors
from tapster.client import attach as client
from tapster.client import connection, fields, manage
from tapster.daemon.server.listener import Listener
from tapster.model import AttachRequest, Peer
from tapster.policy.config.load import Limits
from tapster.wire import objects
from tapster.wire.interface import Service as Wanted

pytestmark = pytest.mark.usefixtures("no_leaked_fd")


class Service:
    """What the daemon would do, written down; whatever it answers is agreed on."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []

    def _note(self, peer: Peer, *words: object) -> None:
        assert (peer.uid, peer.pid) == (os.getuid(), os.getpid())
        self.asked.append(words)

    async def until(self, moment: float) -> None:
        await asyncio.sleep(moment - asyncio.get_running_loop().time())

    async def list_networks(self, peer: Peer) -> list[objects.NetworkInfo]:
        self._note(peer, "list_networks")
        isolated = dict.fromkeys(
            key for key, (_, null) in fields.NETWORK.items() if null
        )
        return [
            objects.NetworkInfo(**NETWORK),
            objects.NetworkInfo(**{**NETWORK, **isolated, "notes": ["odd"]}),
        ]

    async def detach(self, peer: Peer, ifname: str, interactive: bool) -> None:
        self._note(peer, "detach", ifname, interactive)

    async def reload(self, peer: Peer, interactive: bool) -> list[str]:
        self._note(peer, "reload", interactive)
        if len(self.asked) > 1:
            raise errors.ConfigInvalid("a.toml:1:2: no", "say yes")
        return ["network lan: new"]

    async def add_forward(
        self,
        peer: Peer,
        network: str | None,
        port: str,
        guest: str,
        guest_port: int,
        interactive: bool,
    ) -> objects.ForwardInfo:
        self._note(peer, "add_forward", network, port, guest, guest_port, interactive)
        if network:
            raise errors.ForwardRefused("tcp/80 is privileged", "from 1024 up")
        return objects.ForwardInfo(**FORWARD)

    async def remove_forward(
        self, peer: Peer, network: str | None, port: str, interactive: bool
    ) -> None:
        self._note(peer, "remove_forward", network, port, interactive)
        if network:
            raise errors.NoSuchForward("no")

    async def list_forwards(self, peer: Peer) -> list[objects.ForwardInfo]:
        self._note(peer, "list_forwards")
        return [objects.ForwardInfo(**FORWARD)]

    async def explain(
        self, peer: Peer, request: AttachRequest, user: str | None, forward: str | None
    ) -> objects.Explanation:
        self._note(peer, "explain", request, user, forward)
        if user:
            raise errors.NotAuthorized("only root may ask about other users")
        steps = [objects.Step(**STEP)]
        if request.network:
            steps = []
        return objects.Explanation(**{**EXPLANATION, "steps": steps})

    async def diagnose(self, peer: Peer) -> list[objects.Finding]:
        self._note(peer, "diagnose")
        return [objects.Finding(**FINDING), objects.Finding("a", "info", "b", None)]


def served(path: str, service: Service, call: Callable[[], None]) -> None:
    """Call while the daemon's listener serves this."""

    async def serve() -> None:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(path)
        listening.listen()
        listener = Listener(listening, cast(Wanted, service), Limits())
        listener.start()
        try:
            await asyncio.to_thread(call)
        finally:
            listener.close()
            while len(listener):
                await asyncio.sleep(0)  # a turn of the loop

    asyncio.run(serve())


def test_list_networks_returns_what_the_daemon_writes(path: str) -> None:
    def call() -> None:
        here, gone = manage.list_networks(socket=path)
        assert here == NETWORK
        assert gone["uid"] is gone["mtu"] is gone["max_nics"] is None
        assert gone["notes"] == ["odd"]

    served(path, Service(), call)


def test_reload_returns_what_changed(path: str) -> None:
    def call() -> None:
        assert manage.reload(socket=path) == ["network lan: new"]
        with pytest.raises(errors.ConfigInvalid) as caught:
            manage.reload(socket=path)
        assert caught.value.oneline() == "a.toml:1:2: no (say yes)"

    served(path, Service(), call)


def test_forwards_are_added_listed_and_removed(path: str) -> None:
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
        ("add_forward", None, "tcp/8080", "web", 80, False),
        ("add_forward", "lan", "tcp/80", "web", 80, False),
        ("list_forwards",),
        ("remove_forward", None, "tcp/8080", False),
        ("remove_forward", "lan", "tcp/80", False),
    ]


def test_diagnose_returns_the_findings(path: str) -> None:
    def call() -> None:
        bad, good = manage.diagnose(socket=path)
        assert bad == FINDING
        assert good == {"code": "a", "severity": "info", "message": "b", "remedy": None}

    served(path, Service(), call)


def test_explain_returns_the_explanation_with_its_steps(path: str) -> None:
    def call() -> None:
        assert manage.explain(socket=path) == EXPLANATION
        told = manage.explain(
            None, "lan", None, "web", "52:54:00:AB:00:01", "tcp/8080", socket=path
        )
        assert told == {**EXPLANATION, "steps": []}
        with pytest.raises(errors.NotAuthorized):
            manage.explain("bob", bridge="br0", socket=path)

    service = Service()
    served(path, service, call)
    assert service.asked == [
        ("explain", AttachRequest(), None, None),
        ("explain", AttachRequest("lan", None, "web", "52:54:00:ab:00:01"), None,
         "tcp/8080"),
        ("explain", AttachRequest(None, "br0"), "bob", None),
    ]  # fmt: skip


def test_explain_refuses_wrong_parameters_before_the_broker_is_asked() -> None:
    for wrong in {"network": "lan", "bridge": "br0"}, {"mac": "x"}, {"name": ""}:
        with pytest.raises(errors.InvalidRequest):
            manage.explain(**wrong, socket="/nowhere")


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        [],
        *(
            {**EXPLANATION, field: value}
            for field, value in {
                "allowed": 1,
                "uid": True,
                "reason": None,
                "max_nics": "4",
                "notes": [1],
                "steps": None,
            }.items()
        ),
        {**EXPLANATION, "steps": [None]},
        {**EXPLANATION, "steps": [{**STEP, "effect": 1}]},
        {k: v for k, v in EXPLANATION.items() if k != "steps"},
    ],
)
def test_explanation_that_makes_no_sense_is_an_error(path: str, wrong: object) -> None:
    script = say(encode({"explanation": wrong}))
    with FakeBroker(path, script), pytest.raises(errors.ProtocolError):
        manage.explain(socket=path)


# Whether a person may be asked ------------------------------------------------

ASKING: list[tuple[str, Callable[..., object], tuple[object, ...]]] = [
    ("detach", client.detach, ("tapster1",)),
    ("reload", manage.reload, ()),
    ("add_forward", manage.add_forward, ("tcp/8080", "web", 80)),
    ("remove_forward", manage.remove_forward, ("tcp/8080",)),
]


@pytest.mark.parametrize(
    ("name", "function", "words"), ASKING, ids=[name for name, _, _ in ASKING]
)
def test_interactive_is_sent_only_if_the_caller_wants_it(
    path: str, name: str, function: Callable[..., object], words: tuple[object, ...]
) -> None:
    def call() -> None:
        function(*words, socket=path, interactive=True)

    service = Service()
    served(path, service, call)
    ((asked, *_, interactive),) = service.asked
    assert (asked, interactive) == (name, True)
    with FakeBroker(f"{path}.fake", say(encode({}))) as broker:
        for more in {}, {"interactive": False}:
            with suppress(errors.ProtocolError):
                function(*words, socket=broker.path, **more)
    assert len(broker.requests) == 2
    assert all("interactive" not in r["parameters"] for r in broker.requests)


def test_interactive_call_waits_for_a_person(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = []

    def call(self: connection.Connection, *_: object, **__: object) -> object:
        limits.append(self.timeout)
        return {"changes": []}, []

    monkeypatch.setattr(connection.Connection, "call", call)
    with FakeBroker(path, fake.hang_up):
        manage.reload(socket=path)
        manage.reload(socket=path, timeout=7, interactive=True)
    assert limits == [connection.TIMEOUT, 7 + 300]


CALLS: list[tuple[str, Callable[..., object]]] = [
    ("networks", manage.list_networks),
    ("changes", manage.reload),
    ("forwards", manage.list_forwards),
    ("findings", manage.diagnose),
]


@pytest.mark.parametrize(("key", "call"), CALLS, ids=[key for key, _ in CALLS])
@pytest.mark.parametrize("value", [None, {}, "x", [1], [None], [{}]])
def test_reply_that_makes_no_sense_is_an_error(
    path: str, key: str, call: Callable[..., object], value: object
) -> None:
    script = say(encode({key: value}))
    with FakeBroker(path, script), pytest.raises(errors.ProtocolError):
        call(socket=path)


@pytest.mark.parametrize("forward", [None, [], {**FORWARD, "static": 1}])
def test_forward_that_makes_no_sense_is_an_error(path: str, forward: object) -> None:
    script = say(encode({"forward": forward}))
    with FakeBroker(path, script), pytest.raises(errors.ProtocolError):
        manage.add_forward("tcp/8080", "web", 80, socket=path)
