# SPDX-License-Identifier: LGPL-2.1-or-later
"""`watch.orphans`: who comes and goes fast keeps no place on its list."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from tapster.daemon.watch.orphans import AT_ONCE, OrphanReaper
from tapster.kernel import rtnetlink


def test_nics_that_are_gone_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    here: dict[str, Any] = {}
    looked: list[int] = []
    netlink: Any = None
    bridges: Any = None
    ledger: Any = SimpleNamespace(by_ifname=here.get)
    detacher: Any = SimpleNamespace(gone=lambda nic: here.pop(nic.ifname, None))
    monkeypatch.setattr(rtnetlink, "get_link", lambda _, index: looked.append(index))

    async def body() -> None:
        swept = OrphanReaper(netlink, ledger, bridges, detacher)
        for number in range(1000):
            nic: Any = SimpleNamespace(ifname=f"tapstern{number}", ifindex=number)
            if number >= 1000 - AT_ONCE - 1:
                here[nic.ifname] = nic
            swept.add(nic)
        swept._look()
        assert len(looked) == AT_ONCE
        assert len(swept._list) == 1
        swept.stop()

    asyncio.run(body())
    assert min(looked) == 1000 - AT_ONCE - 1
