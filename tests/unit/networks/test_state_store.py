# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.networks.state_store`: what must be the same after a reboot, is."""

from __future__ import annotations

import os
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from tapster.networks.state_store import REMEMBERED, NetworkState, StateStore

SUBNET = IPv4Network("10.70.1.0/24")


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    return StateStore(str(tmp_path / "state"))


def test_seed_is_the_same_for_the_next_broker(
    store: StateStore, tmp_path: Path
) -> None:
    assert len(store.seed) == 32
    assert StateStore(str(tmp_path / "state")).seed == store.seed
    assert StateStore(str(tmp_path / "other")).seed != store.seed
    assert (tmp_path / "state/seed").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", [b"", b"00", b"zz" * 32, b"\xff" * 64, b"00" * 15])
def test_damaged_seed_is_replaced_by_a_new_one(
    store: StateStore, tmp_path: Path, text: bytes
) -> None:
    (tmp_path / "state/seed").write_bytes(text)
    again = StateStore(str(tmp_path / "state"))
    assert again.seed != store.seed
    assert StateStore(str(tmp_path / "state")).seed == again.seed


def test_nothing_is_known_of_a_new_instance(store: StateStore) -> None:
    assert store.load("default-1000") == NetworkState()


def test_state_is_loaded_in_the_order_it_was_saved_in(store: StateStore) -> None:
    state = NetworkState(SUBNET, {"web1": "10.70.1.9", "db": "10.70.1.2"})
    store.save("default-1000", state)
    found = store.load("default-1000")
    assert found == state
    assert list(found.guests) == ["web1", "db"]
    assert store.load("default-1001") == NetworkState()


def test_longest_unused_guests_are_forgotten_first(store: StateStore) -> None:
    guests = {f"g{n}": str(SUBNET[0] + n) for n in range(REMEMBERED + 3)}
    store.save("x", NetworkState(SUBNET, guests))
    found = list(store.load("x").guests)
    assert len(found) == REMEMBERED
    assert found[0] == "g3"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"\xff",
        b"{}",
        b'{"subnet4": "10.70.1.0/24"}',
        b'{"subnet4": "10.70.1.0/24", "guests": []}',
        b'{"subnet4": "10.70.1.1/24", "guests": {}}',
        b'{"subnet4": null, "guests": {}}',
        b'{"subnet4": 5, "guests": {}}',
        b'{"subnet4": "10.70.1.0/24", "guests": {"web": "10.70.1.9; x"}}',
        b'{"subnet4": "10.70.1.0/24", "guests": {"web": null}}',
        b"[" * 100_000,
        b'"' + b"x" * (2 << 20) + b'"',
    ],
)
def test_damaged_state_is_put_aside(
    store: StateStore, tmp_path: Path, text: bytes
) -> None:
    path = tmp_path / "state/networks/x.json"
    path.write_bytes(text)
    assert store.load("x") == NetworkState()
    assert not path.exists()
    assert (tmp_path / "state/networks/x.json.damaged").read_bytes() == text


@pytest.mark.parametrize("key", ["", ".", "../x", "a/b", "A", "x" * 102, "a\n"])
def test_text_that_would_leave_the_directory_is_no_key(
    store: StateStore, key: str
) -> None:
    with pytest.raises(ValueError, match="not a key"):
        store.load(key)
    with pytest.raises(ValueError, match="not a key"):
        store.save(key, NetworkState(SUBNET))


def test_saving_leaves_no_unfinished_file(store: StateStore, tmp_path: Path) -> None:
    store.save("x", NetworkState(SUBNET))
    store.save("x", NetworkState(SUBNET))
    assert os.listdir(tmp_path / "state/networks") == ["x.json"]


def test_unfinished_files_of_a_killed_broker_are_removed(
    store: StateStore, tmp_path: Path
) -> None:
    names = ("seed.new", "forwards.json.new", "networks/x.json.new")
    for name in names:
        (tmp_path / "state" / name).write_text("{")
    StateStore(str(tmp_path / "state"))
    assert not any((tmp_path / "state" / name).exists() for name in names)
