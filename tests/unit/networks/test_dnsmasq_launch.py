# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.networks.dnsmasq_launch`: what can be seen of it without a dnsmasq.

That one starts, and that strays end: tests/kernel/test_network_restart.py.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tapster.errors import BrokerFailure
from tapster.kernel import process
from tapster.networks import dnsmasq_launch


class Launcher:
    """One that starts nothing."""

    user: str | None = None

    def __init__(self, *capabilities: int) -> None:
        self.capabilities = sum(1 << number for number in capabilities)

    async def start_dnsmasq(self, bridge: str) -> process.Process:
        raise NotImplementedError

    def signal(self, running: process.Process, number: signal.Signals) -> None:
        raise NotImplementedError


NEEDED = process.CAP_NET_BIND_SERVICE, process.CAP_NET_RAW


def test_launcher_with_the_capabilities_of_dnsmasq_will_do() -> None:
    dnsmasq_launch.check_capabilities(Launcher(*NEEDED), "lab")


def test_capability_that_is_missing_is_named() -> None:
    with pytest.raises(BrokerFailure) as caught:
        dnsmasq_launch.check_capabilities(Launcher(NEEDED[0]), "lab")
    assert str(caught.value).startswith(
        "network lab needs dnsmasq, and dnsmasq CAP_NET_RAW"
    )


def test_process_without_our_pid_file_is_not_ours(tmp_path: Path) -> None:
    assert not dnsmasq_launch.is_ours(os.getpid(), str(tmp_path))


def test_log_that_is_too_long_is_emptied(tmp_path: Path) -> None:
    log = tmp_path / "dnsmasq.log"
    dnsmasq_launch.trim_log(str(tmp_path))
    log.write_bytes(b"x" * dnsmasq_launch.LOG_LIMIT)
    dnsmasq_launch.trim_log(str(tmp_path))
    assert log.stat().st_size == dnsmasq_launch.LOG_LIMIT
    log.write_bytes(b"x" * (dnsmasq_launch.LOG_LIMIT + 1))
    dnsmasq_launch.trim_log(str(tmp_path))
    assert log.stat().st_size == 0
