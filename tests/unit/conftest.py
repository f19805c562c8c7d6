# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the tests of clients share: a world without any broker."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator

import pytest

from tapster import paths


def open_fds() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


def are_threads_closing() -> bool:
    """Whether there are threads that may be about to close a descriptor."""
    return any(thread.name.startswith("close") for thread in threading.enumerate())


@pytest.fixture
def no_leaked_fd() -> Iterator[None]:
    """The test leaves no file descriptor open.

    Where the daemon closes taps and connections in threads, a test is over before
    they are, on a busy machine: those threads are waited for.
    """
    gc.collect()
    gc.freeze()  # what is left of earlier tests need not be looked through again
    before = open_fds()
    yield
    gc.collect()
    deadline = time.monotonic() + 2
    while open_fds() != before and are_threads_closing():
        if time.monotonic() > deadline:
            break
        time.sleep(0.001)
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
