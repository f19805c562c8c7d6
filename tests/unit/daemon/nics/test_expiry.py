# SPDX-License-Identifier: LGPL-2.1-or-later
"""`nics.expiry`: whose time is over goes, whatever happens on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from tapster.daemon.nics import expiry
from tapster.daemon.nics.expiry import Expiry


class Host:
    """A ledger, a clock, and what was taken away."""

    def __init__(self) -> None:
        self.nics: dict[str, Any] = {}
        self.time = 1000.0
        self.gone: list[str] = []
        self.fails: Callable[[str], bool] = lambda _: False

    def __len__(self) -> int:
        return len(self.nics)

    def by_ifname(self, ifname: str) -> Any:
        return self.nics.get(ifname)

    def attach(self, ifname: str, ttl: float | None) -> Any:
        expires = None if ttl is None else self.time + ttl
        self.nics[ifname] = SimpleNamespace(ifname=ifname, expires=expires)
        return self.nics[ifname]

    def expire(self, nic: Any) -> None:
        if self.fails(nic.ifname):
            raise OSError("no buffer space")
        del self.nics[nic.ifname]
        self.gone.append(nic.ifname)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host()
    monkeypatch.setattr(expiry, "now", lambda: made.time)
    return made


def run(host: Host, body: Callable[[Expiry], None]) -> None:
    async def within_a_loop() -> None:
        ledger: Any = host
        made = Expiry(ledger, host.expire)
        try:
            body(made)
        finally:
            made.cancel()

    asyncio.run(within_a_loop())


def test_each_goes_when_its_time_is_over(host: Host) -> None:
    def body(made: Expiry) -> None:
        for name, ttl in (("late", 90), ("soon", 30), ("never", None)):
            made.add(host.attach(name, ttl))
        host.time += 29
        made._look()
        assert host.gone == []
        host.time += 1
        made._look()
        assert host.gone == ["soon"]
        host.time += 3600
        made._look()
        assert host.gone == ["soon", "late"]

    run(host, body)


def test_one_that_can_t_be_taken_away_keeps_no_other(host: Host) -> None:
    def body(made: Expiry) -> None:
        host.fails = lambda ifname: ifname == "a"
        for name in "abc":
            made.add(host.attach(name, 30))
        host.time += 31
        made._look()
        assert host.gone == ["b", "c"]

    run(host, body)


def test_and_is_tried_again(host: Host) -> None:
    def body(made: Expiry) -> None:
        host.fails = lambda _: True
        made.add(host.attach("a", 30))
        host.time += 31
        made._look()
        assert made._timer is not None
        host.fails = lambda _: False
        host.time += 11
        made._look()
        assert host.gone == ["a"]

    run(host, body)


def test_who_attaches_and_detaches_fills_no_memory(host: Host) -> None:
    def body(made: Expiry) -> None:
        made.add(host.attach("stays", 86400))
        for number in range(5000):
            made.add(host.attach(f"n{number}", 366 * 86400))
            del host.nics[f"n{number}"]
        assert len(made._next) < 200
        host.time += 86401
        made._look()
        assert host.gone == ["stays"]

    run(host, body)
