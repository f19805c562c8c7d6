# SPDX-License-Identifier: LGPL-2.1-or-later
"""`nics.expected`: what a tap has to look like, and what is tampering."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapster.daemon.nics import expected
from tapster.daemon.nics.nic import Nic
from tapster.kernel import netlink, rtnetlink
from tapster.kernel.rtnetlink import IFF_LOWER_UP, IFF_UP, Link
from tapster.model import State

SETTINGS = rtnetlink.PORT_SETTINGS


def nic(**changes: Any) -> Nic:
    made = Nic(
        ifname="tapstern1234567",
        ifindex=7,
        bridge="tapbr1",
        bridge_index=100,
        network="default",
        uid=1000,
        user="alice",
        pid=4711,
        name="web",
        mac="02:00:00:00:00:01",
        ipv4="10.70.1.2",
        ipv6=None,
        mtu=1500,
        state=State.ACTIVE,
        host_mac="fe:00:00:00:00:01",
    )
    return dataclasses.replace(made, **changes)


def link(of: Nic, **changes: Any) -> Link:
    """A NIC's tap as it was made."""
    port = {SETTINGS[k]: v for k, v in expected.port_settings(of).items()}
    made = Link(
        ifindex=of.ifindex,
        name=of.ifname,
        flags=IFF_UP | IFF_LOWER_UP | 0x1002,
        mtu=of.mtu,
        address=of.host_mac,
        master=of.bridge_index,
        kind="tun",
        alias=of.alias,
        altnames=(of.altname,),
        port={**port, 1: 3, 2: 32},  # and what is none of ours
        rx_packets=0,
        tx_packets=0,
        rx_bytes=0,
        tx_bytes=0,
    )
    return made._replace(**changes)


KINDS = [
    nic(),
    nic(trusted=True),
    nic(isolated=True),
    nic(state=State.WAITING, mac=None),
    nic(state=State.REFUSED, mac=None),
    nic(network=None, bridge="br0"),
]


@pytest.mark.parametrize("one", KINDS)
def test_as_it_was_made_there_is_nothing_to_tell(one: Nic) -> None:
    assert expected.link_drift(one, link(one)) == []
    assert expected.is_tap_of(one, link(one))
    assert expected.is_recorded(one, link(one))


@pytest.mark.parametrize(
    "harmless",
    [
        {"flags": IFF_UP | 0x1002},  # no carrier
        {"flags": IFF_UP | IFF_LOWER_UP},  # no multicast
        {"rx_packets": 5, "tx_bytes": 7},
        {"altnames": ("another",)},
    ],
)
def test_what_is_not_ours_is_nothing_to_tell(harmless: dict[str, Any]) -> None:
    assert expected.link_drift(nic(), link(nic(), **harmless)) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"address": "02:00:00:00:00:02"},
            "MAC fe:00:00:00:00:01 -> 02:00:00:00:00:02",
        ),
        ({"persist": True}, "persistent no -> yes"),
        ({"owner": 1000}, "owner none -> 1000"),
        ({"owner": 0}, "owner none -> 0"),
        ({"group": 36}, "group none -> 36"),
    ],
)
def test_what_a_holder_can_do(change: dict[str, Any], words: str) -> None:
    for one in KINDS:
        (found,) = expected.link_drift(one, link(one, **change))
        assert found.is_unprivileged
        assert str(found) == words


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "other"}, "name tapstern1234567 -> other"),
        ({"alias": ""}, "alias tapster nic network=default user=alice guest=web -> "),
        ({"mtu": 1400}, "MTU 1500 -> 1400"),
        ({"master": 0}, "bridge 100 -> none"),
        ({"master": 101}, "bridge 100 -> 101"),
        ({"flags": 0x1002}, "up yes -> no"),
        ({"flags": IFF_UP | 0x100}, "promisc no -> yes"),
        ({"flags": IFF_UP | 0x80}, "noarp no -> yes"),
        ({"flags": IFF_UP | 0x200}, "allmulti no -> yes"),
    ],
)
def test_what_takes_a_capability(change: dict[str, Any], words: str) -> None:
    (found,) = expected.link_drift(nic(), link(nic(), **change))
    assert not found.is_unprivileged
    assert str(found) == words


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("one", KINDS)
def test_each_setting_of_a_port(one: Nic, name: str) -> None:
    """Of a trusted port only whom it sees is ours; a waiting one's learning is the
    kernel's way of finding its first MAC."""
    made = link(one)
    port = {**made.port, SETTINGS[name]: made.port.get(SETTINGS[name], 0) ^ 1}
    found = expected.link_drift(one, made._replace(port=port))
    ours = name in expected.port_settings(one)
    if one.state is State.WAITING and name in ("learning", "mab"):
        ours = False
    assert [change.what for change in found] == ([name] if ours else [])


def test_a_kernel_that_does_not_know_a_setting() -> None:
    made = link(nic())
    port = {k: v for k, v in made.port.items() if k != SETTINGS["mab"]}
    assert expected.link_drift(nic(), made._replace(port=port)) == []


def test_the_holders_doings_come_first() -> None:
    found = expected.link_drift(
        nic(), link(nic(), mtu=1, name="x", flags=0, address="", group=3)
    )
    assert [change.is_unprivileged for change in found] == [True, True, *[False] * 3]


def test_in_quarantine_it_is_down_and_on_no_bridge_and_no_more() -> None:
    shut = nic(state=State.QUARANTINED)
    changed = link(shut, master=0, flags=0, address="", persist=True, name="x", mtu=1)
    assert expected.link_drift(shut, changed) == []
    assert [str(c) for c in expected.link_drift(shut, link(shut))] == [
        "bridge none -> 100",
        "up no -> yes",
    ]


def test_whose_a_device_is() -> None:
    one = nic()
    assert not expected.is_tap_of(one, None)
    assert not expected.is_tap_of(one, link(one, ifindex=8))
    assert expected.is_tap_of(one, link(one, name="other"))
    assert expected.is_tap_of(one, link(one, alias="other"))
    assert not expected.is_tap_of(
        one, link(one, name="other", alias="tapster nic other")
    )


def test_a_records_device_bears_our_mark() -> None:
    """An index and a name may be anybody's after a while."""
    one = nic()
    assert expected.is_recorded(one, link(one, alias="tapster nic"))
    assert expected.is_recorded(one, link(one, alias=""))
    assert expected.is_recorded(one, link(one, name="other"))
    assert not expected.is_recorded(one, link(one, alias="", altnames=()))
    assert not expected.is_recorded(one, link(one, kind="veth"))
    assert not expected.is_recorded(one, link(one, name="other", alias="", altnames=()))


@given(st.text(max_size=300), st.text(max_size=64))
def test_long_names_are_cut_as_the_kernel_cuts_them(user: str, guest: str) -> None:
    """Bytes, in the middle of a character if it has to be."""
    try:
        user.encode()
        guest.encode()
    except UnicodeEncodeError:
        return
    one = nic(user=user, name=guest)
    kept = one.alias.encode()[:255].decode(errors="replace")
    assert expected.link_drift(one, link(one, alias=kept)) == []
    assert len(one.altname) <= 127


@pytest.mark.parametrize("one", KINDS)
@pytest.mark.parametrize("name", [None, *SETTINGS])
def test_a_message_is_read_unless_it_says_all_is_well(
    one: Nic, name: str | None
) -> None:
    """Whatever `has_settings` lets pass, reading would have let pass."""
    said = {**dict.fromkeys(SETTINGS, 0), **expected.port_settings(one)}
    if name is not None:
        said[name] ^= 1
    body = b"".join(rtnetlink.port_attribute(*each) for each in said.items())
    payload = bytes(16) + netlink.nested(rtnetlink.IFLA_PROTINFO, body)
    port = rtnetlink.parse_port(netlink.Reply(16, memoryview(payload)))
    assert port == {SETTINGS[key]: value for key, value in said.items()}
    found = expected.port_drift(one, port)
    if expected.has_settings(one, payload):
        assert found == []
    elif one.state is not State.WAITING:
        assert [change.what for change in found] == [name]
