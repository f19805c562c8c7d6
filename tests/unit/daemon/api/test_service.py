# SPDX-License-Identifier: LGPL-2.1-or-later
"""What callers share of the daemon, however many of them ask at once."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from tapster.daemon.api import service
from tapster.daemon.api.doctor.finding import Finding
from tapster.model import Peer


def test_diagnoses_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The threads are those that start networks, too."""
    lock, running, most = threading.Lock(), 0, 0
    begun = threading.Event()

    def examine(_: list[str]) -> list[Finding]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            if running > 1:
                begun.set()
        begun.wait(0.05)  # for another one, which must not come
        with lock:
            running -= 1
        return [Finding("code", "info", "text")]

    monkeypatch.setattr(service, "_examine", examine)
    broker: Any = SimpleNamespace(
        networks=SimpleNamespace(all=list),
        config=SimpleNamespace(problem=None),
        hooks=SimpleNamespace(refused=tuple),
    )
    nothing: Any = None

    async def ask() -> list[list[Any]]:
        made = service.BrokerService(broker, nothing, "system", nothing)
        peer = Peer(1000, 1000, frozenset(), 1)
        return list(await asyncio.gather(*(made.diagnose(peer) for _ in range(4))))

    assert [[f.code for f in found] for found in asyncio.run(ask())] == [["code"]] * 4
    assert most == 1
