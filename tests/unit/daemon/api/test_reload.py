# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.daemon.api.reload`: who may reload, and what becomes of a wrong file."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from support.builders import make_peer
from tapster.daemon.api.reload import Reload
from tapster.errors import ConfigError, ConfigInvalid, NotAuthorized
from tapster.policy.config.load import Config
from tapster.policy.core.decide import Decision

PEER = make_peer(1000)


class Told:
    """Takes the events."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def changed(self, event: str, *_: Any, **__: Any) -> None:
        self.events.append(event)

    def denied(self, *_: Any) -> None:
        self.events.append("denied")


def wrong() -> Config:
    raise ConfigError("x.toml:1: wrong")


def make_reload(
    told: Any, *, read: Any = Config, allowed: bool | None = None
) -> tuple[Reload, list[Config]]:
    """:param allowed: what the rules say; None: nobody asks them."""
    taken: list[Config] = []

    def reconfigure(config: Config) -> list[str]:
        taken.append(config)
        return ["lab: changed"]

    async def decide(*_: Any) -> Decision:
        return Decision(bool(allowed), "a reason")

    permissions: Any = None if allowed is None else SimpleNamespace(reload=decide)
    return Reload(read, reconfigure, told, permissions), taken


@pytest.mark.parametrize("allowed", [None, True])
def test_a_caller_is_told_what_changes_for_guests(allowed: bool | None) -> None:
    told = Told()
    reload, taken = make_reload(told, allowed=allowed)
    assert asyncio.run(reload.by_caller(PEER, False)) == ["lab: changed"]
    assert len(taken) == 1 and told.events == ["reloaded"]


def test_who_may_not_reload_changes_nothing() -> None:
    told = Told()
    reload, taken = make_reload(told, allowed=False)
    with pytest.raises(NotAuthorized):
        asyncio.run(reload.by_caller(PEER, False))
    assert not taken and told.events == ["denied"]


def test_a_wrong_file_changes_nothing() -> None:
    told = Told()
    reload, taken = make_reload(told, read=wrong)
    with pytest.raises(ConfigInvalid, match=r"x\.toml:1"):
        asyncio.run(reload.by_caller(PEER, False))
    reload.by_signal()  # has nobody to answer
    assert not taken and told.events == ["reload-refused"] * 2


def test_a_signal_reloads_whoever_has_sent_it() -> None:
    told = Told()
    reload, taken = make_reload(told, allowed=False)
    reload.by_signal()
    assert len(taken) == 1 and told.events == ["reloaded"]
