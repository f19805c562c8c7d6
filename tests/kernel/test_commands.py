# SPDX-License-Identifier: LGPL-2.1-or-later
"""The commands that change or show a NIC, as users of a real broker run them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from lab import OTHER, USER, Daemon, Lab
from support.host import attach, links, nics
from support.serving import serving

CONFIG = f"""
[broker]
network_grace_seconds = 0.2
[networks.default]
[networks.hour]
[networks.managed]
[[rules]]
networks = ["default"]
[[rules]]
networks = ["hour"]
ttl = 3600
[[rules]]
users = [{OTHER}]
networks = ["managed"]
manage = true
[[rules]]
networks = ["managed"]
"""


@pytest.fixture(scope="module")
def daemon(lab: Lab) -> Iterator[Daemon]:
    with serving(lab, CONFIG) as running:
        yield running


def run(lab: Lab, user: int | None, *words: str) -> tuple[int, str, str]:
    """Status, stdout and stderr of `tapster` as run by that user."""
    done = lab.host.run(*lab.tapster(*words), user=user, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("by_name", [True, False])
def test_detach_takes_ones_own_away_whoever_holds_it(
    lab: Lab, held: ExitStack, by_name: bool
) -> None:
    nic = held.enter_context(attach(lab, USER, name="web"))
    other = held.enter_context(attach(lab, OTHER, name="web"))
    status, told, said = run(lab, USER, "detach", "web" if by_name else nic.ifname)
    assert (status, said) == (0, "")
    assert told == f"{nic.ifname} is detached: web of {USER}, on default\n"
    assert links(lab.host, "tapster") == [other.ifname]


def test_detach_does_not_know_what_is_anothers_from_what_is_not_there(
    lab: Lab, held: ExitStack
) -> None:
    other = held.enter_context(attach(lab, OTHER, name="web"))
    answers = {
        run(lab, USER, "detach", word)
        for word in (other.ifname, "web", "tapstern000000", "eth0", "", "a b", "../x")
    }
    ((status, told, said),) = answers
    assert (status, told) == (1, "")
    assert said.startswith("tapster: ") and said.count("\n") == 1
    assert links(lab.host, "tapster") == [other.ifname]


@pytest.mark.parametrize("user", [OTHER, None])
def test_detach_of_others_is_by_the_tap_for_who_manages_them(
    lab: Lab, held: ExitStack, user: int | None
) -> None:
    nic = held.enter_context(attach(lab, USER, network="managed", name="web"))
    assert run(lab, user, "detach", "web")[0] == 1
    assert links(lab.host, "tapster") == [nic.ifname]
    status, told, _ = run(lab, user, "detach", nic.ifname)
    assert status == 0
    assert told == f"{nic.ifname} is detached: web of {USER}, on managed\n"
    assert nics(lab) == []


def test_ls_shows_when_a_nic_is_taken_away_where_one_is(
    lab: Lab, held: ExitStack
) -> None:
    held.enter_context(attach(lab, USER, name="web"))
    assert "EXPIRES" not in run(lab, USER, "ls")[1]
    held.enter_context(attach(lab, USER, network="hour", name="guest"))
    head, *rows = run(lab, USER, "ls")[1].splitlines()
    at = head.index("EXPIRES")
    ends = {row.split()[0]: row[at:] for row in rows}
    told = {
        n["name"]: n["expires"] for n in json.loads(run(lab, USER, "ls", "--json")[1])
    }
    assert ends["web"] == "" and told["web"] is None
    assert ends["guest"].count(":") == 2 and told["guest"].endswith("+00:00")
