# SPDX-License-Identifier: LGPL-2.1-or-later
"""`publish/forward_table.py`: which forwards there are, and their file."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from support.builders import make_nic
from tapster.daemon.publish import forward_table
from tapster.daemon.publish.forward_table import ForwardTable, Row
from tapster.model import Forward, Port, State


class HeldPort:
    """A socket that is open until it is closed."""

    def __init__(self) -> None:
        self.is_open = True

    def close(self) -> None:
        self.is_open = False


@pytest.fixture(autouse=True)
def taken(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The ports that other programs have; no real one is bound."""
    ports: set[int] = set()

    def hold(port: Port) -> list[Any]:
        if port.first in ports:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        return [HeldPort()]

    monkeypatch.setattr(forward_table, "hold", hold)
    return ports


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "forwards.json"


def make_row(number: int = 8080, uid: int | None = 1000, guest: str = "web") -> Row:
    forward = Forward(Port("tcp", number, number), guest, 80)
    return Row("default", uid, forward)


def test_users_forwards_are_there_for_the_next_broker(path: Path) -> None:
    table = ForwardTable(str(path))
    table.insert_held(make_row(8080))
    table.insert_held(make_row(8081, uid=None))  # of the configuration
    table.save()
    (row,) = ForwardTable(str(path))
    assert (row.network, row.uid) == ("default", 1000) and row.sockets
    assert str(row.forward) == "tcp/8080 web:80"


def test_a_row_whose_port_is_taken_waits_for_it(path: Path, taken: set[int]) -> None:
    taken.add(8080)
    table, row = ForwardTable(str(path)), make_row()
    table.insert_held(row)
    assert table.get(row.key) is row and not row.sockets
    with pytest.raises(OSError):
        row.hold_port()
    taken.clear()
    row.hold_port()
    assert row.sockets


def test_a_row_that_is_deleted_lets_its_port_go(path: Path) -> None:
    table, row = ForwardTable(str(path)), make_row()
    table.insert_held(row)
    (held,) = row.sockets
    table.delete(row)
    assert not held.is_open  # type: ignore[attr-defined]
    assert len(table) == 0 and table.get(row.key) is None


def test_a_users_forwards_are_counted(path: Path) -> None:
    table = ForwardTable(str(path))
    for number, uid in ((1, 1000), (2, 1000), (3, 1001), (4, None)):
        table.insert_held(make_row(number, uid))
    assert [table.count(uid) for uid in (1000, 1001, 0)] == [2, 1, 0]


@pytest.mark.parametrize("text", ["", "{", "1", "null", '{"a": 1}', '["x"]', "[[]]"])
def test_a_damaged_file_is_logged_and_gives_no_rows(
    path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_text(text)
    assert len(ForwardTable(str(path))) == 0
    assert "forwards.json is damaged" in caplog.text


@pytest.mark.parametrize(
    "entry",
    [
        ["default", 1000, "tcp/8081", "web"],
        ["default", True, "tcp/8081", "web", 80],
        ["default", -1, "tcp/8081", "web", 80],
        ["default", 2**32, "tcp/8081", "web", 80],
        ["default", None, "tcp/8081", "web", 80],
        ["a b", 1000, "tcp/8081", "web", 80],
        ["default", 1000, "tcp/0", "web", 80],
        ["default", 1000, "tcp/8081-8082", "web", 80],
        ["default", 1000, 8081, "web", 80],
        ["default", 1000, "tcp/8081", "web; drop", 80],
        ["default", 1000, "tcp/8081", "web", 0],
        ["default", 1000, "tcp/8081", "web", 65536],
        ["default", 1000, "tcp/8080", "other", 80],  # the port is forwarded already
    ],
)
def test_a_damaged_row_takes_no_other_along(
    path: Path, entry: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    good = ["default", 1000, "tcp/8080", "web", 80]
    path.write_text(json.dumps([good, entry]))
    (row,) = ForwardTable(str(path))
    assert str(row.forward) == "tcp/8080 web:80" and "a forward is lost" in caplog.text


def test_a_row_is_for_the_active_guest_of_its_name_user_and_network() -> None:
    row = make_row()
    assert row.matches(make_nic(name="web"))
    for other in (
        make_nic(name="db"),
        make_nic(name="web", uid=1001),
        make_nic(name="web", network="lab"),
        make_nic(name="web", state=State.WAITING),
        make_nic(name="web", ipv4=None),
    ):
        assert not row.matches(other)


def test_a_row_of_the_configuration_is_for_any_users_guest() -> None:
    assert make_row(uid=None).matches(make_nic(name="web", uid=4711))
