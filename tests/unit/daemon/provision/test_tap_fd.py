# SPDX-License-Identifier: LGPL-2.1-or-later
"""`daemon.provision.tap_fd`: a tap's descriptor is closed, whoever has to do it."""

from __future__ import annotations

import os
import threading

import pytest

from tapster.daemon.provision.tap_fd import TapDescriptor


def test_a_tap_is_closed_where_no_thread_can_be_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(TapDescriptor, "_threads", [])
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    fd = os.dup(0)
    TapDescriptor(fd).close()
    assert not os.path.exists(f"/proc/self/fd/{fd}")
    assert not TapDescriptor._threads
