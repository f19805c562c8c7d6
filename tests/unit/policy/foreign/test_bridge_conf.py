# SPDX-License-Identifier: LGPL-2.1-or-later
"""bridge.conf: what a set of files decides."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapster.policy.core.facts import Source, Verdict
from tapster.policy.foreign import bridge_conf, bridge_conf_includes
from tapster.policy.foreign.access import Contents
from tapster.policy.foreign.bridge_conf import (
    decide,
    judge,
    judge_all,
)
from tapster.policy.foreign.permissions import Reader, Undecidable

ME = Reader(os.getuid(), os.getgid(), frozenset(os.getgroups()))


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


@given(st.binary(), st.text(max_size=20))
def test_any_bytes_give_a_verdict(data: bytes, bridge: str) -> None:
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
def test_nearly_right_files_give_a_verdict(main: bytes, included: bytes) -> None:
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
def test_the_verdict_names_the_line_that_decided(
    files: dict[str, bytes], allowed: bool, reason: str
) -> None:
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


def test_not_more_than_some_notes_are_kept() -> None:
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
    wide = b"allow all\n" + b"include /gone\n" * bridge_conf_includes.MAX_FILES
    verdict = over({"/m": wide})
    assert (verdict.allowed, "1024 files" in verdict.reason) == (False, True)
    big = (b"#" * 1023 + b"\n") * (bridge_conf_includes.MAX_BYTES // 2048 + 1)
    verdict = over({"/m": b"allow all\ninclude /x\ninclude /x", "/x": big})
    assert (verdict.allowed, "too large" in verdict.reason) == (False, True)
    long = b"\n" * (bridge_conf_includes.MAX_LINES // 2)
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
def test_strict_includes_only_refuse_what_was_allowed(
    main: bytes, included: bytes
) -> None:
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


def test_strict_includes_refuse_what_is_missing_on_disk(tmp_path: Path) -> None:
    other = tmp_path / "x"
    (tmp_path / "m").write_text(f"allow br0\ninclude {other}\n")
    location = f"{tmp_path}/m:2: include {other}: "
    assert on_disk(tmp_path).allowed
    assert (
        on_disk(tmp_path, strict=True).reason == f"{location}No such file or directory"
    )
    other.mkdir()
    assert on_disk(tmp_path).allowed
    assert on_disk(tmp_path, strict=True).reason == f"{location}a directory"
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
