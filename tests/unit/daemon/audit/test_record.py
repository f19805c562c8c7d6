# SPDX-License-Identifier: LGPL-2.1-or-later
"""`audit.record`: who, what and why, as docs/events.md says, bounded for the log."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.auditing import ALICE, RULE, context, nic
from support.records import DOCUMENT, fields, rows
from tapster.daemon.audit import events
from tapster.daemon.audit import record as audit
from tapster.daemon.audit.request_context import RequestContext
from tapster.daemon.identify.program import ProgramReader
from tapster.model import Peer
from tapster.wire.objects import Event

ROOT = Path(__file__).resolve().parents[4]
SOURCES = sorted((ROOT / "src/tapster/daemon").rglob("*.py"))
TEXT = st.text(max_size=2000)
SENTENCE = (
    "detached tapsternabc: user alice (uid 23001), pid 17,"
    " guest web on default, mac 0a:00:00:00:00:01"
)


def test_the_document_has_each_field_with_its_type() -> None:
    assert {
        name: f"{kind.__name__} | None" if nullable else kind.__name__
        for name, (kind, nullable) in fields().items()
    } == {
        name: kind.__name__ if type(kind) is type else str(kind)
        for name, kind in get_type_hints(Event).items()
    }


def test_the_document_has_each_event_with_its_outcome_and_id() -> None:
    assert {row[0]: (row[1], row[2]) for row in rows("Events")} == {
        name: tuple(kind) for name, kind in audit.KINDS.items()
    }


def test_the_manual_page_has_the_fields_and_events_of_the_document() -> None:
    text = (ROOT / "docs/man/tapsterd.8").read_text()
    log = text.split("\n.Ss Log\n")[1].split("\n.Ss ")[0]
    items = re.findall(r"^\.It Li (.+)$", log, re.M)
    assert sorted(" , ".join(items).split(" , ")) == sorted(fields())
    named = re.findall(r"^\.Cm ([a-z-]+)", log.split(".It Li verb")[0], re.M)
    assert named == list(audit.KINDS)


def test_every_event_that_the_daemon_tells_has_a_kind() -> None:
    told = {"watching", "suppressed", "network", "denied", "failed"}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("about", "changed")
                and ast.unparse(node.func.value).endswith("events")
            ):
                assert isinstance(node.args[0], ast.Constant), ast.unparse(node)
                told.add(str(node.args[0].value))
    assert told <= set(audit.KINDS)


def test_message_ids_are_unique_and_in_the_journal_s_form() -> None:
    ids = [kind.message_id for kind in audit.KINDS.values()]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in ids)


def test_the_document_says_what_the_limits_are() -> None:
    from tapster.daemon.fairness import throttle

    words = " ".join(DOCUMENT.split())
    assert f"{throttle.BURST} of a user at once" in words
    assert f"{throttle.RATE:g} a second" in words
    assert f"within {events.SUM_UP:g} seconds" in words
    assert f"{audit.MAX_TEXT} characters" in words


def test_the_document_s_examples_name_fields_that_exist() -> None:
    for name in re.findall(r"\bTAPSTER_([A-Z0-9_]*[A-Z0-9])", DOCUMENT):
        assert name.lower() in fields(), name
    ids = {kind.message_id for kind in audit.KINDS.values()}
    assert set(re.findall(r"\b[0-9a-f]{32}\b", DOCUMENT)) == ids


@pytest.mark.skipif(not shutil.which("jq"), reason="jq is not installed")
def test_jq_takes_the_document_s_filters() -> None:
    filters = re.findall(r"jq ((?:-\w+ )*)'([^']*)'", DOCUMENT)
    assert len(filters) >= 3
    event = Event("2026-01-02T03:04:05.678+00:00", "denied", duration=3)
    line = json.dumps(vars(event))
    for options, text in filters:
        done = subprocess.run(
            ["jq", *options.split(), text],
            input=f"tapsterd: INFO: serving\n{line}\n" if "R" in options else line,
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stderr) == (0, ""), text


def test_a_record_of_a_request_says_what_was_asked_for() -> None:
    request = context(network="lan", name="web", mac="02:00:00:00:00:01", rule=RULE)
    made = audit.make_event("denied", request, duration=12, reason="why")
    assert (made.verb, made.outcome, made.uid, made.gid, made.pid) == (
        "attach", "denied", ALICE, ALICE + 1, 0,
    )  # fmt: skip
    assert (made.network, made.bridge, made.name) == ("lan", None, "web")
    assert (made.rule, made.reason, made.duration) == (RULE, "why", 12)
    assert made.owner is None


def test_a_record_is_one_line_of_ascii_whatever_is_in_it() -> None:
    made = audit.make_event(
        "denied", context(name='a\n"\x7f\u2028\ud800'), reason="\x1b\0"
    )
    line = audit.Record(made).line()
    assert line.isascii() and line.isprintable()
    assert json.loads(line) == vars(made)


@given(TEXT, TEXT, TEXT)
def test_a_record_is_bounded_and_can_be_written(
    name: str, reason: str, rule: str
) -> None:
    made = audit.make_event("failed", context(name=name, rule=rule), reason=reason)
    record = audit.Record(made)
    assert len(record.line()) < 32 * audit.MAX_TEXT
    for value in record.fields().values():
        value.encode()
    assert str(record).isprintable()


def test_a_record_in_the_journal_has_its_fields_by_name() -> None:
    made = audit.make_event("attached", context(rule=RULE), **audit.nic_fields(nic()))
    fields = audit.Record(made).fields()
    assert fields.pop("MESSAGE").startswith("attached tapsternabc: user ")
    assert fields.pop("MESSAGE_ID") == audit.KINDS["attached"].message_id
    assert fields == {
        f"TAPSTER_{name.upper()}": str(value)
        for name, value in vars(made).items()
        if value is not None and name != "time"
    }


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (
            audit.make_event(
                "denied", context(network="lan", rule=RULE), reason="why"
            ),
            f"denied attach: user {ALICE} (uid {ALICE}), pid 0, lan: why [{RULE}]",
        ),
        (
            audit.make_event("forward-added", context(port="tcp/80", name="web")),
            f"forward-added tcp/80: user {ALICE} (uid {ALICE}), pid 0, guest web",
        ),
        (audit.make_event("reloaded"), "reloaded"),
        (
            audit.make_event("network", network="lan", bridge="b", reason="a\nb"),
            r"network: lan: a\nb",
        ),
        (
            audit.make_event("detached", uid=ALICE, user="alice", pid=17,
                       **audit.nic_fields(nic())),
            SENTENCE,
        ),
    ],
    ids=lambda value: value.event if isinstance(value, Event) else "",
)  # fmt: skip
def test_a_record_for_people_is_a_sentence(made: Event, words: str) -> None:
    assert str(audit.Record(made)) == words


def test_a_record_has_the_name_that_a_process_gave_itself_and_no_more() -> None:
    name = rb") S 1 \n\xff"
    script = f"""if True:
        import sys
        open("/proc/self/comm", "wb").write({name!r})
        print(flush=True)
        sys.stdin.read()
    """
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None and child.stdin is not None
        child.stdout.readline()
        who = Peer(os.getuid(), os.getgid(), frozenset(), child.pid)
        context = RequestContext(who, "attach")
        program = ProgramReader().read(who.pid, who.uid, context.arrived)
        made = audit.make_event("attached", context, program)
        child.stdin.close()
    assert made.command == r") S 1 \n\xff"
    assert "\n" not in audit.Record(made).line()
    assert str(audit.Record(made)).isprintable()
