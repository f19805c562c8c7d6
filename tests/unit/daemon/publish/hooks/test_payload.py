# SPDX-License-Identifier: LGPL-2.1-or-later
"""What hooks are told, what is noted down of it, and what of their output is."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapster.client.connection import TIMEOUT
from tapster.daemon.nics.ledger import Nic
from tapster.daemon.process.spawned import DEFAULT_PATH
from tapster.daemon.process.spawned.hook import MARK
from tapster.daemon.publish.hooks import payload as hook_words
from tapster.daemon.publish.hooks import runner as hook_process
from tapster.daemon.publish.hooks.pending import Due, Records, parse
from tapster.daemon.publish.hooks.runner import LINE, LINES, Lines
from tapster.errors import BrokerFailure
from tapster.model import State
from tapster.policy.config.load import HookSettings

NIC = Nic(
    *("tapsternaaaaaaa", 7, "br0", 3, None, 1000, "alice", 12, "vm1"),
    *("52:54:00:00:00:01", "10.0.0.2", None, 1500, State.ACTIVE),
)


class TestWords:
    def test_are_the_nics(self) -> None:
        told = hook_words.of_event(
            "attach", "10-a", hook_words.of_nic(NIC), False, None
        )
        assert tuple(told) == hook_words.OF_EACH + hook_words.OF_NIC
        assert json.loads(hook_words.as_stdin(told)) == told
        assert hook_words.as_environment(told, "/run/x") == {
            "TAPSTER_EVENT": "attach",
            "TAPSTER_HOOK": "10-a",
            "TAPSTER_IFNAME": "tapsternaaaaaaa",
            "TAPSTER_MAC": "52:54:00:00:00:01",
            "TAPSTER_IPV4": "10.0.0.2",
            "TAPSTER_MTU": "1500",
            "TAPSTER_BRIDGE": "br0",
            "TAPSTER_UID": "1000",
            "TAPSTER_USER": "alice",
            "TAPSTER_PID": "12",
            "TAPSTER_NAME": "vm1",
            "TAPSTER_RUN": "/run/x",
        }

    def test_again_is_one_or_nothing(self) -> None:
        told = hook_words.of_event("detach", "a", {}, True, "why")
        assert hook_words.as_environment(told, "")["TAPSTER_AGAIN"] == "1"
        assert json.loads(hook_words.as_stdin(told))["again"] is True

    @given(st.text())
    def test_no_text_has_a_line_of_its_own(self, text: str) -> None:
        told = hook_words.of_event("tamper", "a", {"user": text}, False, text)
        for value in hook_words.as_environment(told, "").values():
            assert value.isprintable()
        assert hook_words.as_stdin(told).count(b"\n") == 1


class TestLines:
    def lines(self, *data: bytes) -> tuple[list[str], str]:
        told: list[str] = []
        lines = Lines(told.append)
        for part in data:
            lines.feed(part)
        lines.finish()
        return told, lines.last

    def test_are_told_whole(self) -> None:
        assert self.lines(b"a\nb", b"c\n\n", b"d") == (["a", "bc", "d"], "d")
        assert self.lines() == ([], "")

    def test_what_is_no_text_is_told_too(self) -> None:
        assert self.lines(b"\xff\x1b[2J\n")[0] == ["\\xff\x1b[2J"]

    def test_too_many_are_counted(self) -> None:
        told, last = self.lines(b"x\n" * (LINES + 5) + b"last\n")
        assert told == ["x"] * LINES + ["... and 6 more lines"] and last == "last"

    @given(st.lists(st.binary(max_size=4 * LINE), max_size=20))
    def test_are_bounded(self, data: list[bytes]) -> None:
        told, last = self.lines(*data)
        assert len(told) <= LINES + 1
        assert all(len(line) <= 4 * LINE + 3 for line in [*told, last])
        assert "\n" not in "".join(told)

    def test_one_without_an_end_is_not_kept(self) -> None:
        lines = Lines(lambda _: None)
        for _ in range(100):
            lines.feed(b"x" * 65536)
        assert len(lines._rest) <= LINE + 1


class TestRecords:
    @pytest.fixture
    def records(self, tmp_path: Path) -> Records:
        return Records(str(tmp_path / "hooks-due"))

    def due(self) -> Due:
        return Due(NIC.ifname, hook_words.of_nic(NIC), ["10-a", "20-b"], "10-a")

    def test_nothing_is_made_for_nothing(self, records: Records) -> None:
        assert list(records.all()) == []
        records.remove(self.due())
        assert not os.path.exists(records.directory)

    def test_come_back(self, records: Records) -> None:
        records.write(self.due())
        assert list(records.all()) == [self.due()]
        records.remove(self.due())
        assert os.listdir(records.directory) == []

    def test_are_nobody_elses(self, records: Records) -> None:
        records.write(self.due())
        assert os.stat(records.directory).st_mode & 0o777 == 0o700
        assert os.stat(records.path(NIC.ifname)).st_mode & 0o777 == 0o600

    def test_one_that_was_not_finished_does_not_count(self, records: Records) -> None:
        records.write(self.due())
        Path(records.path("x.new")).write_text("{")
        assert list(records.all()) == [self.due()]
        assert os.listdir(records.directory) == [NIC.ifname]

    @pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '"x"', "[" * 9999])
    def test_damaged_ones_go(
        self, records: Records, text: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        records.write(self.due())
        Path(records.path(NIC.ifname)).write_text(text)
        assert list(records.all()) == []
        assert os.listdir(records.directory) == [] and "is damaged" in caplog.text

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("words", {}),
            ("words", {"ifname": NIC.ifname}),
            ("words", {**hook_words.of_nic(NIC), "ifname": "other"}),
            ("words", {**hook_words.of_nic(NIC), "name": ["x"]}),
            ("words", {**hook_words.of_nic(NIC), "more": 1}),
            ("words", {**hook_words.of_nic(NIC), "uid": "x"}),
            ("words", {**hook_words.of_nic(NIC), "uid": None}),
            ("begun", "10-a"),
            ("begun", [1]),
            ("begun", ["../x"]),
            ("ending", "30-c"),
            ("ending", 1),
        ],
    )
    def test_what_makes_no_sense(self, key: str, value: Any) -> None:
        due = self.due()
        data = {"words": due.words, "begun": due.begun, "ending": due.ending}
        assert parse(NIC.ifname, data) == due
        with pytest.raises((ValueError, TypeError, KeyError)):
            parse(NIC.ifname, {**data, key: value})

    @given(st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ))  # fmt: skip
    def test_any_json(self, data: Any) -> None:
        with pytest.raises((ValueError, TypeError, KeyError)):
            parse(NIC.ifname, data)


def test_what_a_hook_is_told_fits_its_pipe() -> None:
    # The longest words there are: a user's name by NSS, and a path's reason.
    words = dict.fromkeys(hook_words.OF_NIC, "x" * 1024)
    told = hook_words.of_event("attach", "x" * 64, words, True, "é" * 1024)
    assert len(hook_words.as_stdin(told)) < hook_process.STDIN_LIMIT


@pytest.mark.usefixtures("no_leaked_fd")
def test_a_pipe_that_is_too_small_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the kernel makes them for a user who has very many."""
    real = os.pipe2

    def small(flags: int) -> tuple[int, int]:
        ends = real(flags)
        fcntl.fcntl(ends[1], 1031, 4096)  # F_SETPIPE_SZ
        return ends

    monkeypatch.setattr(os, "pipe2", small)
    order = hook_process.Order("it", -1, "attach", {}, b"x" * 20_000, 1.0)
    nobody: Any = None
    with pytest.raises(BrokerFailure, match="does not take"):
        asyncio.run(hook_process.run(nobody, order, print))


class TestDocument:
    """docs/hooks.md says what the code does."""

    TEXT = (Path(__file__).resolve().parents[5] / "docs/hooks.md").read_text()

    def rows(self, heading: str) -> list[list[str]]:
        part = self.TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
        table = [line for line in part.splitlines() if line.startswith("|")]
        return [[c.strip(" `") for c in row.split("|")[1:-1]] for row in table[2:]]

    def test_every_event(self) -> None:
        assert tuple(row[0] for row in self.rows("Events")) == hook_words.EVENTS

    def test_every_word(self) -> None:
        said = {row[0]: row[2] for row in self.rows("What it is told")}
        for of, words in (
            ("taps", hook_words.OF_NIC),
            ("networks", hook_words.OF_NETWORK),
        ):
            assert {w for w, whose in said.items() if whose in (of, "both")} == {*words}
        both = {word for word, whose in said.items() if whose == "both"}
        assert both == {*hook_words.OF_NIC} & {*hook_words.OF_NETWORK}
        assert [w for w, of in said.items() if of == "all"] == [*hook_words.OF_EACH]

    def test_every_type(self) -> None:
        for word, kind, *_ in self.rows("What it is told"):
            assert (kind.startswith("integer")) == (word in hook_words.NUMBERS)

    def test_the_environment(self) -> None:
        assert f"`PATH={DEFAULT_PATH}`" in self.TEXT
        assert f"`{MARK}`" in self.TEXT

    def test_the_limits(self) -> None:
        assert f"{LINES} lines of {LINE} bytes" in self.TEXT
        settings = HookSettings()
        assert (
            f"`timeout_seconds` in `[hooks]`, {settings.timeout_seconds} by"
            in self.TEXT
        )
        assert f"Callers wait {TIMEOUT:.0f} seconds" in self.TEXT

    def test_the_example(self) -> None:
        path = Path(__file__).resolve().parents[5] / "data/hooks.d/50-rules-and-route"
        assert f"```sh\n{path.read_text()}```" in self.TEXT
        assert os.access(path, os.X_OK)
