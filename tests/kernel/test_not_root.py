# SPDX-License-Identifier: LGPL-2.1-or-later
"""A broker that is user tapster, as data/tapsterd.service has it: its configuration
and its hooks are root's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import USER, Daemon, Lab, until, why_not
from support.host import (
    RUNTIME,
    attach,
    broker_as,
    inside,
    until_nothing_is_left,
)
from support.serving import open_directory
from tapster import errors

BROKER = 23009
HOOK = """#!/bin/sh -e
id -u >> /run/shared/who
nft add table inet site_$1
nft delete table inet site_$1
ip route replace 198.51.100.0/28 dev eth0
"""


@pytest.fixture(scope="module")
def lab(this_machine_is_untouched: None) -> Iterator[Lab]:
    """In a directory that a broker which is not root can get at."""
    if reason := why_not():
        pytest.skip(reason)
    with open_directory() as path, Lab(path) as made:
        made.config("[broker]\nnetwork_grace_seconds = 0.1\n")
        made.host.run("mkdir", "/run/config/hooks.d")
        yield made


def started(lab: Lab) -> Daemon:
    lab.host.run("install", "-d", f"-o{BROKER}", f"-g{BROKER}", "/run/shared")
    return broker_as(lab, BROKER)


@pytest.mark.parametrize("what", ["", "/tapster.toml"])
def test_a_configuration_of_the_brokers_own_user_opens_nothing(
    lab: Lab, what: str
) -> None:
    """dnsmasq, which talks to guests, is that user, too."""
    path = inside(lab, f"/run/config{what}")
    os.chown(path, BROKER, BROKER)
    try:
        daemon = started(lab)
        assert f"/run/config{what}: belongs to uid {BROKER}, not to root" in daemon.log
        with pytest.raises(errors.BrokerFailure, match="configuration is wrong"):
            attach(lab, USER)
    finally:
        os.chown(path, 0, 0)
    assert daemon.stop() == 0


def test_roots_hooks_run_as_the_brokers_user(lab: Lab) -> None:
    path = Path(inside(lab, "/run/config/hooks.d/10-a"))
    path.write_text(HOOK)
    path.chmod(0o700)
    daemon = started(lab)
    with pytest.raises(errors.BrokerFailure, match="a hook refused"):
        attach(lab, USER)
    assert f"{path.name}: Permission denied" in daemon.log
    path.chmod(0o755)
    with attach(lab, USER):
        assert lab.host.run("ip", "route", "show", "198.51.100.0/28").stdout
    for owner in (BROKER, USER):
        os.chown(path, owner, owner)
        with pytest.raises(errors.BrokerFailure, match="a hook refused"):
            attach(lab, USER)
    os.chown(path, 0, 0)
    until_nothing_is_left(lab, networks=True)
    due = inside(lab, f"{RUNTIME}/hooks-due")
    until("all are told", lambda: not os.listdir(due))
    assert set(lab.host.run("cat", "/run/shared/who").stdout.split()) == {str(BROKER)}
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.log, daemon.log
