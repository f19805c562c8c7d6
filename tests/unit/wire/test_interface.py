# SPDX-License-Identifier: LGPL-2.1-or-later
"""The interface on the wire: its text is up to date, and its errors are ours."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from asyncvarlink import FileDescriptor, FileDescriptorArray, varlinksignature
from asyncvarlink.conversion import (
    FileDescriptorVarlinkType,
    OOBTypeState,
    VarlinkType,
)

from fakes import broker
from tapster import errors
from tapster.client import connection, fields
from tapster.wire import errors as wire_errors
from tapster.wire import interface


def kinds() -> list[type[errors.RequestError]]:
    """Every error that a broker can answer."""
    return [
        kind
        for kind in errors.RequestError.__subclasses__()
        if kind.__module__ == errors.__name__  # what a module refines is not told
    ]


def test_the_committed_text_is_the_generated_one() -> None:
    path = Path(interface.__file__).with_name(f"{wire_errors.INTERFACE}.varlink")
    assert path.read_text() == interface.description(), "run `make varlink`"


def test_every_error_is_on_the_wire() -> None:
    on_wire = {kind.__name__ for kind in interface.BrokerInterface.errors}
    assert on_wire == {kind.__name__ for kind in kinds()}


@pytest.mark.parametrize("kind", kinds())
@pytest.mark.parametrize("hint", [None, "try that"])
def test_to_wire(kind: type[errors.RequestError], hint: str | None) -> None:
    reply = wire_errors.to_wire(kind("no", hint))
    assert type(reply).__name__ == kind.__name__
    assert reply.name == f"{wire_errors.INTERFACE}.{kind.__name__}"
    assert reply.paramstojson() == {"message": "no", "hint": hint}


def test_an_error_of_no_name_is_a_failure() -> None:
    reply = wire_errors.to_wire(errors.RequestError("what"))
    assert isinstance(reply, wire_errors.BrokerFailure)


STEPS: dict[str, Any] = {"steps": (list[interface.Step], False)}


@pytest.mark.parametrize(
    ("told", "read", "faked"),
    [
        (interface.Nic, fields.NIC, broker.NIC),
        (interface.NetworkInfo, fields.NETWORK, broker.NETWORK),
        (interface.ForwardInfo, fields.FORWARD, broker.FORWARD),
        (interface.Finding, fields.FINDING, broker.FINDING),
        (interface.Step, fields.STEP, broker.STEP),
        (interface.Explanation, {**fields.EXPLANATION, **STEPS}, broker.EXPLANATION),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_the_client_reads_what_the_broker_writes(
    told: type[Any], read: dict[str, tuple[type, bool]], faked: dict[str, Any]
) -> None:
    names = {bool: "bool", int: "int", str: "str", list: "list[str]"}
    wanted = {
        name: names.get(kind, str(kind)) + (" | None" if nullable else "")
        for name, (kind, nullable) in read.items()
    }
    kinds = get_type_hints(told)
    assert {
        name: kind.__name__ if type(kind) is type else str(kind)
        for name, kind in kinds.items()
    } == wanted
    on_wire = VarlinkType.from_type_annotation(told)
    made = told(**faked)
    if faked is broker.EXPLANATION:
        made.steps = [interface.Step(**step) for step in faked["steps"]]
    assert on_wire.tojson(made) == faked


def test_the_client_asks_for_the_brokers_interface() -> None:
    assert connection.INTERFACE == wire_errors.INTERFACE


def test_quick_conversion_of_an_attach_is_the_librarys() -> None:
    nic = interface.Nic(
        ifname="tapsternabc",
        mac="0a:00:00:00:00:01",
        ipv4=None,
        ipv6="fd00::1",
        mtu=1500,
        bridge="br0",
        network="default",
        uid=1000,
        user="alice",
        pid=17,
        name="web",
        state="active",
        reason=None,
        expires="2026-01-02T03:04:05+00:00",
        rx_bytes=1,
        rx_packets=2,
        tx_bytes=3,
        tx_packets=4,
    )
    signature = varlinksignature(interface.BrokerInterface.Attach)
    assert signature is not None
    usual = VarlinkType.from_type_annotation(interface.Attached)
    read, write = os.pipe()
    os.close(write)
    told = []
    for kind in (signature.return_type, usual):
        with FileDescriptorArray.new_managed() as fds:
            state: OOBTypeState = {FileDescriptorVarlinkType: fds}
            value = {"fd": FileDescriptor(os.dup(read), should_close=True), "nic": nic}
            told.append(kind.tojson(value, state))
            assert len(fds) == 1
    os.close(read)
    assert told[0] == told[1]
    assert signature.return_type.as_varlink == usual.as_varlink
