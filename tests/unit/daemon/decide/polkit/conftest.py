# SPDX-License-Identifier: LGPL-2.1-or-later
"""A bus, and a client that polkit may be asked about.

Each test that runs an event loop does so with tasks that start eagerly, as the
daemon's do, and with others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from fakes.bus import FakeBus
from support.polkit_client import Body, Connected, Run
from tapster.daemon.decide.polkit.client import Polkit
from tapster.daemon.decide.polkit.subject import Subject
from tapster.daemon.process import eager_tasks


@pytest.fixture(params=[eager_tasks.factory, None], ids=["eager", "plain"])
def run(request: pytest.FixtureRequest, path: str) -> Run:
    """Run a test's body, as a callback of the loop starts it: without a task."""

    def run_it(body: Body) -> None:
        async def whole() -> None:
            loop = asyncio.get_running_loop()
            loop.set_task_factory(request.param)
            asking = Polkit(f"unix:path={path}")
            async with FakeBus(path) as fake:
                done = loop.create_future()
                loop.call_soon(lambda: asyncio.ensure_future(body(fake, asking))
                               .add_done_callback(done.set_result))  # fmt: skip
                try:
                    (await asyncio.wait_for(done, 30)).result()
                finally:
                    asking.close()

        asyncio.run(whole())

    return run_it


@pytest.fixture
def client() -> Iterator[Connected]:
    with Connected() as connected:
        yield connected


@pytest.fixture
def anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients may have the uids that they were given."""
    monkeypatch.setattr(Subject, "_identify", lambda *_: 1)
