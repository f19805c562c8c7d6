# SPDX-License-Identifier: LGPL-2.1-or-later
"""A file that exists but cannot be read is never taken for missing: it may deny."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tapster.errors import ConfigError
from tapster.policy.config.files import opened_directory, opened_file, read_files


def refusal(directory: Path, owner_only: bool = False) -> str:
    with pytest.raises(ConfigError) as caught:
        read_files(str(directory), owner_only)
    return str(caught.value)


def test_a_configuration_that_does_not_exist_has_no_files(tmp_path: Path) -> None:
    assert read_files(str(tmp_path / "gone"), False) == []
    assert read_files(str(tmp_path), False) == []


def link_to_nowhere(path: Path) -> None:
    path.symlink_to("gone")


def loop(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (link_to_nowhere, "No such file or directory"),
        (loop, "Too many levels of symbolic links"),
        (Path.touch, "Not a directory"),
        (os.mkfifo, "Not a directory"),
    ],
)
@pytest.mark.parametrize("name", ["conf", "conf/conf.d"])
def test_what_should_be_a_directory_and_is_not_is_refused(
    tmp_path: Path, make: Callable[[Path], None], says: str, name: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    make(path)
    assert refusal(tmp_path / "conf") == f"{path}: {says}"


def test_a_directory_that_cannot_be_asked_about_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert refusal(tmp_path / "file" / "conf").endswith(": Not a directory")


def test_a_drop_in_that_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    drop_in = tmp_path / "conf.d" / "deny.toml"
    link_to_nowhere(drop_in)
    assert refusal(tmp_path) == f"{drop_in}: No such file or directory"
    drop_in.unlink()
    drop_in.mkdir()
    assert refusal(tmp_path) == f"{drop_in}: not a regular file"


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    try:
        os.chown(tmp_path, 0, 0)
    except PermissionError:
        pytest.skip("only root can make files of root's")
    return tmp_path


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o622])
def test_a_link_to_what_others_may_write_is_refused(roots: Path, mode: int) -> None:
    target = roots / "target"
    target.touch()
    target.chmod(mode)
    (roots / "tapster.toml").symlink_to(target)
    says = f"tapster.toml: others than root may write to it (mode {mode:04o})"
    assert refusal(roots, owner_only=True).endswith(says)


def test_a_link_to_a_directory_that_others_may_write_is_refused(roots: Path) -> None:
    target = roots / "target"
    target.mkdir()
    target.chmod(0o775)
    (roots / "conf.d").symlink_to(target)
    says = "conf.d: others than root may write to it (mode 0775)"
    assert refusal(roots, owner_only=True).endswith(says)


def test_an_acl_that_lets_others_write_is_refused(roots: Path) -> None:
    """It shows in the mode: the group's bits are its mask then."""
    path = roots / "tapster.toml"
    path.touch()
    path.chmod(0o644)
    entries = [(1, 6, -1), (2, 6, 4711), (4, 4, -1), (16, 6, -1), (32, 4, -1)]
    acl = (2).to_bytes(4, "little") + b"".join(
        tag.to_bytes(2, "little")
        + perm.to_bytes(2, "little")
        + (id_ & 0xFFFFFFFF).to_bytes(4, "little")
        for tag, perm, id_ in entries
    )
    try:
        os.setxattr(path, "system.posix_acl_access", acl)
    except OSError as error:
        pytest.skip(f"no ACLs here: {error.strerror}")
    assert "others than root may write" in refusal(roots, owner_only=True)


def test_what_is_opened_is_what_was_looked_at(roots: Path) -> None:
    """A file that is exchanged afterwards is read as it was."""
    path = roots / "f"
    path.write_text("old")
    with opened_directory(str(roots), None, os.O_PATH, True) as parent:
        assert parent is not None
        with opened_file(str(path), parent, True) as (fd, status):
            (roots / "new").write_text("new")
            os.replace(roots / "new", path)
            assert os.read(fd, 10) == b"old"
            assert status.st_ino == os.fstat(fd).st_ino


@pytest.mark.usefixtures("no_leaked_fd")
def test_descriptors_are_closed(tmp_path: Path) -> None:
    read_files(str(tmp_path), False)
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "a.toml").mkdir()
    refusal(tmp_path)
    (tmp_path / "tapster.toml").touch()
    tmp_path.chmod(0o777)
    refusal(tmp_path, owner_only=True)
