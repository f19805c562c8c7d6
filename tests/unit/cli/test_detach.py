# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster detach`: which NIC is meant, and what it says was done."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.broker import NIC, FakeBroker, encode, error, say
from support.command import tapster
from tapster.cli import detach
from tapster.errors import UsageError

pytestmark = pytest.mark.usefixtures("no_leaked_fd")

ME = os.geteuid()
MINE = {**NIC, "uid": ME}
OTHERS = {**NIC, "ifname": "tapster2", "name": "db", "uid": ME + 1, "user": "bob"}


def listing(*nics: dict[str, Any]) -> bytes:
    return encode({"nics": list(nics)})


def run(path: str, word: str, *nics: dict[str, Any]) -> tuple[str, list[str]]:
    """What it prints, and whose ifname it sends."""
    with FakeBroker(path, say(listing(*nics)), say(encode({}))) as broker:
        done = tapster("detach", word, broker=path)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = broker.requests
    assert first["method"] == "io.tapster.Broker.List"
    assert second["method"] == "io.tapster.Broker.Detach"
    return done.stdout, list(second["parameters"].values())


@pytest.mark.parametrize("word", ["tapster1", "web1", "WEB1"])
def test_detach_finds_a_nic_by_ifname_or_by_guest(path: str, word: str) -> None:
    told, sent = run(path, word, OTHERS, MINE)
    assert told == "tapster1 is detached: web1 of alice, on default\n"
    assert sent == ["tapster1"]


def test_detach_from_a_linux_bridge_names_the_bridge(path: str) -> None:
    told, _ = run(path, "web1", {**MINE, "network": None, "name": "web1"})
    assert told == "tapster1 is detached: web1 of alice, on tapbr1\n"


def test_nic_of_another_user_is_found_by_ifname_alone(path: str) -> None:
    told, sent = run(path, "tapster2", OTHERS, MINE)
    assert told == "tapster2 is detached: db of bob, on default\n"
    assert sent == ["tapster2"]
    told, sent = run(path, "db", OTHERS, MINE)
    assert sent == ["db"]  # which no tap is called: the broker says so


def test_ifname_wins_over_a_guest_of_that_name(path: str) -> None:
    imposter = {**MINE, "name": "tapster2"}
    assert run(path, "tapster2", imposter, OTHERS)[1] == ["tapster2"]


def test_nic_that_is_not_listed_is_asked_for_all_the_same(path: str) -> None:
    """Polkit, which was not asked for the list, may let one manage it."""
    told, sent = run(path, "tapster7")
    assert (told, sent) == ("tapster7 is detached\n", ["tapster7"])


def test_guest_with_two_nics_is_a_usage_error(path: str) -> None:
    two = {**MINE, "ifname": "tapster3", "network": "lan"}
    with FakeBroker(path, say(listing(MINE, two))) as broker:
        done = tapster("detach", "web1", broker=path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "tapster: 'web1' has 2 NICs (name one: tapster1, tapster3)\n"
    )
    assert len(broker.requests) == 1


def test_refused_detach_is_one_line_with_its_hint(path: str) -> None:
    name = "io.tapster.Broker.NoSuchNic"
    no = error(name, message="there is no such NIC", hint="see 'tapster ls'")
    with FakeBroker(path, say(listing()), say(no)):
        done = tapster("detach", "x", broker=path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "tapster: there is no such NIC (see 'tapster ls')\n"


WORDS = st.sampled_from(["a", "b", "tapster1", "tapster2"])
NICS = st.builds(
    lambda ifname, name, uid: {**NIC, "ifname": ifname, "name": name, "uid": uid},
    WORDS,
    WORDS,
    st.integers(0, 2),
)


@given(WORDS, st.lists(NICS, max_size=5, unique_by=lambda nic: nic["ifname"]))
def test_any_word_finds_an_ifname_or_else_ones_own_guest(
    word: str, nics: list[dict[str, Any]]
) -> None:
    by_ifname = [nic for nic in nics if nic["ifname"] == word]
    by_name = [nic for nic in nics if nic["name"] == word and nic["uid"] == 1]
    try:
        found = detach.find(word, nics, 1)
    except UsageError:
        assert not by_ifname and len(by_name) > 1
        return
    assert found == next(iter(by_ifname + by_name), None)


@given(st.text(), st.text(), st.text())
def test_detached_nic_is_one_printable_line(ifname: str, name: str, user: str) -> None:
    nic = {**NIC, "name": name, "user": user}
    assert detach.line(ifname, nic).isprintable()
    assert detach.line(ifname, None).isprintable()
