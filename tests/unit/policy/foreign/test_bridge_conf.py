# SPDX-License-Identifier: LGPL-2.1-or-later
"""bridge.conf: what a line means, what a set of rules decides, what is read."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapster.policy.core.facts import Source, Verdict
from tapster.policy.foreign import access, bridge_conf, mounts
from tapster.policy.foreign.access import Contents, Reader, Undecidable, acl_permits
from tapster.policy.foreign.bridge_conf import (
    decide,
    judge,
    judge_all,
    parse,
)

ME = Reader(os.getuid(), os.getgid(), frozenset(os.getgroups()))


def rules(data: bytes) -> list[tuple[bytes, bytes]]:
    return [(line.word, line.argument) for line in parse(data).lines if line.word]


def over(files: dict[str, bytes], bridge: str = "br0", strict: bool = False) -> Verdict:
    """`judge` over files in memory; the main one is /m, and /d a directory."""

    def load(path: bytes, limit: int) -> Contents:
        try:
            data = files[path.decode("utf-8", "surrogateescape")]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "No such file") from None
        if len(data) > limit:
            raise Undecidable("too large")
        return Contents(data, (0, hash(path)), path == b"/d")

    verdict = judge("/m", bridge, load, strict)
    # Of many bridges each is judged as if it were the only one.
    others = [bridge, "br0", "br1", "all", "", "x" * 16]
    assert judge_all("/m", others, load, strict)[bridge] == verdict
    return verdict


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        (b"allow br0", (b"allow", b"br0")),
        (b"deny\tbr0", (b"deny", b"br0")),
        (b" \t\f\r allow \t br0 \f\r\t", (b"allow", b"br0")),
        (b"allow br0 # why", (b"allow", b"br0 # why")),
        (b"allow br0\v", (b"allow", b"br0\v")),
        (b"allow ", (b"allow", b"")),
        (b"allow\t", (b"allow", b"")),
        (b"allow br0\0 anything", (b"allow", b"br0")),
        (b"include /a b/c ", (b"include", b"/a b/c")),
        (b"include " + b"/" * 300, (b"include", b"/" * 300)),
        (b"allow 123456789012345", (b"allow", b"123456789012345")),
        (b"allow \xff\xa0", (b"allow", b"\xff\xa0")),
    ],
)
def test_line_is_a_rule(line: bytes, rule: tuple[bytes, bytes]) -> None:
    for end in (b"", b"\n"):
        assert rules(line + end) == [rule]


@pytest.mark.parametrize(
    "line", [b"", b" ", b"#", b" # allow br0", b"\r", b"\0allow br0", b" \0bogus"]
)
def test_line_means_nothing(line: bytes) -> None:
    parsed = parse(line + b"\nallow br0\n")
    assert rules(line + b"\nallow br0\n") == [(b"allow", b"br0")]
    assert parsed.error is None


@pytest.mark.parametrize(
    ("line", "remark"),
    [
        (b"bogus", "a word alone"),
        (b"allow", "a word alone"),
        (b"allow\r", "a word alone"),
        (b"allow\vbr0", "a word alone"),
        (b"Allow br0", "unknown word"),
        (b"allow\tbr0 ", "unknown word"),
        (b"\vallow br0", "unknown word"),
        (b"\xef\xbb\xbfallow br0", "unknown word"),
        (b"allow 1234567890123456", "name too long"),
        (b"deny br0 # because of", "name too long"),
    ],
)
def test_line_is_an_error_and_ends_the_file(line: bytes, remark: str) -> None:
    parsed = parse(b"allow br0\n\n" + line + b"\nallow br1\n")
    assert [rule.argument for rule in parsed.lines] == [b"br0"]
    assert parsed.error is not None
    assert (parsed.error.number, parsed.error.remark) == (3, remark)


def test_long_line_goes_on_as_another() -> None:
    assert rules(b"#" + b" " * 4094 + b"allow br0") == [(b"allow", b"br0")]
    assert rules(b"#" + b" " * 4093 + b"allow br0") == []  # cut within `allow`
    assert rules(b"#" * 4095 + b"\nallow br0") == [(b"allow", b"br0")]
    parsed = parse(b"\n#" + b"x" * 5000)
    assert parsed.lines[0].remark == "long line, read in pieces"
    assert parsed.error is not None and parsed.error.number == 2


@given(st.binary(), st.text(max_size=20))
def test_bytes_never_raise(data: bytes, bridge: str) -> None:
    verdict = over({"/m": data}, bridge)
    assert verdict.reason.isprintable()
    assert all(note.isprintable() for note in verdict.notes)
    assert verdict.allowed <= (verdict.source is not None)


WORDS = st.sampled_from(
    [
        *(b"allow", b"deny", b"include", b"br0", b"br1", b"all", b"/m", b"/x", b"#"),
        *(b" ", b"\t", b"\n", b"\n", b"\v", b"\r", b"\0", b"x" * 15, b" " * 4095),
    ]
)


@given(st.lists(WORDS).map(b"".join), st.lists(WORDS).map(b"".join))
def test_nearly_right_files_never_raise(main: bytes, included: bytes) -> None:
    verdict = over({"/m": main, "/x": included})
    if verdict.allowed:
        assert b"allow" in main + included
        assert verdict.source is not None and verdict.source.text.startswith("allow")


NAMES = st.sampled_from([b"br0", b"br1", b"all"])


@given(st.lists(NAMES), st.lists(NAMES), st.randoms())
def test_deny_wins_in_any_order(allowed, denied, random) -> None:  # type: ignore[no-untyped-def]
    lines = [b"allow " + name for name in allowed]
    lines += [b"deny " + name for name in denied]
    random.shuffle(lines)
    verdict = over({"/m": b"\n".join(lines)})
    hit = {b"br0", b"all"}
    assert verdict.allowed == (bool(hit & {*allowed}) and not hit & {*denied})


@pytest.mark.parametrize(
    ("files", "allowed", "reason"),
    [
        ({}, False, "cannot be read as the caller: /m: No such file"),
        ({"/m": b""}, False, "no rule of /m allows it"),
        ({"/m": b"allow all"}, True, "allowed by /m:1: allow all"),
        ({"/m": b"allow br0\nx"}, False, "/m:2: x: a word alone"),
        ({"/m": b"include /x\ndeny all", "/x": b"allow all"}, False, "denied by /m:2"),
        ({"/m": b"include /x", "/x": b"allow br0\nx"}, True, "allowed by /x:1"),
        ({"/m": b"allow br0\ninclude x", "x": b"deny br0"}, True, "allowed by /m:1"),
        ({"/m": b"allow br0\ninclude /m"}, False, "/m:2: include /m: a file that incl"),
    ],
)
def test_verdict(files: dict[str, bytes], allowed: bool, reason: str) -> None:
    verdict = over(files)
    assert verdict.allowed == allowed
    assert verdict.reason.startswith(reason)


def test_what_is_ignored_is_told() -> None:
    verdict = over(
        {
            "/m": b"include /gone\ninclude rel\ninclude /x\ndeny br0 # x\nallow br0\0!",
            "/x": b"deny br9\nbogus\n",
        }
    )
    assert verdict.source == Source("/m", 5, "allow br0")
    assert verdict.notes == (
        "/m:1: include /gone: ignored: No such file",
        "/m:2: include rel: ignored: the path is not absolute",
        "/m:3: include /x: ignored: /x:2: bogus: a word alone",
        "/m:4: deny br0 # x: no interface can have this name",
        "/m:5: allow br0: cut at a NUL byte",
    )


def test_notes_are_bounded() -> None:
    verdict = over({"/m": b"include /gone\n" * 50})
    assert len(verdict.notes) == bridge_conf.MAX_NOTES + 1
    assert verdict.notes[-1] == "and 18 more"


@pytest.mark.parametrize("bridge", ["", "1234567890123456", "br\0", "\ud800", "é" * 8])
def test_impossible_bridges_are_refused(bridge: str) -> None:
    assert not over({"/m": b"allow all\nallow \n"}, bridge).allowed


def test_includes_are_bounded() -> None:
    deep = {f"/{i}": b"include /%d" % (i + 1) for i in range(40)}
    verdict = over({"/m": b"allow all\ninclude /0", **deep})
    assert (verdict.allowed, "32 files deep" in verdict.reason) == (False, True)
    wide = b"allow all\n" + b"include /gone\n" * bridge_conf.MAX_FILES
    verdict = over({"/m": wide})
    assert (verdict.allowed, "1024 files" in verdict.reason) == (False, True)
    big = (b"#" * 1023 + b"\n") * (bridge_conf.MAX_BYTES // 2048 + 1)
    verdict = over({"/m": b"allow all\ninclude /x\ninclude /x", "/x": big})
    assert (verdict.allowed, "too large" in verdict.reason) == (False, True)
    long = b"\n" * (bridge_conf.MAX_LINES // 2)
    verdict = over({"/m": b"allow all\ninclude /x", "/x": long})
    assert verdict.allowed
    verdict = over({"/m": b"allow all\ninclude /x\ninclude /x", "/x": long})
    assert (verdict.allowed, "16384 lines" in verdict.reason) == (False, True)


# --- strict_includes


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"/m": b"allow br0\ninclude /gone"}, "/m:2: include /gone: No such file"),
        ({"/m": b"include rel\nallow br0"}, "/m:1: include rel: the path is not abs"),
        ({"/m": b"include /d\nallow br0", "/d": b""}, "/m:1: include /d: a directory"),
        (
            {"/m": b"allow br0\ninclude /x", "/x": b"allow br0\nx"},
            "/m:2: include /x: /x:2: x: a word alone",
        ),
        (
            {"/m": b"allow br0\ninclude /x", "/x": b"include /y", "/y": b"bogus 1"},
            "/x:1: include /y: /y:1: bogus 1: unknown word",
        ),
        (
            {"/m": b"allow br0\ninclude /x", "/x": b"include /gone"},
            "/x:1: include /gone: No such file",
        ),
    ],
)
def test_strict_includes_refuse_what_is_passed_over(
    files: dict[str, bytes], reason: str
) -> None:
    assert over(files).allowed
    verdict = over(files, strict=True)
    assert (verdict.allowed, verdict.undecided, verdict.source) == (False, True, None)
    assert verdict.reason.startswith(reason)
    assert not [note for note in verdict.notes if "ignored" in note]


@pytest.mark.parametrize(
    "files",
    [
        {"/m": b"include /x\n", "/x": b"allow br0\n"},
        {"/m": b"include /x\n", "/x": b"\tallow br0 \r\ndeny br1 # why"},
        {"/m": b"allow br0\ninclude /x\ninclude /x\n", "/x": b""},
    ],
)
def test_strict_includes_take_what_can_be_read(files: dict[str, bytes]) -> None:
    assert over(files, strict=True).allowed


def test_strict_includes_are_about_includes() -> None:
    """A main file that is not there is no more undecided than without."""
    for files in ({}, {"/m": b""}, {"/m": b"allow br0\nx"}, {"/m": b"deny br0"}):
        assert over(files, strict=True) == over(files)


@given(st.lists(WORDS).map(b"".join), st.lists(WORDS).map(b"".join))
def test_strict_includes_only_refuse(main: bytes, included: bytes) -> None:
    files = {"/m": main, "/x": included}
    lax, strict = over(files), over(files, strict=True)
    assert strict.allowed <= lax.allowed
    if strict.allowed != lax.allowed:
        assert strict.undecided
    elif lax.allowed:
        assert strict == lax


# --- files


def on_disk(tmp_path: Path, reader: Reader = ME, strict: bool = False) -> Verdict:
    return decide(str(tmp_path / "m"), "br0", reader, strict)


def test_strict_includes_on_disk(tmp_path: Path) -> None:
    other = tmp_path / "x"
    (tmp_path / "m").write_text(f"allow br0\ninclude {other}\n")
    place = f"{tmp_path}/m:2: include {other}: "
    assert on_disk(tmp_path).allowed
    assert on_disk(tmp_path, strict=True).reason == f"{place}No such file or directory"
    other.mkdir()
    assert on_disk(tmp_path).allowed
    assert on_disk(tmp_path, strict=True).reason == f"{place}a directory"
    other.rmdir()
    other.write_text("deny br1\n")
    assert on_disk(tmp_path, strict=True).allowed


def test_an_edit_counts_at_once(tmp_path: Path) -> None:
    main = tmp_path / "m"
    assert not on_disk(tmp_path).allowed
    main.write_text("allow br0\n")
    assert on_disk(tmp_path).allowed
    main.write_text("deny br0\n")
    assert not on_disk(tmp_path).allowed


def test_nothing_but_files_is_opened(tmp_path: Path) -> None:
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
    main.write_bytes(b"allow br0\n" + b"#" * bridge_conf.MAX_BYTES)
    assert "too large" in on_disk(tmp_path).reason
    main.write_bytes(b"allow br0\n" + b"\n" * bridge_conf.MAX_LINES)
    assert "16384 lines" in on_disk(tmp_path).reason
    main.write_bytes(b"allow br0\n#".ljust(4000, b"x"))
    assert on_disk(tmp_path).allowed


def test_the_way_is_bounded(tmp_path: Path) -> None:
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

    def has_permission(fd: int, st: os.stat_result, want: int, reader: Reader) -> bool:
        allowed = real(fd, st, want, reader)
        swap(st.st_ino)
        return allowed

    def readlink(fd: int) -> bytes:
        target = real_readlink(fd)
        swap(os.fstat(fd).st_ino)
        return target

    real, real_readlink = access.has_permission, access._readlink
    monkeypatch.setattr(access, "has_permission", has_permission)
    monkeypatch.setattr(access, "_readlink", readlink)
    verdict = on_disk(tmp_path)
    assert swapped
    assert verdict.reason == f"no rule of {tmp_path}/m allows it"
    monkeypatch.undo()
    assert on_disk(tmp_path).allowed


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        ("ext4", "rw", None),
        ("tmpfs", "rw,user_id=1000", None),
        ("proc", "rw", "on proc, where"),
        ("sysfs", "rw", "on sysfs, where"),
        ("fuse", "rw,user_id=1000,group_id=1000", "that a user serves"),
        ("fuse.sshfs", "rw,user_id=1000,group_id=0,allow_other", "that a user serves"),
        ("fuse.x", "rw,user_id=0,user_id=1000", "that a user serves"),
        ("fuse.x", "rw", "that a user serves"),
        ("fuseblk", "rw,user_id=0,group_id=0,allow_other", None),
        ("fuse.overlay", "rw,user_id=0,group_id=0", None),
    ],
)
def test_which_file_systems_may_be_asked(
    kind: str, options: str, says: str | None
) -> None:
    found = mounts._objection(kind, options)
    assert found == says or (found is not None and says is not None and says in found)


def test_a_mount_that_is_not_listed_is_not_asked() -> None:
    assert mounts.why_not(2**40) == "on a mount that is not listed"


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


def test_links_in_sticky_directories(
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


def acl(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in entries)


NONE = 0xFFFFFFFF
BASE = [(1, 7, NONE), (2, 6, 1001), (4, 0, NONE), (8, 4, 2002), (16, 4, NONE)]


@pytest.mark.parametrize(
    ("reader", "want", "allowed"),
    [
        (Reader(1001, 1, frozenset()), access.READ, True),
        (Reader(1001, 1, frozenset()), access.SEARCH, False),
        (Reader(1002, 2002, frozenset()), access.READ, True),
        (Reader(1002, 1, frozenset({2002, 50})), access.READ, True),
        (Reader(1002, 50, frozenset()), access.READ, False),
        (Reader(1002, 1, frozenset()), access.READ, True),
    ],
)
def test_acl(reader: Reader, want: int, allowed: bool) -> None:
    assert acl_permits(acl(*BASE, (32, 4, NONE)), 50, want, reader) == allowed


@given(st.binary() | st.binary().map(lambda b: b"\2\0\0\0" + b))
def test_a_broken_acl_is_undecidable_or_no_error(data: bytes) -> None:
    try:
        acl_permits(data, 50, access.READ, Reader(1001, 1, frozenset()))
    except Undecidable:
        pass
