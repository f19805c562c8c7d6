# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster doctor`: findings by severity, and the finding that nobody answers."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.broker import FINDING, FakeBroker, encode, error, hang_up, say
from support.command import tapster
from tapster.cli import doctor

pytestmark = pytest.mark.usefixtures("no_leaked_fd")

WARNING = {
    "code": "docker",
    "severity": "warning",
    "message": "Docker drops what is forwarded\x1b",
    "remedy": "iptables -I DOCKER-USER -j ACCEPT\nor remove\tDocker",
}
INFO = {"code": "old", "severity": "info", "message": "no MAB here", "remedy": None}
FUTURE = {**INFO, "severity": "advice", "more": 1}


def found(*findings: Mapping[str, object]) -> bytes:
    return encode({"findings": list(findings)})


def test_most_severe_finding_comes_first_with_its_remedy(path: str) -> None:
    again = {**FINDING, "message": "again"}
    with FakeBroker(path, say(found(FUTURE, INFO, WARNING, FINDING, again))) as broker:
        done = tapster("doctor", broker=path)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines() == [
        "error: net.ipv4.ip_forward is off [ip-forward]",
        "  sysctl -w net.ipv4.ip_forward=1",
        "error: again [ip-forward]",
        "  sysctl -w net.ipv4.ip_forward=1",
        "warning: Docker drops what is forwarded? [docker]",
        "  iptables -I DOCKER-USER -j ACCEPT",
        "  or remove?Docker",
        "info: no MAB here [old]",
        "advice: no MAB here [old]",
    ]
    assert broker.requests[0]["method"] == "io.tapster.Broker.Diagnose"


def test_doctor_json_has_the_fields_of_the_wire_in_order_of_severity(path: str) -> None:
    with FakeBroker(path, say(found(FUTURE, INFO, WARNING, FINDING))):
        done = tapster("doctor", "--json", broker=path)
    assert (done.returncode, done.stderr) == (1, "")
    assert json.loads(done.stdout) == [FINDING, WARNING, INFO, FUTURE]
    assert done.stdout.isascii()


def test_warning_alone_has_status_0(path: str) -> None:
    with FakeBroker(path, say(found(WARNING, INFO)), say(found())):
        done = tapster("doctor", broker=path)
        assert done.returncode == 0
        assert done.stdout.startswith("warning: ")
        done = tapster("doctor", broker=path)
        assert (done.returncode, done.stdout) == (0, "nothing to report\n")
        done = tapster("doctor", "--json", broker=path)
        assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_missing_broker_is_a_finding_and_none_is_started(runtime: str) -> None:
    own = f"not at {runtime}/tapster/io.tapster.Broker (No such file or directory)"
    systems = "not at /nowhere (No such file or directory)"
    for options, places, remedy in (
        ([], f"{systems}, {own}", doctor.START),
        (["--rootless"], own, doctor.START_OWN),
    ):
        done = tapster("doctor", *options, broker=None)
        assert (done.returncode, done.stderr) == (1, "")
        assert done.stdout.splitlines() == [
            f"error: no broker is running: {places} [no-broker]",
            f"  {remedy}",
        ]
    (finding,) = json.loads(tapster("doctor", "--json", broker=None).stdout)
    assert {**finding, "message": ""} == {
        "code": "no-broker",
        "severity": "error",
        "message": "",
        "remedy": doctor.START,
    }
    assert os.listdir(runtime) == []


def test_socket_that_was_left_behind_is_said_in_the_finding(runtime: str) -> None:
    os.mkdir(f"{runtime}/tapster", 0o700)
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(f"{runtime}/tapster/io.tapster.Broker")
    done = tapster("doctor", "--rootless", broker=None)
    assert done.returncode == 1
    assert "/tapster/io.tapster.Broker (Connection refused)" in done.stdout


def test_missing_broker_at_tapster_socket_has_a_remedy() -> None:
    done = tapster("doctor", broker="/nowhere")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines() == [
        "error: no broker at /nowhere: No such file or directory [no-broker]",
        "  unset TAPSTER_SOCKET, or start one: tapsterd --socket /nowhere",
    ]


def test_directory_that_is_not_trusted_is_a_finding(runtime: str) -> None:
    os.mkdir(f"{runtime}/tapster")
    os.chmod(f"{runtime}/tapster", 0o777)
    done = tapster("doctor", broker=None)
    assert done.returncode == 1
    first, second = done.stdout.splitlines()
    assert "is not a private directory of this user" in first
    assert second == "  remove it, or set XDG_RUNTIME_DIR"


def test_broker_that_hangs_up_is_a_finding(path: str) -> None:
    with FakeBroker(path, hang_up):
        done = tapster("doctor", broker=path)
    assert (done.returncode, done.stderr) == (1, "")
    wanted = "error: the broker hung up without an answer [no-broker]\n"
    assert done.stdout == wanted


def test_broker_that_says_no_is_an_error(path: str) -> None:
    older = error("org.varlink.service.MethodNotFound", method="Diagnose")
    busy = error("io.tapster.Broker.BrokerBusy", message="busy", hint="try again")
    with FakeBroker(path, say(busy), say(older), say(found({**INFO, "code": 1}))):
        done = tapster("doctor", broker=path)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "tapster: busy (try again)\n"
        done = tapster("doctor", broker=path)
        assert (done.returncode, done.stdout) == (1, "")
        assert "are broker and client of one version?" in done.stderr
        done = tapster("doctor", broker=path)
        assert (done.returncode, done.stdout) == (1, "")
        assert "has no good code" in done.stderr


@given(st.fixed_dictionaries(dict.fromkeys(FINDING, st.text()) | {"remedy": st.none()}))
def test_finding_without_a_remedy_is_one_printable_line(
    finding: dict[str, object],
) -> None:
    assert doctor.describe(finding).isprintable()


@given(st.text())
def test_every_line_of_a_remedy_is_indented(remedy: str) -> None:
    _, *lines = doctor.describe({**FINDING, "remedy": remedy}).splitlines()
    assert all(line.startswith("  ") and line.isprintable() for line in lines)
    assert len(lines) == len(remedy.splitlines())
