# SPDX-License-Identifier: LGPL-2.1-or-later
"""`hooks/payload.py`: what hooks are told, and that docs/hooks.md says the same."""

from __future__ import annotations

import json
import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from support.builders import make_nic
from tapster.client.connection import TIMEOUT
from tapster.daemon.process.spawned import DEFAULT_PATH
from tapster.daemon.process.spawned.hook import MARK
from tapster.daemon.publish.hooks import execution, payload
from tapster.policy.config.load import HookSettings

NIC = make_nic(
    ifname="tapsternaaaaaaa",
    bridge="br0",
    network=None,
    pid=12,
    mac="52:54:00:00:00:01",
    ipv4="10.0.0.2",
)


def test_an_attach_payload_lists_every_nic_field() -> None:
    told = payload.of_event("attach", "10-a", payload.of_nic(NIC), False, None)
    assert tuple(told) == payload.OF_EACH + payload.OF_NIC
    assert json.loads(payload.as_stdin(told)) == told
    assert payload.as_environment(told, "/run/x") == {
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


def test_again_is_1_in_the_environment_or_not_there() -> None:
    told = payload.of_event("detach", "a", {}, True, "why")
    assert payload.as_environment(told, "")["TAPSTER_AGAIN"] == "1"
    assert json.loads(payload.as_stdin(told))["again"] is True


@given(st.text())
def test_no_text_begins_a_line_of_its_own(text: str) -> None:
    told = payload.of_event("tamper", "a", {"user": text}, False, text)
    for value in payload.as_environment(told, "").values():
        assert value.isprintable()
    assert payload.as_stdin(told).count(b"\n") == 1


def test_what_a_hook_is_told_fits_its_pipe() -> None:
    # The longest values there are: a user's name by NSS, and a path's reason.
    about = dict.fromkeys(payload.OF_NIC, "x" * 1024)
    told = payload.of_event("attach", "x" * 64, about, True, "é" * 1024)
    assert len(payload.as_stdin(told)) < execution.STDIN_LIMIT


class TestDocument:
    """docs/hooks.md says what the code does."""

    TEXT = (Path(__file__).resolve().parents[5] / "docs/hooks.md").read_text()

    def rows(self, heading: str) -> list[list[str]]:
        part = self.TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
        table = [line for line in part.splitlines() if line.startswith("|")]
        return [[c.strip(" `") for c in row.split("|")[1:-1]] for row in table[2:]]

    def test_document_has_every_event(self) -> None:
        assert tuple(row[0] for row in self.rows("Events")) == payload.EVENTS

    def test_document_has_every_field(self) -> None:
        said = {row[0]: row[2] for row in self.rows("What it is told")}
        for of, fields in (
            ("taps", payload.OF_NIC),
            ("networks", payload.OF_NETWORK),
        ):
            assert {f for f, on in said.items() if on in (of, "both")} == {*fields}
        both = {field for field, on in said.items() if on == "both"}
        assert both == {*payload.OF_NIC} & {*payload.OF_NETWORK}
        assert [f for f, on in said.items() if on == "all"] == [*payload.OF_EACH]

    def test_document_has_the_type_of_every_field(self) -> None:
        for field, kind, *_ in self.rows("What it is told"):
            assert (kind.startswith("integer")) == (field in payload.NUMBERS)

    def test_document_has_the_environment(self) -> None:
        assert f"`PATH={DEFAULT_PATH}`" in self.TEXT
        assert f"`{MARK}`" in self.TEXT

    def test_document_has_the_limits(self) -> None:
        assert f"{execution.LINES} lines of {execution.LINE} bytes" in self.TEXT
        settings = HookSettings()
        assert (
            f"`timeout_seconds` in `[hooks]`, {settings.timeout_seconds} by"
            in self.TEXT
        )
        assert f"Callers wait {TIMEOUT:.0f} seconds" in self.TEXT

    def test_document_has_the_example_whole(self) -> None:
        path = Path(__file__).resolve().parents[5] / "data/hooks.d/50-rules-and-route"
        assert f"```sh\n{path.read_text()}```" in self.TEXT
        assert os.access(path, os.X_OK)
