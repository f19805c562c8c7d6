# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.networks.guest_files`: a guest has a reservation and names while it lasts.

That dnsmasq takes them, and a lease back: tests/kernel/test_network.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tapster.networks import guest_files
from tapster.networks.guest_files import GuestFiles, HeldLease

MAC = "02:00:00:00:00:01"
OTHER_MAC = "02:00:00:00:00:02"


@pytest.fixture
def guests(tmp_path: Path) -> GuestFiles:
    for kind in ("dhcp", "hosts"):
        (tmp_path / kind).mkdir()
    return GuestFiles(str(tmp_path), "d.internal")


def files(directory: Path) -> set[str]:
    found = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)) for path in found}


def test_lines_of_a_guest_are_as_dnsmasq_reads_them() -> None:
    mac, four, six = "02:00:00:00:00:01", "10.70.1.5", "fd00::1"
    line = guest_files.reservation(mac, four, None, "web1")
    assert line == "02:00:00:00:00:01,10.70.1.5,web1\n"
    line = guest_files.reservation(mac, four, six, "web1")
    assert line == "02:00:00:00:00:01,10.70.1.5,[fd00::1],web1\n"
    assert guest_files.names(four, six, "web1", "d.internal").splitlines() == [
        "10.70.1.5 web1.d.internal web1",
        "fd00::1 web1.d.internal web1",
    ]


def test_guest_has_a_file_of_each_kind(guests: GuestFiles, tmp_path: Path) -> None:
    guests.write("tapstern0", MAC, "10.70.1.5", None, "web")
    assert (tmp_path / "dhcp/tapstern0").read_text() == f"{MAC},10.70.1.5,web\n"
    text = (tmp_path / "hosts/tapstern0").read_text()
    assert text == "10.70.1.5 web.d.internal web\n"


def test_guest_that_is_removed_has_no_file(guests: GuestFiles, tmp_path: Path) -> None:
    guests.write("tapstern0", MAC, "10.70.1.5", None, "web")
    for _ in range(2):
        guests.remove("tapstern0")
    assert files(tmp_path) == set()


def test_guests_that_are_gone_are_told_by_what_they_had(
    guests: GuestFiles, tmp_path: Path
) -> None:
    guests.write("tapstern0", MAC, "10.70.1.5", None, "web")
    guests.write("tapstern1", OTHER_MAC, "10.70.1.6", "fd00::6", "db")
    assert guests.keep_only({"tapstern0"}) == [HeldLease(OTHER_MAC, "10.70.1.6")]
    assert files(tmp_path) == {"dhcp/tapstern0", "hosts/tapstern0"}


@pytest.mark.parametrize(
    "text",
    ["", "web", f"{MAC},10.70.1", "zz,10.70.1.5,web", f"{MAC},10.70.1.5", "x" * 2000],
)
def test_damaged_file_of_a_guest_that_is_gone_is_removed(
    guests: GuestFiles, tmp_path: Path, text: str
) -> None:
    (tmp_path / "dhcp/tapstern0").write_text(text)
    (tmp_path / "dhcp/tapstern0").chmod(0o640)
    whole = [HeldLease(MAC, "10.70.1.5")] if text == f"{MAC},10.70.1.5" else []
    assert guests.keep_only(()) == whole
    assert files(tmp_path) == set()
