# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.networks.state_files`: files are replaced whole, and read with suspicion.

What becomes of a broker whose files are damaged: tests/kernel/test_crash_files.py.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tapster.networks import state_files
from tapster.networks.state_files import Damaged


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_text_that_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    state_files.write(str(path), "zwölf\n")
    assert state_files.read(str(path)) == "zwölf\n"


def test_file_is_its_owners_and_its_groups(tmp_path: Path) -> None:
    state_files.write(str(tmp_path / "a"), "x")
    state_files.replace(str(tmp_path / "b"), "x", 0o600)
    assert (mode(tmp_path / "a"), mode(tmp_path / "b")) == (0o640, 0o600)


def test_write_and_replace_follow_no_link(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("mine")
    for name in ("link", "other.new"):
        (tmp_path / name).symlink_to(target)
    with pytest.raises(OSError, match="Too many levels"):
        state_files.write(str(tmp_path / "link"), "x")
    with pytest.raises(OSError, match="Too many levels"):
        state_files.replace(str(tmp_path / "other"), "x")
    assert target.read_text() == "mine"


def test_write_that_the_kernel_takes_in_parts_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: inner(fd, data[:3]))
    state_files.replace(str(tmp_path / "a"), "0123456789")
    assert (tmp_path / "a").read_text() == "0123456789"


def test_replace_that_fails_leaves_the_old_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    state_files.replace(str(tmp_path / "a"), "old")
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="space"):
        state_files.replace(str(tmp_path / "a"), "new")
    assert (tmp_path / "a").read_text() == "old"


def test_remove_of_a_file_that_is_not_there_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    for _ in range(2):
        state_files.remove(str(tmp_path / "a"))
    assert list(tmp_path.iterdir()) == []


def test_file_that_is_not_there_is_told_apart_from_a_damaged_one(
    tmp_path: Path,
) -> None:
    with pytest.raises(FileNotFoundError):
        state_files.read(str(tmp_path / "a"))


def test_what_is_no_file_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "directory")
    os.mkfifo(tmp_path / "fifo")
    for name in ("directory", "link", "fifo"):
        with pytest.raises(Damaged):
            state_files.read(str(tmp_path / name))


def test_file_that_others_may_write_is_damaged(tmp_path: Path) -> None:
    state_files.write(str(tmp_path / "a"), "x")
    (tmp_path / "a").chmod(0o602)
    with pytest.raises(Damaged, match="others may write"):
        state_files.read(str(tmp_path / "a"))


def test_file_that_is_too_long_is_damaged(tmp_path: Path) -> None:
    state_files.write(str(tmp_path / "a"), "12345")
    assert state_files.read(str(tmp_path / "a"), 5) == "12345"
    with pytest.raises(Damaged, match="longer than 4 bytes"):
        state_files.read(str(tmp_path / "a"), 4)


@pytest.mark.parametrize("data", [b"\xff", b"{", b"[" * 100_000])
def test_text_that_is_no_json_is_damaged(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a").write_bytes(data)
    (tmp_path / "a").chmod(0o600)
    with pytest.raises(Damaged):
        state_files.read_json(str(tmp_path / "a"))


def test_discard_removes_what_has_the_name_and_no_more(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    directory = tmp_path / "directory"
    directory.mkdir()
    (directory / "file").touch()
    (tmp_path / "link").symlink_to(kept)
    for name in ("directory", "link", "absent"):
        state_files.discard(str(tmp_path / name))
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (kept / "file").exists()


def test_private_directory_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    (tmp_path / "wide").mkdir()
    (tmp_path / "wide").chmod(0o755)
    for name in ("new", "wide"):
        state_files.private_directory(str(tmp_path / name))
        assert mode(tmp_path / name) == 0o700


def test_private_directory_is_no_link(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(NotADirectoryError):
        state_files.private_directory(str(tmp_path / "b"))
