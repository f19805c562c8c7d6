# SPDX-License-Identifier: LGPL-2.1-or-later
"""`daemon.attach`: what becomes of a request that fails."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from support.builders import make_peer
from tapster.daemon.attach import Attacher
from tapster.daemon.audit.request_context import RequestContext
from tapster.model import AttachRequest


def test_an_error_that_nobody_foresaw_is_on_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def attach(*_: Any) -> None:
        raise ZeroDivisionError

    failed: list[str] = []
    attacher: Any = Attacher.__new__(Attacher)
    attacher._events = SimpleNamespace(failed=lambda _, reason: failed.append(reason))
    monkeypatch.setattr(Attacher, "_attach_when_gone", attach)
    context = RequestContext(make_peer(), "attach")
    with pytest.raises(ZeroDivisionError):
        asyncio.run(attacher.attach(context, AttachRequest()))
    assert len(failed) == 1
