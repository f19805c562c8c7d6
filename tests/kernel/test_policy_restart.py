# SPDX-License-Identifier: LGPL-2.1-or-later
"""The policy over the broker's restarts: quotas and times go on, and a
configuration that is wrong at the start opens nothing."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from lab import OTHER, USER, Daemon, Lab, until
from support.host import (
    ask,
    attach,
    broker,
    leftovers,
    links,
    nics,
    ruleset,
    until_nothing_is_left,
)
from support.managing import reload
from tapster import errors
from tapster.client.connection import Connection, close_all

POLICY = f"""
[broker]
network_grace_seconds = 0.2
[networks.office]
scope = "shared"
isolation = false
[networks.small]
scope = "shared"
max_nics = 3
[[rules]]
networks = ["default", "small"]
[[rules]]
users = [{USER}]
networks = ["office"]
max_nics = 2
[[rules]]
users = [{OTHER}]
networks = ["office"]
ttl = 3
"""


class Host:
    """A broker that is another process from time to time."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.daemon: Daemon

    def start(self, config: str = POLICY) -> None:
        self.lab.config(config)
        self.daemon = self.lab.daemon("--config", "/run/config")

    def restart(
        self, config: str = POLICY, number: signal.Signals = signal.SIGKILL
    ) -> None:
        self.daemon.stop(number)
        self.start(config)


@pytest.fixture
def host(lab: Lab) -> Iterator[Host]:
    lab.bridge_conf("")
    made = Host(lab)
    made.start()
    yield made
    until_nothing_is_left(lab, networks=True)
    assert made.daemon.stop() == 0
    assert leftovers(lab) == [] and ruleset(lab.host) == []
    assert "Traceback" not in made.daemon.log, made.daemon.log


@pytest.fixture
def held(host: Host) -> Iterator[ExitStack]:
    """What is open for a test."""
    with ExitStack() as stack:
        yield stack


def test_nics_from_before_a_restart_count_for_quotas(
    lab: Lab, host: Host, held: ExitStack
) -> None:
    held.enter_context(attach(lab, USER, network="office", name="a"))
    held.enter_context(attach(lab, USER, network="office", name="b"))
    last = held.enter_context(attach(lab, USER, network="small"))
    host.restart()
    with pytest.raises(errors.QuotaExceeded):
        attach(lab, USER, network="office", name="web-3").close()
    for uid in (OTHER, 3000):
        held.enter_context(attach(lab, uid, network="small"))
    with pytest.raises(errors.QuotaExceeded):
        attach(lab, 0, network="small").close()
    last.close()
    held.enter_context(attach(lab, 0, network="small"))


def test_a_nic_from_before_a_restart_is_taken_away_in_time(
    lab: Lab, host: Host, held: ExitStack
) -> None:
    held.enter_context(attach(lab, OTHER, network="office", name="a"))
    host.restart()
    assert len(nics(lab)) == 1
    until("it is gone", lambda: not nics(lab))
    assert links(lab.host, "tapster") == []


def test_two_hundred_requests_at_once_get_what_the_quota_says(
    lab: Lab, host: Host, held: ExitStack
) -> None:
    host.restart(
        "[broker]\nnetwork_grace_seconds = 0.2\n"
        "[limits]\nconnections_per_user = 256\n"
        '[[rules]]\nnetworks = ["default"]\nmax_nics = 10\n'
    )
    results: list[int | errors.TapsterError] = []
    start = threading.Barrier(200)

    def request(connection: Connection) -> None:
        start.wait()
        try:
            results.extend(connection.call("Attach", {}, fds=True)[1])
        except errors.TapsterError as error:
            results.append(error)

    with ExitStack() as stack:
        threads = []
        for _ in range(200):
            connection = stack.enter_context(broker(lab, USER, timeout=60))
            threads.append(threading.Thread(target=request, args=[connection]))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        got = Counter(
            "fd" if isinstance(result, int) else type(result).__name__
            for result in results
        )
        there = links(lab.host, "tapster")
        close_all([result for result in results if isinstance(result, int)])
    assert got == {"fd": 10, "QuotaExceeded": 190}
    assert len(there) == 10


def test_a_broker_that_starts_with_broken_files_serves_nothing_by_them(
    lab: Lab, host: Host, held: ExitStack
) -> None:
    lab.bridge_conf("allow all\n")
    host.restart("[[rules]\n")
    assert "/run/config/tapster.toml:1:" in host.daemon.log
    for uid in (USER, 0):
        wanted: dict[str, str]
        for wanted in ({}, {"bridge": "br7"}, {"network": "nowhere"}):
            with pytest.raises(errors.BrokerFailure, match="is wrong"):
                attach(lab, uid, **wanted).close()
        info = ask(lab, uid, "GetInfo")
        assert info["networks"] == info["bridges"] == []
        # What is in the file is not everybody's to read.
        (found,) = findings(lab, uid)
        assert ("tapster.toml:1:" in found["message"]) is (uid == 0)
    # It is corrected without a restart.
    lab.config(POLICY)
    reload(lab)
    held.enter_context(attach(lab, USER))
    assert findings(lab, USER) == []


def findings(lab: Lab, uid: int) -> list[dict[str, Any]]:
    """What Diagnose tells that user of the configuration."""
    found = ask(lab, uid, "Diagnose")["findings"]
    return [finding for finding in found if finding["code"] == "configuration"]


def test_running_guests_stay_where_a_broker_starts_with_broken_files(
    lab: Lab, host: Host, held: ExitStack
) -> None:
    nic = held.enter_context(attach(lab, USER, network="office", name="db"))
    host.restart("[networks.office]\nmode = 7\n")
    assert [row["ifname"] for row in nics(lab, USER)] == [nic.ifname]
    with pytest.raises(errors.BrokerFailure):
        attach(lab, USER, network="office", name="web-1").close()
    lab.config(POLICY)
    reload(lab)
    held.enter_context(attach(lab, USER, network="office", name="web-1"))
