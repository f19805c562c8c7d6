# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hooks/pending.py`: what is written down of hooks that have to run for an end."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.builders import make_nic
from tapster.daemon.publish.hooks import payload
from tapster.daemon.publish.hooks.pending import PendingEnd, PendingEnds, parse

NIC = make_nic(
    ifname="tapsternaaaaaaa",
    bridge="br0",
    network=None,
    pid=12,
    mac="52:54:00:00:00:01",
    ipv4="10.0.0.2",
)


@pytest.fixture
def pending_ends(tmp_path: Path) -> PendingEnds:
    return PendingEnds(str(tmp_path / "hooks-due"))


def make_end() -> PendingEnd:
    """One that is cut off in the middle."""
    return PendingEnd(NIC.ifname, payload.of_nic(NIC), ["10-a", "20-b"], "10-a")


def test_no_directory_is_made_for_nothing(pending_ends: PendingEnds) -> None:
    assert list(pending_ends.all()) == []
    pending_ends.remove(make_end())
    assert not os.path.exists(pending_ends.directory)


def test_what_is_written_is_read_by_the_next_broker(pending_ends: PendingEnds) -> None:
    pending_ends.write(make_end())
    assert list(pending_ends.all()) == [make_end()]
    pending_ends.remove(make_end())
    assert os.listdir(pending_ends.directory) == []


def test_the_files_are_nobody_elses(pending_ends: PendingEnds) -> None:
    pending_ends.write(make_end())
    assert os.stat(pending_ends.directory).st_mode & 0o777 == 0o700
    assert os.stat(pending_ends.path(NIC.ifname)).st_mode & 0o777 == 0o600


def test_a_file_that_was_not_finished_does_not_count(pending_ends: PendingEnds) -> None:
    pending_ends.write(make_end())
    Path(pending_ends.path("x.new")).write_text("{")
    assert list(pending_ends.all()) == [make_end()]
    assert os.listdir(pending_ends.directory) == [NIC.ifname]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '"x"', "[" * 9999])
def test_a_damaged_file_is_logged_and_removed(
    pending_ends: PendingEnds, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    pending_ends.write(make_end())
    Path(pending_ends.path(NIC.ifname)).write_text(text)
    assert list(pending_ends.all()) == []
    assert os.listdir(pending_ends.directory) == [] and "is damaged" in caplog.text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("words", {}),
        ("words", {"ifname": NIC.ifname}),
        ("words", {**payload.of_nic(NIC), "ifname": "other"}),
        ("words", {**payload.of_nic(NIC), "name": ["x"]}),
        ("words", {**payload.of_nic(NIC), "more": 1}),
        ("words", {**payload.of_nic(NIC), "uid": "x"}),
        ("words", {**payload.of_nic(NIC), "uid": None}),
        ("begun", "10-a"),
        ("begun", [1]),
        ("begun", ["../x"]),
        ("ending", "30-c"),
        ("ending", 1),
    ],
)
def test_what_no_broker_wrote_is_refused(key: str, value: Any) -> None:
    wanted = make_end()
    data = {"words": wanted.payload, "begun": wanted.begun, "ending": wanted.ending}
    assert parse(NIC.ifname, data) == wanted
    with pytest.raises((ValueError, TypeError, KeyError)):
        parse(NIC.ifname, {**data, key: value})


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
))  # fmt: skip
def test_any_other_json_is_refused(data: Any) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        parse(NIC.ifname, data)
