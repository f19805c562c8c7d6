# SPDX-License-Identifier: LGPL-2.1-or-later
"""lxc-usernet: which file is read, and who waits for its names."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.usernet import ALICE, FAKE, GIDS, TEXTS, UIDS, numbers
from tapster.model import Peer
from tapster.policy.config.values import Names
from tapster.policy.foreign import lxc_usernet, name_lookup
from tapster.policy.foreign.lxc_usernet import look_up
from tapster.policy.foreign.lxc_usernet_lines import (
    Allotment,
    Grant,
    Line,
    parse,
    weigh,
)
from tapster.policy.foreign.name_lookup import NameLookup

# --- files


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lxc_usernet, "_files", {})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "usernet"
    path.write_text("alice tap br0 4\n")
    return path


def ask(path: Path, bridge: str = "br0", names: Names = FAKE) -> Grant:
    return look_up(str(path), bridge, ALICE, owner_only=False, names=names)


def test_a_file_grants_what_its_line_says(file: Path) -> None:
    assert ask(file) == Grant(4, (f"{file}:1",), (), None, (Allotment("alice", 4),))
    assert ask(file, "br1") == Grant(0, (), (), None)


def test_a_missing_file_is_no_problem(tmp_path: Path, file: Path) -> None:
    for path in (tmp_path / "gone", tmp_path / "gone" / "gone"):
        assert ask(path) == Grant(0, (), (), None)
    file.unlink()
    assert ask(file) == Grant(0, (), (), None)


@pytest.mark.parametrize("bridge", ["", "br0\0", "br\ud800", "é", "a/b", "x" * 10000])
def test_any_bridge_can_be_asked_about(file: Path, bridge: str) -> None:
    assert ask(file, bridge) == Grant(0, (), (), None)


def test_a_bridge_may_have_any_name(file: Path) -> None:
    file.write_bytes("alice tap brücke 2\n".encode() + b"alice tap br\xff 3\n")
    assert ask(file, "brücke").nics == 2
    assert ask(file, "br\udcff").nics == 3


def test_an_edit_counts_at_once(file: Path) -> None:
    """Also one of the same size, within a tick of the file system's clock."""
    for number in [*range(1, 10)] * 20:
        with file.open("r+") as opened:
            opened.write(f"alice tap br0 {number}\n")
        assert ask(file).nics == number


def test_another_file_in_its_place_counts_at_once(file: Path) -> None:
    ask(file)
    other = file.with_name("other")
    other.write_text("alice tap br0 7\n")
    os.utime(other, ns=(0, file.stat().st_mtime_ns))
    other.replace(file)
    assert ask(file).nics == 7


def test_a_file_is_read_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes] = []

    def counted(data: bytes) -> list[Line]:
        read.append(data)
        return parse(data)

    monkeypatch.setattr(lxc_usernet, "parse", counted)
    monkeypatch.setattr(lxc_usernet, "_SETTLED_NS", -(10**18))
    for _ in range(5):
        assert ask(file).nics == 4
    assert len(read) == 1
    file.chmod(0o600)
    assert ask(file).nics == 4
    file.write_text("alice tap br0 40\n")
    assert ask(file).nics == 40
    assert len(read) == 2


def test_a_file_is_not_relied_on_while_it_is_new(file: Path) -> None:
    ask(file)
    assert not lxc_usernet._files[str(file)].is_settled
    future = time.time_ns() + 3600 * 10**9
    os.utime(file, ns=(future, future))
    ask(file)
    assert not lxc_usernet._files[str(file)].is_settled


def test_not_more_than_a_few_files_are_remembered(tmp_path: Path) -> None:
    for number in range(20):
        path = tmp_path / str(number)
        path.write_text(f"alice tap br0 {number}\n")
        assert ask(path).nics == number
    assert len(lxc_usernet._files) <= 4


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (os.mkfifo, "not a regular file"),
        (os.mkdir, "not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
        (lambda path: path.symlink_to(path.name), "Too many levels"),
        (
            lambda path: path.write_bytes(b"#" * (1 << 20) + b"\n"),
            "more than 1048576 b",
        ),
        (lambda path: path.write_bytes(b"\n" * 16384), "more than 16384 lines"),
    ],
)
def test_what_cannot_be_used_grants_nothing(
    file: Path, make: Callable[[Path], object], says: str
) -> None:
    assert ask(file).nics == 4
    file.unlink()
    make(file)
    found = ask(file)
    assert found[:3] == (0, (), ())
    assert found.problem is not None and says in found.problem
    assert found.problem.startswith(str(file))


def test_a_large_file_is_used(file: Path) -> None:
    data = b"alice tap br0 1\n".rjust(1 << 20, b"\n")[-(1 << 20) :]
    file.write_bytes(b"#".ljust((1 << 20) - 17, b"x") + b"\nalice tap br0 1\n")
    assert file.stat().st_size == len(data)
    assert ask(file).nics == 1


@pytest.fixture
def roots(file: Path) -> Path:
    try:
        for path in (file, file.parent):
            os.chown(path, 0, 0)
            path.chmod(path.stat().st_mode & 0o755)
    except PermissionError:
        pytest.skip("only root can make files of root's")
    return file


def strictly(path: Path) -> Grant:
    return look_up(str(path), "br0", ALICE, owner_only=True, names=FAKE)


def test_what_others_may_write_grants_nothing(roots: Path) -> None:
    assert strictly(roots).nics == 4
    for path in (roots, roots.parent):
        before = stat.S_IMODE(path.stat().st_mode)
        for mode in (before | 0o020, before | 0o002):
            path.chmod(mode)
            found = strictly(roots)
            assert found.nics == 0
            assert f"{path}: others than root may write to it" in str(found.problem)
        path.chmod(before)
        os.chown(path, 4711, 0)
        found = strictly(roots)
        assert found.nics == 0
        assert f"{path}: belongs to uid 4711, not to root" in str(found.problem)
        assert ask(roots).nics == 4
        os.chown(path, 0, 0)
        assert strictly(roots).nics == 4


def test_the_owner_of_what_a_link_leads_to_counts(roots: Path) -> None:
    target = roots.with_name("target")
    roots.rename(target)
    roots.symlink_to(target)
    assert strictly(roots).nics == 4
    os.chown(target, 4711, 0)
    assert strictly(roots).nics == 0


@pytest.mark.usefixtures("no_leaked_fd")
def test_descriptors_are_closed(file: Path) -> None:
    for _ in range(3):
        ask(file)
    file.write_bytes(b"\n" * 20000)
    ask(file)
    file.unlink()
    ask(file)
    file.mkdir()
    ask(file)


# --- names


class Service:
    """A name service that answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.may_answer = threading.Event()
        self.uids = dict(UIDS)
        self.names = Names(self.uid, self.gid)

    def uid(self, name: str) -> int:
        self.asked.append(name)
        assert self.may_answer.wait(30)
        return self.uids[name]

    def gid(self, name: str) -> int:
        self.asked.append(f"@{name}")
        assert self.may_answer.wait(30)
        return GIDS[name]


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    made.may_answer.set()
    yield made
    made.may_answer.set()


def test_only_names_for_that_bridge_are_asked_about(
    file: Path, service: Service
) -> None:
    file.write_text(
        "alice tap br0 4\nalice tap br0 1\n@g tap br0 1\nbob tap br1 2\n"
        "dead1 veth br0 4\n#dead2 tap br0 4\ndead3 tap br2 4\nalice tap br0 1\n"
    )
    for _ in range(3):
        assert ask(file, names=service.names).nics == 5
    assert service.asked == ["@g", "alice"]
    assert ask(file, "br1", service.names).nics == 0
    assert ask(file, "br7", service.names).nics == 0
    assert service.asked == ["@g", "alice", "bob"]


def test_an_account_counts_that_was_made_later(
    file: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    del service.uids["alice"]
    for _ in range(3):
        found = ask(file, names=service.names)
        assert found.notes == (f"{file}:1: there is no user alice",)
    assert service.asked == ["alice"]
    service.uids["alice"] = 1001
    monkeypatch.setattr(name_lookup, "SECONDS", 0.0)
    assert ask(file, names=service.names).nics == 4


def test_a_new_name_is_asked_about_at_once(file: Path, service: Service) -> None:
    service.uids["eve"] = 1001
    assert ask(file, names=service.names).nics == 4
    file.write_text("alice tap br0 4\neve tap br0 6\n")
    assert ask(file, names=service.names).nics == 6
    file.write_text("eve tap br0 5\n")
    assert ask(file, names=service.names).nics == 5
    assert service.asked == ["alice", "alice", "eve"]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_names_that_nobody_answers_for_hold_nobody_up(
    file: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is granted meanwhile, nor is it asked a second time."""
    monkeypatch.setattr(name_lookup, "PATIENCE", 0.01)
    monkeypatch.setattr(name_lookup, "SECONDS", 0.0)
    service.may_answer.clear()
    for _ in range(50):
        found = ask(file, names=service.names)
        assert (found.nics, found.problem) == (0, None)
        assert found.notes == (f"{file}:1: user alice is not known yet",)
    assert service.asked == ["alice"]
    assert ask(file, "br1", service.names) == Grant(0, (), (), None)
    service.may_answer.set()
    until(lambda: ask(file, names=service.names).nics == 4)


def test_many_bridges_are_not_waited_for_one_by_one(
    file: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller who asks which bridges it may use has all of them looked up."""
    file.write_text("".join(f"alice tap br{number} 4\n" for number in range(5)))
    service.may_answer.clear()
    slow: list[bool] = []

    class Counted(NameLookup):
        def __init__(
            self,
            names: Names,
            wanted: frozenset[bytes],
            numbers: Mapping[bytes, int | None],
            is_slow: bool,
        ) -> None:
            slow.append(is_slow)
            super().__init__(names, wanted, numbers, is_slow)

    monkeypatch.setattr(lxc_usernet, "NameLookup", Counted)
    monkeypatch.setattr(name_lookup, "PATIENCE", 0.01)
    for number in range(5):
        assert ask(file, f"br{number}", service.names).nics == 0
    assert slow == [False, True, True, True, True]
    service.may_answer.set()
    until(lambda: ask(file, "br4", service.names).nics == 4)


def test_what_was_known_stays_while_nobody_answers(
    file: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(name_lookup, "PATIENCE", 0.01)
    monkeypatch.setattr(name_lookup, "SECONDS", 0.0)
    until(lambda: ask(file, names=service.names).nics == 4)
    service.may_answer.clear()
    before = len(service.asked)
    for number in (5, 6, 7):
        file.write_text(f"alice tap br0 {number}\n")
        assert ask(file, names=service.names).nics == number
    assert len(service.asked) <= before + 1
    # A name that was not known is asked about beside the one that hangs.
    file.write_text("alice tap br0 8\ntoor tap br0 9\n")
    found = ask(file, names=service.names)
    assert found.nics == 8
    assert found.notes == (f"{file}:2: user toor is not known yet",)
    service.may_answer.set()
    until(lambda: ask(file, names=service.names).nics == 9)


@pytest.mark.parametrize("error", [KeyError, ValueError, OSError])
def test_a_name_service_may_fail(file: Path, error: type[Exception]) -> None:
    def fail(_: str) -> int:
        raise error

    found = ask(file, names=Names(fail, fail))
    assert (found.nics, found.problem) == (0, None)


def test_without_a_thread_nobody_is_known(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        assert ask(file).nics == 0
    monkeypatch.setattr(name_lookup, "SECONDS", 0.0)
    assert ask(file).nics == 4


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=300) | st.lists(TEXTS, max_size=5).map(b"\n".join))
def test_any_file_comes_to_what_its_lines_do(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    found = ask(file)
    assert found.problem is None
    assert found == weigh(
        str(file),
        [line for line in parse(data) if line.bridge == b"br0"],
        numbers(data),
        ALICE,
    )


def test_names_are_looked_up_on_this_host(file: Path) -> None:
    file.write_text("root tap br0 4\n@root tap br0 3\nno-such-user tap br0 1\n")
    root = Peer(0, 0, frozenset(), 1)
    assert look_up(str(file), "br0", root, owner_only=False).nics == 7
