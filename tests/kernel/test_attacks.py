# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every attack of tests/attack, on tapster: held. `make attack` has the peer, too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from attack import registry
from attack.column import made, run
from attack.ours import TapsterSite
from attack.registry import GROUPS, Attack
from lab import why_not
from support import host

ATTACKS = registry.load()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "attack" in metafunc.fixturenames:
        chosen = [a for a in ATTACKS if a.group == metafunc.cls.group]
        metafunc.parametrize("attack", chosen, ids=[a.name for a in chosen])


@pytest.fixture(scope="class")
def site(request: pytest.FixtureRequest) -> Iterator[TapsterSite]:
    """One host for a group; at its end the broker has left nothing."""
    if reason := why_not():
        pytest.skip(reason)
    with made("tapster") as site:
        assert isinstance(site, TapsterSite)
        yield site
        site.close()
        log = site.daemon.log
        assert site.daemon.process.returncode == 0, log
        assert host.leftovers(site.lab) == [], log
        assert "Traceback" not in log, log


class Group:
    group = ""

    def test_holds(self, site: TapsterSite, attack: Attack) -> None:
        outcome = run(attack, site)
        assert outcome.held is not None, str(outcome)  # its control failed
        if attack.known:
            assert not outcome.held, "it is closed, and no longer known to work"
        else:
            assert outcome.held, str(outcome)


class TestHolder(Group):
    group = "holder"


class TestDevice(Group):
    group = "device"


class TestFrames(Group):
    group = "frames"


class TestSegment(Group):
    group = "segment"


class TestRouted(Group):
    group = "routed"


class TestClients(Group):
    group = "clients"


class TestBroker(Group):
    group = "broker"


class TestPolicy(Group):
    group = "policy"


def test_there_are_many_and_few_are_known_to_work() -> None:
    assert len([a for a in ATTACKS if not a.known]) >= 40
    tested = {cls.group for cls in Group.__subclasses__()}
    assert {a.group for a in ATTACKS} == tested == set(GROUPS)
    assert [a.name for a in ATTACKS if a.known] == [
        "5,000 multicast groups joined",
        "checksum put elsewhere by the virtio header",
    ]
