# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.networks.network_record`: an instance is found again as it was made."""

from __future__ import annotations

import json
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

import pytest

from tapster.model import NetworkDefinition, Scope
from tapster.networks.network_record import NetworkRecord, read_record, write_record

BRIDGE = "tapbr00000001"
SUBNET4 = IPv4Network("10.70.1.0/24")
SUBNET6 = IPv6Network("fd00:1:2:3::/64")
OWN = NetworkRecord(NetworkDefinition("default"), 1000, BRIDGE, SUBNET4, SUBNET6)
SHARED = NetworkRecord(
    NetworkDefinition("lab", scope=Scope.SHARED), None, BRIDGE, SUBNET4, None
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / BRIDGE


def changed(directory: Path, **values: Any) -> None:
    """Write a record of which some values are others; None: they are missing."""
    write_record(str(directory), OWN)
    path = directory / "network.json"
    data = json.loads(path.read_text()) | values
    path.write_text(json.dumps({k: v for k, v in data.items() if v is not None}))


@pytest.mark.parametrize("record", [OWN, SHARED, OWN._replace(uid=0)])
def test_record_is_read_as_it_was_written(
    directory: Path, record: NetworkRecord
) -> None:
    for _ in range(2):
        write_record(str(directory), record)
    assert read_record(str(directory)) == record


def test_record_of_a_broker_that_knew_one_kind_of_network_is_read(
    directory: Path,
) -> None:
    changed(directory, definition=None, network="default")
    assert read_record(str(directory)) == OWN


def test_record_that_is_not_there_is_told_apart(directory: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_record(str(directory))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("uid", "1000"),
        ("uid", True),
        ("uid", -1),  # of a network that is not shared
        ("uid", -2),
        ("uid", 2**32),
        ("uid", None),
        ("bridge", "tapbr00000002"),
        ("bridge", 7),
        ("subnet4", "10.70.1.0/32"),
        ("subnet4", 7),
        ("subnet6", "fd00::/48"),
        ("definition", []),
        ("definition", {"name": "default"}),
    ],
)
def test_record_that_makes_no_sense_is_refused(
    directory: Path, name: str, value: Any
) -> None:
    changed(directory, **{name: value})
    with pytest.raises(ValueError, match=r"."):
        read_record(str(directory))


def test_record_of_a_bridge_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    write_record(str(tmp_path / "br0"), OWN._replace(bridge="br0"))
    with pytest.raises(ValueError, match="another bridge"):
        read_record(str(tmp_path / "br0"))
