# SPDX-License-Identifier: LGPL-2.1-or-later
"""A journal that tests read."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield str(tmp_path_factory.mktemp("j") / "s")


@pytest.fixture
def received(place: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(place)
        sock.settimeout(5)
        yield sock
