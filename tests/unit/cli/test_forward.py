# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster forward`: what is asked for, and where a guest can be reached."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.broker import FORWARD, FakeBroker, encode, error, say
from support.command import tapster
from tapster import errors
from tapster.cli import forward

pytestmark = pytest.mark.usefixtures("no_leaked_fd")

WAITING = {
    **FORWARD,
    "port": "udp/53",
    "guest": "d\x1bns",
    "guest_port": 5353,
    "state": "waiting",
    "uid": None,
    "user": None,
    "ipv4": None,
    "ipv6": None,
    "static": True,
}


def added(told: dict[str, Any]) -> bytes:
    return encode({"forward": told})


def listing(*forwards: dict[str, Any]) -> bytes:
    return encode({"forwards": list(forwards)})


# add --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (["tcp/8080", "web:80"], {"guest": "web", "guest_port": 80}),
        (["tcp/8080", "web"], {"guest": "web", "guest_port": 8080}),
        (
            ["--network", "lab", "tcp/08080", "web:80"],
            {"guest": "web", "guest_port": 80, "network": "lab"},
        ),
    ],
)
def test_forward_add_says_where_the_guest_is_reached(
    path: str, arguments: list[str], asked: dict[str, object]
) -> None:
    with FakeBroker(path, say(added(FORWARD))) as broker:
        done = tapster("forward", "add", *arguments, broker=path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "tcp/8080 of this host leads to web:80 (10.1.2.3, fd00:1::3)\n"
    )
    assert broker.requests == [
        {
            "method": "io.tapster.Broker.AddForward",
            "parameters": {"port": "tcp/8080", **asked},
        }
    ]


def test_forward_add_for_a_guest_that_is_not_attached_waits(path: str) -> None:
    with FakeBroker(path, say(added(WAITING))):
        done = tapster("forward", "add", "udp/53", "dns:5353", broker=path)
    assert done.stdout == (
        "udp/53 of this host leads to d?ns:5353, as soon as that guest is attached\n"
    )


def test_forward_add_without_a_known_address_prints_none(path: str) -> None:
    with FakeBroker(path, say(added({**FORWARD, "ipv4": None, "ipv6": None}))):
        done = tapster("forward", "add", "tcp/8080", "web", broker=path)
    assert done.stdout == "tcp/8080 of this host leads to web:80\n"


def test_refused_forward_is_one_line_with_its_hint(path: str) -> None:
    name = "io.tapster.Broker.ForwardRefused"
    no = error(name, message="tcp/80 is privileged", hint="take one from 1024 up")
    with FakeBroker(path, say(no)):
        done = tapster("forward", "add", "tcp/80", "web", broker=path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "tapster: tcp/80 is privileged (take one from 1024 up)\n"


@pytest.mark.parametrize(
    "port",
    [
        "8080",
        "tcp/0",
        "tcp/65536",
        "tcp/80-90",
        "sctp/80",
        "TCP/80",
        "tcp/",
        "tcp/8080\n",
        "tcp/٣",
        "",
    ],
)
@pytest.mark.parametrize("command", [["add", "web"], ["rm"]])
def test_text_that_is_no_port_is_a_usage_error(command: list[str], port: str) -> None:
    with pytest.raises(errors.UsageError) as caught:
        forward.parse([command[0], port, *command[1:]])
    assert 'write it as "tcp/8080"' in caught.value.oneline()


@pytest.mark.parametrize("guest", ["", ":", ":80", "web:", "web:0", "a:b:1", "web:٣"])
def test_text_that_is_no_guest_and_port_is_a_usage_error(guest: str) -> None:
    with pytest.raises(errors.UsageError) as caught:
        forward.parse(["add", "tcp/80", guest])
    assert 'write it as "web:80"' in caught.value.oneline()


def test_wrong_port_is_refused_before_the_broker_is_asked() -> None:
    done = tapster("forward", "add", "80", "web", broker="/nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "tapster: '80' is not a port of the host"
        ' (write it as "tcp/8080" or "udp/53")\n'
    )


@given(st.text(), st.text())
def test_any_port_and_guest_is_understood_or_a_usage_error(
    port: str, guest: str
) -> None:
    try:
        asked, number = forward.parse_port(port)
        name, inside = forward.parse_guest(guest, number)
    except errors.UsageError as refusal:
        assert "\n" not in refusal.oneline()
        return
    assert asked.endswith(f"/{number}")
    assert name in guest
    assert 1 <= inside <= 65535


# rm ---------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{}, {"network": "lab"}])
def test_forward_rm_asks_for_the_port_and_prints_nothing(
    path: str, more: dict[str, str]
) -> None:
    options = [word for key, value in more.items() for word in (f"--{key}", value)]
    with FakeBroker(path, say(encode({}))) as broker:
        done = tapster("forward", "rm", "tcp/8080", *options, broker=path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert broker.requests == [
        {
            "method": "io.tapster.Broker.RemoveForward",
            "parameters": {"port": "tcp/8080", **more},
        }
    ]


def test_forward_rm_of_an_unknown_port_is_an_error(path: str) -> None:
    no = error("io.tapster.Broker.NoSuchForward", message="tcp/80 leads nowhere")
    with FakeBroker(path, say(no)):
        done = tapster("forward", "rm", "tcp/80", broker=path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "tapster: tcp/80 leads nowhere\n"


# ls ---------------------------------------------------------------------------


def test_forward_ls_json_has_exactly_the_fields_of_the_wire(path: str) -> None:
    future = {**WAITING, "colour": "red"}
    with FakeBroker(path, say(listing(FORWARD, future))):
        done = tapster("forward", "ls", "--json", broker=path)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == [FORWARD, future]
    assert done.stdout.isascii()


def test_forward_ls_has_a_line_for_each_port(path: str) -> None:
    with FakeBroker(path, say(listing(FORWARD, WAITING))):
        done = tapster("forward", "ls", broker=path)
    assert (done.returncode, done.stderr) == (0, "")
    head, first, second = (line.split() for line in done.stdout.splitlines())
    assert head == list(forward.HEAD)
    assert first == [
        "tcp/8080", "web:80", "default", "alice", "active", "10.1.2.3", "fd00:1::3",
        "command",
    ]  # fmt: skip
    assert second == [
        "udp/53", "d?ns:5353", "default", "-", "waiting", "-", "-", "configuration",
    ]  # fmt: skip


def test_forward_ls_without_a_port_says_so(path: str, runtime: str) -> None:
    with FakeBroker(path, say(listing())):
        done = tapster("forward", "ls", broker=path)
        assert (done.returncode, done.stdout) == (0, "")
        assert done.stderr == "tapster: no port leads to a guest\n"
        done = tapster("forward", "ls", "--json", broker=path)
        assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
    done = tapster("forward", "ls", "--json", broker=None)
    assert (done.returncode, done.stdout) == (0, "[]\n")
    assert done.stderr == "tapster: no broker is running\n"
    assert os.listdir(runtime) == []
