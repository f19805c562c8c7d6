# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is read of a caller's files, and what is never opened.

Each test includes a file from a bridge.conf: the verdict says what was read.
"""

from __future__ import annotations

import fcntl
import os
import signal
from pathlib import Path

import pytest

from tapster.policy.core.facts import Verdict
from tapster.policy.foreign import access, bridge_conf_includes
from tapster.policy.foreign.bridge_conf import decide
from tapster.policy.foreign.permissions import Reader, has_permission

ME = Reader(os.getuid(), os.getgid(), frozenset(os.getgroups()))


def on_disk(tmp_path: Path) -> Verdict:
    return decide(str(tmp_path / "m"), "br0", ME)


def test_no_fifo_device_or_file_of_proc_is_opened(tmp_path: Path) -> None:
    (tmp_path / "m").write_text(f"allow br0\ninclude {tmp_path}/x\n")
    other = tmp_path / "x"
    os.mkfifo(other)
    assert not on_disk(tmp_path).allowed
    for target, allowed in [
        (str(tmp_path), True),
        ("/dev/null", True),
        ("/dev/tty", False),
        ("/proc/self/fd/0", False),
        ("/proc/version", False),
        ("/proc", False),
        ("/sys/kernel", False),
        ("gone", True),
        (str(other), True),
        ("m", False),
    ]:
        other.unlink()
        other.symlink_to(target)
        assert on_disk(tmp_path).allowed == allowed, target


def test_a_large_file_is_refused(tmp_path: Path) -> None:
    main = tmp_path / "m"
    main.write_bytes(b"allow br0\n" + b"#" * bridge_conf_includes.MAX_BYTES)
    assert "too large" in on_disk(tmp_path).reason
    main.write_bytes(b"allow br0\n" + b"\n" * bridge_conf_includes.MAX_LINES)
    assert "16384 lines" in on_disk(tmp_path).reason
    main.write_bytes(b"allow br0\n#".ljust(4000, b"x"))
    assert on_disk(tmp_path).allowed


def test_lookups_of_all_paths_together_are_bounded(tmp_path: Path) -> None:
    """Who can write an included file, or a link on the way to one, could have the
    broker look up names for minutes."""
    (tmp_path / "d").mkdir()
    main = tmp_path / "m"
    way = f"{tmp_path}" + "/d/.." * 500
    main.write_text("allow br0\n" + f"include {way}/gone\n" * 7)
    assert on_disk(tmp_path).allowed
    main.write_text("allow br0\n" + f"include {way}/gone\n" * 9)
    verdict = on_disk(tmp_path)
    assert (verdict.allowed, verdict.undecided) == (False, True)
    assert verdict.reason.endswith("more than 8192 steps on the way")
    (tmp_path / "l0").symlink_to("d/../" * 500)
    for number in range(1, 20):
        (tmp_path / f"l{number}").symlink_to(f"l{number - 1}/" + "d/../" * 500)
    main.write_text(f"allow br0\ninclude {tmp_path}/l19/gone\n")
    verdict = on_disk(tmp_path)
    assert verdict.reason == (
        f"{main}:2: include {tmp_path}/l19/gone: more than 8192 steps on the way"
    )


def test_a_lease_is_not_waited_for(tmp_path: Path) -> None:
    """A file's owner may make others wait who open it (fcntl(2), F_SETLEASE)."""
    other = tmp_path / "x"
    other.touch()
    (tmp_path / "m").write_text(f"allow br0\ninclude {other}\n")
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    try:
        with other.open("r+") as held:
            try:
                fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            except OSError as error:
                pytest.skip(f"no leases here: {error.strerror}")
            verdict = on_disk(tmp_path)
            fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    finally:
        signal.signal(signal.SIGIO, before)
    assert (verdict.allowed, verdict.undecided) == (False, True)
    assert "the broker cannot read it: Resource temporarily" in verdict.reason
    assert on_disk(tmp_path).allowed


@pytest.mark.parametrize("what", ["file", "link", "directory"])
def test_a_swap_after_the_check_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """What was judged is what is read, whatever has its name by then."""
    good, bad = tmp_path / "good", tmp_path / "bad"
    for directory, text in ((good, "#"), (bad, "allow br0")):
        directory.mkdir()
        (directory / "f").write_text(text)
    way = tmp_path / "way"
    way.symlink_to("good")
    (tmp_path / "m").write_text(f"include {way}/f\n")
    checked = os.stat(good / "f" if what == "file" else good)
    if what == "link":
        checked = os.lstat(way)
    swapped: list[int] = []

    def swap(number: int) -> None:
        if number == checked.st_ino and not swapped:
            swapped.append(number)
            if what == "file":
                os.replace(bad / "f", good / "f")
            elif what == "link":
                way.unlink()
                way.symlink_to("bad")
            else:
                good.rename(tmp_path / "away")
                bad.rename(good)

    def swap_behind(fd: int, st: os.stat_result, want: int, reader: Reader) -> bool:
        allowed = has_permission(fd, st, want, reader)
        swap(st.st_ino)
        return allowed

    def readlink(fd: int) -> bytes:
        target = real_readlink(fd)
        swap(os.fstat(fd).st_ino)
        return target

    real_readlink = access._readlink
    monkeypatch.setattr(access, "has_permission", swap_behind)
    monkeypatch.setattr(access, "_readlink", readlink)
    verdict = on_disk(tmp_path)
    assert swapped
    assert verdict.reason == f"no rule of {tmp_path}/m allows it"
    monkeypatch.undo()
    assert on_disk(tmp_path).allowed


def test_descriptors_are_closed(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    (tmp_path / "l").symlink_to(tmp_path)
    for target in ("/l/l/f", "/f/x", "/l/../gone", "/m", "//./l/", "/loop"):
        text = f"allow br0\ninclude {tmp_path}{target}\n"
        (tmp_path / "m").write_text(text)
        (tmp_path / "f").touch()
        (tmp_path / "loop").unlink(missing_ok=True)
        (tmp_path / "loop").symlink_to("loop")
        assert on_disk(tmp_path).allowed == (target != "/m")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_stranger_s_link_in_a_sticky_directory_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f").write_text("allow br0\n")
    sticky = tmp_path / "sticky"
    sticky.mkdir()
    sticky.chmod(0o1777)
    (sticky / "l").symlink_to(tmp_path / "f")
    setting = tmp_path / "setting"
    monkeypatch.setattr(access, "_PROTECTED_SYMLINKS", str(setting))
    stranger = Reader(ME.uid + 1, ME.gid, ME.groups)
    link, inside = os.lstat(sticky / "l"), os.stat(sticky)
    foreign = os.stat_result((*inside[:4], inside.st_uid + 2, *inside[5:]))
    access._check_sticky(inside, link, stranger)  # the directory owner's own link
    access._check_sticky(foreign, link, ME)
    with pytest.raises(PermissionError):
        access._check_sticky(foreign, link, stranger)
    setting.write_text("1\n")
    with pytest.raises(PermissionError):
        access._check_sticky(foreign, link, stranger)
    setting.write_text("0\n")
    access._check_sticky(foreign, link, stranger)
