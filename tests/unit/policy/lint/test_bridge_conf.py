# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is said of bridge.conf agrees with what requests get by it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.linting import HOST
from tapster.policy.foreign.access import Contents
from tapster.policy.foreign.bridge_conf import judge
from tapster.policy.foreign.bridge_conf_includes import MAX_DEPTH, MAX_FILES
from tapster.policy.foreign.permissions import Undecidable
from tapster.policy.lint.bridge_conf import BridgeConf, Files, lint_bridge_conf
from tapster.policy.lint.findings import Severity

REFUSED = "every request for a Linux bridge is refused"
Tree = Mapping[str, bytes | int | str]


def loaded(tree: Tree) -> Files:
    """Files by path: contents, or the number or text of what they fail with."""

    def load(path: bytes, limit: int) -> Contents:
        name = path.decode()
        found = tree.get(name, errno.ENOENT)
        if isinstance(found, int):
            raise OSError(found, os.strerror(found))
        if isinstance(found, str):
            raise Undecidable(found)
        if len(found) > limit:
            raise Undecidable("too large")
        return Contents(found, (1, hash(name)), name.endswith(".d"))

    def look(path: bytes) -> os.stat_result:
        mode = 0o644 if b"open" not in path else 0o666
        owner = 1000 if b"alice" in path else 0
        return os.stat_result((stat.S_IFREG | mode, 1, 1, 1, owner, 0, 0, 0, 0, 0))

    return Files(load, look, is_root=True)


def check(
    tree: Tree, *, strict: bool = False, is_root: bool = True, main: str = "/m"
) -> BridgeConf:
    files = loaded(tree)._replace(is_root=is_root)
    return lint_bridge_conf(main, strict, HOST, files)


def said(tree: Tree, *, strict: bool = False, is_root: bool = True) -> list[str]:
    found = check(tree, strict=strict, is_root=is_root).findings
    return [f"{f.location}: {f.severity}: {f.message}" for f in found]


def test_of_a_file_in_order_nothing_is_said() -> None:
    tree = {"/m": b"# bridges\nallow br0\ninclude /a\n", "/a": b"deny br1\n"}
    found = check(tree)
    assert found == BridgeConf([], True, True, {"br0": "/m:2"}, {})
    assert found.allowed(["br0", "br1"]) == ["br0"]


def test_of_a_missing_file_nothing_is_said() -> None:
    assert check({}) == BridgeConf([], False, False, {}, {})


def test_what_has_the_broker_refuse_everything_is_an_error() -> None:
    trees: list[tuple[Tree, str, str]] = [
        ({"/m": b"allow br0\nallow\n"}, "/m:2", "a word alone"),
        ({"/m": b"include /a\n", "/a": b"include /m"}, "/a:1", "includes itself"),
        ({"/m": errno.ELOOP}, "/m", os.strerror(errno.ELOOP)),
        ({"/m": "neither a regular file nor a directory"}, "/m", "neither a regular"),
        ({"/m": b"include /f", "/f": "neither a regular file"}, "/m:1", "neither a"),
    ]
    for tree, location, why in trees:
        (only,) = said(tree)
        assert only.startswith(f"{location}: error: ")
        assert why in only
        assert only.endswith(REFUSED)
        assert check(tree).allowed(["br0"]) == []


IGNORED: list[tuple[Tree, str]] = [
    ({"/m": b"include /a\n"}, "/m:1: {}/a: No such file or directory"),
    ({"/m": b"include a\n"}, "/m:1: {}a is not a whole path"),
    ({"/m": b"include /a.d\n", "/a.d": b""},
     "/m:1: {}/a.d: a directory, which counts as empty"),
    ({"/m": b"include /a\n", "/a": b"allow br0\nalow br1\n"},
     "/a:2: {}unknown word; nothing behind it counts"),
]  # fmt: skip


@pytest.mark.parametrize(("tree", "says"), IGNORED)
def test_an_include_that_is_passed_over_is_told(tree: Tree, says: str) -> None:
    assert said(tree) == [
        says.replace("{}", "ignored: ").replace(": ", ": warning: ", 1)
    ]
    strict = says.replace("{}", "").replace(": ", ": error: ", 1)
    assert said(tree, strict=True) == [f"{strict}: {REFUSED}"]


def test_strict_includes_that_fail_are_told_all() -> None:
    assert len(said({"/m": b"include /a\ninclude /b\n"}, strict=True)) == 2


def test_a_file_that_who_checks_may_not_read_is_told_as_not_checked() -> None:
    tree: Tree = {
        "/m": b"include /a\ninclude /b\n",
        "/a": errno.EACCES,
        "/b": "the broker cannot reach it: Permission denied",
    }
    first, second = said(tree, is_root=False)
    assert first == "/m:1: note: not checked, as you may not read it: Permission denied"
    assert second.startswith("/m:2: note: not checked")
    assert check(tree, is_root=False).may_allow
    (main,) = said({"/m": errno.EACCES}, is_root=False)
    assert main.startswith("/m: note: not checked")


def test_names_that_are_no_bridge_s_are_told_once() -> None:
    text = b"allow br7\nallow br7\ndeny eth0\nallow br0 # why\nallow \xff\nallow a/b\n"
    assert said({"/m": text}) == [
        "/m:1: note: there is no Linux bridge 'br7' on this host",
        "/m:3: warning: 'eth0' is not a Linux bridge",
        "/m:4: warning: no interface can have this name",
        "/m:5: note: there is no Linux bridge '\\\\xff' on this host",
        "/m:6: warning: no interface can have this name",
    ]


def test_a_main_file_that_allows_everyone_everything_is_told() -> None:
    (found,) = check({"/m": b"allow all\n"}).findings
    assert (found.location, found.code) == ("/m:1", "allows-all-bridges")
    # This may be read by few.
    assert said({"/m": b"include /a\n", "/a": b"allow all"}) == []


def test_a_file_that_others_may_write_is_told() -> None:
    tree = {"/open": b"include /alice\n", "/alice": b""}
    found = check(tree, main="/open").findings
    assert [(f.location, f.code) for f in found] == [
        ("/open", "other-writer"),
        ("/alice", "other-writer"),
    ]
    assert "mode 0666" in found[0].message
    assert "uid 1000" in found[1].message


@pytest.mark.parametrize("strict", [False, True])
def test_a_broken_limit_is_told_where_it_is_broken(strict: bool) -> None:
    deep = {f"/{n}": f"include /{n + 1}\n".encode() for n in range(MAX_DEPTH + 5)}
    (found,) = check(deep, main="/0", strict=strict).findings
    assert f"more than {MAX_DEPTH} files deep" in found.message
    many = {"/m": b"include /a\n" * (MAX_FILES + 5), "/a": b"allow br0\n"}
    (found,) = check(many, strict=strict).findings
    assert f"more than {MAX_FILES} files" in found.message
    assert found.line == MAX_FILES


LINES = st.sampled_from(
    [
        "allow br0", "allow br1", "allow all", "deny br0", "deny br1", "deny all",
        "include /m", "include /a", "include /b", "include /c.d", "include rel",
        "include /none", "include /fifo", "allow", "# a comment", "", "\tallow br1",
        "allow br0 # why", "deny br0\0", "bogus br0",
    ]
)  # fmt: skip
TEXTS = st.lists(LINES, max_size=5).map("\n".join).map(str.encode)


@settings(max_examples=4 * settings().max_examples, deadline=None)
@given(TEXTS, TEXTS, TEXTS, st.booleans())
def test_what_is_said_agrees_with_what_requests_get(
    main: bytes, a: bytes, b: bytes, strict: bool
) -> None:
    tree: Tree = {"/m": main, "/a": a, "/b": b, "/c.d": b"", "/fifo": "a FIFO"}
    found = check(tree, strict=strict)
    verdicts = {
        bridge: judge("/m", bridge, loaded(tree).load, strict)
        for bridge in ("br0", "br1", "br9")
    }
    refused = any(f.severity is Severity.ERROR for f in found.findings)
    for bridge, verdict in verdicts.items():
        assert verdict.undecided is refused
        if found.allowed([bridge]):
            assert verdict.allowed
        if bridge in found.denies or "all" in found.denies:
            assert not verdict.allowed
        if not found.may_allow:
            assert not verdict.allowed
        for note in verdict.notes:  # all that the log is told
            locations = [f"{f.file}:{f.line}: " for f in found.findings]
            assert strict or any(location in note for location in locations)
