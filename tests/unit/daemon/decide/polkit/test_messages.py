# SPDX-License-Identifier: LGPL-2.1-or-later
"""`polkit.messages`: what the person is shown who is asked for a password."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fakes.bus import FakeBus
from support.polkit_client import Connected, Run, says
from tapster.daemon.decide.polkit.client import Polkit

pytestmark = pytest.mark.usefixtures("no_leaked_fd")


@pytest.mark.parametrize(
    ("details", "text"),
    [
        ({}, " to attach a guest to any network"),
        (
            {"user": "a", "bridge": "br0"},
            " for $(user) to attach a guest to bridge $(bridge)",
        ),
        (
            {"verb": "attach", "user": "a", "network": "lan"},
            " for $(user) to attach a guest to network $(network)",
        ),
    ],
)
def test_the_message_names_what_there_is(
    run: Run, client: Connected, details: dict[str, str], text: str
) -> None:
    async def body(fake: FakeBus, asking: Polkit) -> None:
        fake.on_question = says(allowed=True)
        await client.ask(asking, details)
        message = {"polkit.message": f"Authentication is required{text}"}
        assert fake.questions[0].details == {**details, **message}

    run(body)


@pytest.mark.parametrize(
    ("action", "details", "text"),
    [
        (
            "forward",
            {"user": "a", "network": "lan", "guest": "web", "port": "tcp/80"},
            (
                "for $(user) to forward $(port) of this host to guest $(guest)"
                " on network $(network)"
            ),
        ),
        (
            "manage",
            {"verb": "detach", "user": "a", "bridge": "br0", "guest": "web"},
            "for $(user) to manage guest $(guest) on bridge $(bridge)",
        ),
        (
            "manage",
            {"verb": "reload", "user": "a"},
            "for $(user) to have the configuration of tapster's networks read anew",
        ),
    ],
)
def test_the_message_is_about_what_is_to_be_done(
    action: str, details: dict[str, str], text: str
) -> None:
    from tapster.daemon.decide.polkit import messages as authority

    subject: Any = SimpleNamespace(pid=1, started=1, uid=1, pidfd=1)
    message = authority.check(subject, f"io.tapster.{action}", details, True, "1")
    told = message.body[2]["polkit.message"]
    assert told == f"Authentication is required {text}"
