# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.kernel.netlink` and `rtnetlink`: packing, and reading whatever comes.

The kernel sends no garbage; a newer one sends what this has not heard of, and
must not end the broker.
"""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapster.kernel import netlink, rtnetlink
from tapster.kernel.netlink import Reply

# Garbage, and what is well-formed on the outside.
KINDS = st.integers(0, 80) | st.integers(0, 0xFFFF)
LEAVES = st.binary(max_size=40)
ATTRS = st.recursive(
    LEAVES,
    lambda inner: st.lists(st.tuples(KINDS, inner), max_size=6).map(
        lambda pairs: b"".join(netlink.attr(kind, data) for kind, data in pairs)
    ),
    max_leaves=12,
)
BODIES = st.builds(lambda head, rest: head.ljust(16, b"\0") + rest, LEAVES, ATTRS)
PAYLOADS = st.binary(max_size=200) | BODIES


@pytest.mark.parametrize("length", range(9))
def test_attribute_is_padded_to_four_bytes(length: int) -> None:
    raw = netlink.attr(3, b"x" * length)
    assert len(raw) % 4 == 0
    assert [(k, bytes(v)) for k, v in netlink.attrs(raw)] == [(3, b"x" * length)]


@given(st.lists(st.tuples(st.integers(0, netlink.NLA_TYPE_MASK), LEAVES)))
def test_attributes_are_read_as_they_were_packed(
    pairs: list[tuple[int, bytes]],
) -> None:
    raw = b"".join(netlink.attr(kind, data) for kind, data in pairs)
    assert [(kind, bytes(data)) for kind, data in netlink.attrs(raw)] == pairs


def test_nested_attribute_is_marked_as_such() -> None:
    raw = netlink.nested(5, netlink.attr_u8(1, 7), netlink.attr_str(2, "x"))
    assert struct.unpack_from("=HH", raw) == (len(raw), 5 | netlink.NLA_F_NESTED)
    [(kind, inner)] = netlink.attrs(raw)
    assert kind == 5
    found = {k: bytes(v) for k, v in netlink.attrs(inner)}
    assert found == {1: b"\7", 2: b"x\0"}


@given(PAYLOADS, st.integers(0, 300))
def test_attributes_of_garbage_are_read_without_harm(data: bytes, offset: int) -> None:
    for kind, value in netlink.attrs(data, offset):
        assert 0 <= kind <= netlink.NLA_TYPE_MASK
        assert len(value) <= len(data)


@given(st.binary(max_size=200))
def test_messages_of_garbage_are_read_without_harm(data: bytes) -> None:
    total = 0
    for _, _, _, payload in netlink.messages(memoryview(data)):
        total += 16 + len(payload)
    assert total <= len(data)


@given(PAYLOADS, st.integers(0, 0xFFFF))
def test_error_text_of_garbage_is_read_without_harm(data: bytes, flags: int) -> None:
    assert isinstance(netlink._error_text(memoryview(data), flags), str)


@given(PAYLOADS)
def test_replies_of_garbage_are_read_without_harm(data: bytes) -> None:
    reply = Reply(16, memoryview(data))
    link = rtnetlink.parse_link(reply)
    assert link.ifindex == rtnetlink.link_index(reply)
    assert isinstance(link.name, str)
    assert isinstance(rtnetlink.parse_neighbour(reply).mac, str)
    assert 0 <= rtnetlink.link_family(reply) <= 255


def test_link_is_read_with_port_settings_and_names() -> None:
    body = rtnetlink.IFINFO.pack(0, 1, 7, 0x1003, 0)
    body += netlink.attr_str(rtnetlink.IFLA_IFNAME, "tapster1")
    body += netlink.attr_u32(rtnetlink.IFLA_MTU, 9000)
    body += netlink.attr_u32(rtnetlink.IFLA_MASTER, 3)
    body += netlink.attr(rtnetlink.IFLA_ADDRESS, b"\xfe\0\0\0\0\1")
    body += netlink.attr(rtnetlink.IFLA_STATS64, struct.pack("=24Q", *range(24)))
    body += netlink.nested(
        rtnetlink.IFLA_PROP_LIST,
        netlink.attr_str(rtnetlink.IFLA_ALT_IFNAME, "one"),
        netlink.attr_str(rtnetlink.IFLA_ALT_IFNAME, "two"),
    )
    body += netlink.nested(
        rtnetlink.IFLA_LINKINFO,
        netlink.attr_str(rtnetlink.IFLA_INFO_KIND, "tun"),
        netlink.nested(
            rtnetlink.IFLA_INFO_SLAVE_DATA,
            netlink.attr_u8(rtnetlink.IFLA_BRPORT_LOCKED, 1),
        ),
    )
    link = rtnetlink.parse_link(Reply(16, memoryview(body)))
    assert link == rtnetlink.Link(
        7, "tapster1", 0x1003, 9000, "fe:00:00:00:00:01", 3, "tun", "",
        ("one", "two"), {rtnetlink.IFLA_BRPORT_LOCKED: 1}, 0, 1, 2, 3,
    )  # fmt: skip


def test_mac_bytes_takes_a_mac_and_nothing_else() -> None:
    assert netlink.mac_bytes("0A:1b:2c:3d:4e:5f") == bytes.fromhex("0a1b2c3d4e5f")
    for wrong in ("", "0a1b2c3d4e5f     ", "a:1b:2c:3d:4e:5f0", "0a:1b:2c:3d:4e"):
        with pytest.raises(ValueError, match=r"."):
            netlink.mac_bytes(wrong)


def test_an_error_names_its_operation() -> None:
    error = netlink.NetlinkError(17, "create bridge x", "it is there")
    assert str(error) == "create bridge x: File exists: it is there"
    assert error.errno == 17
