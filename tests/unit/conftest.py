# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the tests of clients share: a world without any broker."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest

from tapster import paths


def open_fds() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


@pytest.fixture
def no_leaked_fd() -> Iterator[None]:
    """The test leaves no file descriptor open."""
    gc.collect()
    before = open_fds()
    yield
    gc.collect()
    assert open_fds() == before


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A world without any broker; its runtime directory, with a short path."""
    directory = tempfile.mkdtemp(prefix="tapster-test-")
    monkeypatch.setenv("XDG_RUNTIME_DIR", directory)
    monkeypatch.delenv("TAPSTER_SOCKET", raising=False)
    monkeypatch.setattr(paths, "SYSTEM_SOCKET", f"{directory}/system")
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def path(runtime: str) -> str:
    return f"{runtime}/broker"
