# SPDX-License-Identifier: LGPL-2.1-or-later
"""`publish.hooks.discovery`: what is in hooks.d and is no hook, and why."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tapster.daemon.publish.hooks.discovery import find, opened
from tapster.errors import ConfigError


@pytest.fixture
def hooks(tmp_path: Path) -> Path:
    if os.geteuid():
        pytest.skip("only root can make files that are root's")
    for path in (tmp_path, tmp_path / "hooks.d"):
        path.mkdir(exist_ok=True)
        path.chmod(0o755)
    return tmp_path / "hooks.d"


def hook(directory: Path, name: str, mode: int = 0o755, text: str = "#!/x\n") -> Path:
    path = directory / name
    path.write_text(text)
    path.chmod(mode)
    return path


def test_none_without_a_directory(tmp_path: Path) -> None:
    assert find(str(tmp_path)) == find(str(tmp_path / "nowhere")) == ((), (), ())


def test_in_the_order_of_their_names(hooks: Path) -> None:
    for name in ("20-b", "Z", "10-a", "a"):
        hook(hooks, name)
    assert find(str(hooks.parent)).names == ("10-a", "20-b", "Z", "a")


def test_what_was_not_meant_to_run(hooks: Path) -> None:
    hook(hooks, "off", 0o644)
    hook(hooks, "README", 0o644)
    hook(hooks, ".10-a.swp")
    (hooks / "lib").mkdir()
    assert find(str(hooks.parent)) == ((), (), ())


@pytest.mark.parametrize("name", ["10-a~", "10-a.bak", "a.dpkg-new", "a b", "x" * 65])
def test_other_names_are_passed_over_and_told(hooks: Path, name: str) -> None:
    hook(hooks, name)
    assert find(str(hooks.parent)) == ((), (), (name,))


def by_others(hooks: Path) -> str:
    hook(hooks, "bad", 0o757)
    return "others than root may write"


def by_a_group(hooks: Path) -> str:
    hook(hooks, "bad", 0o775)
    return "others than root may write"


def a_link(hooks: Path) -> str:
    (hooks / "bad").symlink_to(hook(hooks.parent, "elsewhere"))
    return "a symbolic link"


def a_link_to_nowhere(hooks: Path) -> str:
    (hooks / "bad").symlink_to("nowhere")
    return "a symbolic link"


def a_fifo(hooks: Path) -> str:
    os.mkfifo(hooks / "bad")
    (hooks / "bad").chmod(0o755)
    return "not a regular file"


def anothers(hooks: Path) -> str:
    os.chown(hook(hooks, "bad"), 23001, -1)
    return "belongs to uid 23001"


BAD: list[Callable[[Path], str]] = [by_others, by_a_group, a_link, a_fifo]
BAD += [a_link_to_nowhere, anothers]


@pytest.mark.parametrize("make", BAD)
def test_what_cannot_be_trusted(hooks: Path, make: Callable[[Path], str]) -> None:
    hook(hooks, "good")
    why = make(hooks)
    found = find(str(hooks.parent))
    assert found.names == ("good",)
    (refused,) = found.refused
    assert refused.startswith(f"{hooks}/bad: ") and why in refused
    with pytest.raises(ConfigError, match=why), opened(str(hooks.parent), "bad"):
        pass


@pytest.mark.parametrize("which", ["hooks.d", "."])
def test_a_directory_that_others_can_write_to(hooks: Path, which: str) -> None:
    hook(hooks, "good")
    (hooks.parent / which).chmod(0o777)
    found = find(str(hooks.parent))
    assert found.names == () and "others than root may write" in found.refused[0]
    with pytest.raises(ConfigError), opened(str(hooks.parent), "good"):
        pass


def test_a_directory_that_is_none(hooks: Path) -> None:
    hooks.rmdir()
    hooks.touch()
    assert "Not a directory" in find(str(hooks.parent)).refused[0]
    hooks.unlink()
    hooks.symlink_to("nowhere")
    assert find(str(hooks.parent)).refused


def test_what_is_opened_stays_that_file(hooks: Path) -> None:
    hook(hooks, "a", text="one")
    with opened(str(hooks.parent), "a") as fd:
        os.replace(hook(hooks, "b", text="two"), hooks / "a")
        assert os.read(fd, 10) == b"one"


def test_gone_or_switched_off_since(hooks: Path) -> None:
    where = str(hooks.parent)
    with pytest.raises(ConfigError, match="No such file"), opened(where, "a"):
        pass
    hook(hooks, "a", 0o644)
    with pytest.raises(ConfigError, match="not executable"), opened(where, "a"):
        pass
