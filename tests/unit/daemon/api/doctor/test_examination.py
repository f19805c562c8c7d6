# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.daemon.api.doctor.examination`: who is told what of a look at the host."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from support.builders import make_peer
from tapster.daemon.api.doctor import examination
from tapster.daemon.api.doctor.examination import Examination
from tapster.daemon.api.doctor.finding import Finding
from tapster.policy.config.current import CurrentConfig
from tapster.policy.config.load import Config

USER, ROOT = make_peer(1000), make_peer(0)


class Hooks:
    def __init__(self, *refused: str) -> None:
        self._refused = refused

    def refused(self) -> tuple[str, ...]:
        return self._refused


def make_examination(
    *networks: Any,
    refused: tuple[str, ...] = (),
    problem: str | None = None,
    rootless: bool = False,
) -> Examination:
    running: Any = SimpleNamespace(all=lambda: networks)
    current = CurrentConfig(Config(problem=problem))
    return Examination(current, running, Hooks(*refused), rootless=rootless)


def network(bridge: str, uid: int | None) -> Any:
    return SimpleNamespace(bridge=bridge, uid=uid)


def found(codes: str) -> list[Finding]:
    return [Finding(code, "warning", "text") for code in codes.split()]


def test_one_look_is_taken_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The threads are those that networks are started in, too."""
    lock, running, most = threading.Lock(), 0, 0
    begun = threading.Event()

    def look(_: list[str]) -> list[Finding]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            if running > 1:
                begun.set()
        begun.wait(0.05)  # for another one, which must not come
        with lock:
            running -= 1
        return found("code")

    monkeypatch.setattr(examination, "_look", look)

    async def ask() -> list[list[Finding]]:
        made = make_examination()
        return list(await asyncio.gather(*(made.examine(USER) for _ in range(4))))

    assert [[f.code for f in told] for told in asyncio.run(ask())] == [["code"]] * 4
    assert most == 1


@pytest.mark.parametrize(
    ("peer", "bridges"), [(ROOT, ["a", "b", "c"]), (USER, ["a", "c"])]
)
def test_a_user_is_told_of_its_own_and_of_shared_networks(
    peer: Any, bridges: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[list[str]] = []

    def look(at: list[str]) -> list[Finding]:
        looked.append(at)
        return []

    monkeypatch.setattr(examination, "_look", look)
    made = make_examination(network("a", 1000), network("b", 1001), network("c", None))
    assert asyncio.run(made.examine(peer)) == []
    assert looked == [bridges]


@pytest.mark.parametrize(
    ("rootless", "codes"), [(False, "networkd rp-filter"), (True, "rp-filter")]
)
def test_no_program_manages_devices_in_a_rootless_brokers_namespace(
    rootless: bool, codes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examination, "_look", lambda _: found("networkd rp-filter"))
    told = asyncio.run(make_examination(rootless=rootless).examine(ROOT))
    assert told == found(codes)


def test_what_is_wrong_with_the_brokers_files_is_told_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(examination, "_look", lambda _: found("rp-filter"))
    made = make_examination(refused=("10-a: why", "20-b: why"), problem="x.toml: why")
    root, user = asyncio.run(made.examine(ROOT)), asyncio.run(made.examine(USER))
    assert [f.code for f in root] == ["configuration", "hook", "hook", "rp-filter"]
    assert [f.code for f in user] == ["configuration", "hook", "rp-filter"]
    assert "x.toml: why" in root[0].message and "10-a: why" in root[1].message
    assert not any("why" in f.message for f in user)
