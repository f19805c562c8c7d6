# SPDX-License-Identifier: LGPL-2.1-or-later
"""`nics.record`: what is written for the next broker, and what of it is believed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from support.builders import make_nic
from tapster.daemon.nics.nic import Nic
from tapster.daemon.nics.record import FIELDS, RecordDirectory, from_json, to_json
from tapster.model import State


@pytest.fixture
def records(tmp_path: Path) -> RecordDirectory:
    return RecordDirectory(str(tmp_path / "nics"))


def nic() -> Nic:
    return make_nic(ifname="tapster1")


GOOD = json.loads(to_json(nic()))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\0",
        "[]",
        "null",
        "{}",
        json.dumps(GOOD | {"more": 1}),
        json.dumps(GOOD | {"handed_out": True}),
        json.dumps({k: v for k, v in GOOD.items() if k != "uid"}),
        json.dumps(GOOD | {"uid": "1000"}),
        json.dumps(GOOD | {"uid": None}),
        json.dumps(GOOD | {"mac": 1}),
        json.dumps(GOOD | {"state": "asleep"}),
        json.dumps(GOOD | {"ifname": "tapster2"}),
        "\udcff",
        "[" * 100_000,
        json.dumps(GOOD | {"reason": "x" * 100_000}),
        *(
            json.dumps(GOOD | {name: value})
            for name, value in [
                ("uid", True),
                ("uid", -1),
                ("uid", 2**32),
                ("ifindex", 0),
                ("ifindex", 2**40),
                ("bridge_index", -1),
                ("bridge", "a/b"),
                ("mtu", -1),
                ("rate_egress", -5),
                ("rate_ingress", 10**30),
                ("mac", "02:00:00:00:00:0g"),
                ("mac", "02:00:00:00:00:01 } ; flush ruleset"),
                ("mac", None),
                ("host_mac", "x"),
                ("ipv4", "10.70.1"),
                ("ipv4", "10.70.1.2, 10.70.1.3"),
                ("ipv6", "10.70.1.2"),
                ("name", "a\nb"),
                ("user", "a" * 300),
                ("macs", [1]),
                ("macs", "52:*"),
                ("expires", 5),
                ("expires", float("nan")),
                ("expires", float("inf")),
                ("share", "\0"),
            ]
        ),
    ],
)
def test_a_damaged_record_goes(
    records: RecordDirectory, tmp_path: Path, text: str
) -> None:
    path = tmp_path / "nics" / "tapster1"
    path.write_bytes(text.encode(errors="surrogateescape"))
    assert list(records.read_all()) == []
    assert not path.exists()


def test_a_record_of_an_older_broker_is_read(
    records: RecordDirectory, tmp_path: Path
) -> None:
    """Of one that knew fewer properties: what they say by default."""
    first = ("ifname", "ifindex", "bridge", "bridge_index", "network", "uid", "user",
             "pid", "name", "mac", "ipv4", "ipv6", "mtu", "state")  # fmt: skip
    text = json.dumps({name: GOOD[name] for name in first})
    (tmp_path / "nics/tapster1").write_text(text)
    assert list(records.read_all()) == [nic()]


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_record_that_others_may_write_to_is_not_believed(
    records: RecordDirectory, tmp_path: Path, mode: int
) -> None:
    records.write(nic())
    os.chmod(tmp_path / "nics/tapster1", mode)
    assert list(RecordDirectory(str(tmp_path / "nics")).read_all()) == []


def test_what_is_no_file_is_removed(records: RecordDirectory, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text(json.dumps(GOOD))
    (tmp_path / "nics/tapster1").symlink_to(elsewhere)
    (tmp_path / "nics/tapster2/inner").mkdir(parents=True)
    os.mkfifo(tmp_path / "nics/tapster3")
    assert list(records.read_all()) == []
    assert os.listdir(tmp_path / "nics") == []
    assert elsewhere.exists()


def test_a_directory_is_its_owners_alone(tmp_path: Path) -> None:
    directory = tmp_path / "nics"
    directory.mkdir(mode=0o777)
    os.chmod(directory, 0o777)
    RecordDirectory(str(directory))
    assert directory.stat().st_mode & 0o777 == 0o700
    directory.rmdir()
    directory.symlink_to(tmp_path)
    with pytest.raises(OSError, match="Not a directory"):
        RecordDirectory(str(directory))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_belongs_to_another_is_not_believed(
    records: RecordDirectory, tmp_path: Path
) -> None:
    records.write(nic())
    os.chown(tmp_path / "nics/tapster1", 65534, 65534)
    assert list(RecordDirectory(str(tmp_path / "nics")).read_all()) == []
    os.chown(tmp_path / "nics", 65534, 65534)
    with pytest.raises(OSError, match="belongs to uid 65534"):
        RecordDirectory(str(tmp_path / "nics"))


def test_records_are_private(records: RecordDirectory, tmp_path: Path) -> None:
    records.write(nic())
    assert (tmp_path / "nics").stat().st_mode & 0o077 == 0
    assert (tmp_path / "nics/tapster1").stat().st_mode & 0o007 == 0


def test_a_record_is_removed_once(records: RecordDirectory) -> None:
    records.write(nic())
    records.remove("tapster1")
    records.remove("tapster1")
    assert list(records.read_all()) == []


def test_a_record_has_each_field_but_one(records: RecordDirectory) -> None:
    one = make_nic(macs=("52:54:00:*",), expires=1.5, share="kvm", handed_out=False)
    written = json.loads(to_json(one))
    assert tuple(written) == FIELDS
    assert "handed_out" not in written
    assert written["macs"] == ["52:54:00:*"]
    again = from_json(written)
    assert again.handed_out
    assert {name: getattr(again, name) for name in FIELDS} == {
        name: getattr(one, name) for name in FIELDS
    }


def test_an_interrupted_replacement_loses_nothing(
    records: RecordDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = make_nic(mac=None, state=State.WAITING)
    records.write(waiting)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        records.replace(make_nic())
    monkeypatch.undo()
    assert list(RecordDirectory(str(tmp_path / "nics")).read_all()) == [waiting]
    assert os.listdir(tmp_path / "nics") == [waiting.ifname]
