# SPDX-License-Identifier: LGPL-2.1-or-later
"""The interface on the wire: its name, and how a reply to Attach is written."""

from __future__ import annotations

import os

from asyncvarlink import FileDescriptor, FileDescriptorArray, varlinksignature
from asyncvarlink.conversion import (
    FileDescriptorVarlinkType,
    OOBTypeState,
    VarlinkType,
)

from tapster.client import reply
from tapster.wire import interface, objects


def test_client_asks_for_the_interface_that_the_broker_serves() -> None:
    assert interface.BrokerInterface.name == reply.INTERFACE


def test_reply_to_attach_is_converted_as_the_library_would() -> None:
    nic = objects.Nic(
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
    usual = VarlinkType.from_type_annotation(objects.Attached)
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
