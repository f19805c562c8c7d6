# SPDX-License-Identifier: LGPL-2.1-or-later
"""`daemon/resolve/forward.py`: what a request about a forward may say."""

from __future__ import annotations

import pytest

from tapster.daemon.resolve.forward import parse_forward, parse_network, parse_port
from tapster.errors import InvalidRequest
from tapster.model import Forward, Port


def test_no_network_is_the_default_one() -> None:
    assert parse_network(None) == "default"


@pytest.mark.parametrize("name", ["", "-lab", "lab_1", "x" * 64, "a/b"])
def test_a_network_that_can_have_no_such_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="network"):
        parse_network(name)


@pytest.mark.parametrize(
    ("port", "problem"),
    [("8080", "not a port"), ("tcp/0", "not a port"), ("tcp/80-90", "a range")],
)
def test_what_is_not_one_port_of_the_host_is_refused(port: str, problem: str) -> None:
    with pytest.raises(InvalidRequest, match=problem):
        parse_port(port)


def test_a_guests_name_is_taken_in_lower_case() -> None:
    wanted = Forward(Port("tcp", 8080, 8080), "web", 80)
    assert parse_forward("tcp/8080", "WEB", 80) == wanted


@pytest.mark.parametrize("guest", ["", "web.lab", "web-"])
def test_what_no_guest_can_be_called_is_refused(guest: str) -> None:
    with pytest.raises(InvalidRequest, match="guest: not a host name"):
        parse_forward("tcp/8080", guest, 80)


@pytest.mark.parametrize("number", [0, 65536, -1, True])
def test_what_is_no_port_of_a_guest_is_refused(number: int) -> None:
    with pytest.raises(InvalidRequest, match="guest_port: not a port"):
        parse_forward("tcp/8080", "web", number)
