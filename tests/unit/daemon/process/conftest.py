# SPDX-License-Identifier: LGPL-2.1-or-later
"""A spawner for each test that wants one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.spawned import Spawned


@pytest.fixture
def hooks(tmp_path: Path) -> Path:
    path = tmp_path / "hooks.d"
    path.mkdir(mode=0o755)
    return path


@pytest.fixture
def spawned(tmp_path: Path, hooks: Path) -> Iterator[Spawned]:
    (tmp_path / "networks").mkdir()
    made = Spawned(tmp_path / "networks", hooks)
    yield made
    made.close()
