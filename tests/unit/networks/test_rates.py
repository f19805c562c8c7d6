# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.networks.rates`: what is told. Whether it holds is for tests/kernel."""

from __future__ import annotations

import struct

import pytest

from tapster.kernel.netlink import attrs
from tapster.networks import rates, ruleset

KBIT, MBIT, GBIT = 10**3, 10**6, 10**9
RATES = (8 * KBIT, 64 * KBIT, MBIT, 100 * MBIT, GBIT, 10 * GBIT, 100 * GBIT)


@pytest.mark.parametrize("mtu", [576, 1500, 9000, 65521])
@pytest.mark.parametrize("rate", RATES)
def test_a_bucket_takes_each_frame_and_not_much_more(rate: int, mtu: int) -> None:
    bucket = rates.bucket(rate, mtu)
    assert bucket.rate * 8 == rate
    assert bucket.burst >= mtu + 18
    assert bucket.limit >= 65535 + 18
    assert bucket.burst <= max(rate / 8 / 100, 4 * mtu)
    assert bucket.limit <= max(rate / 8 / 10, 128 * 1024)
    assert max(bucket.burst, bucket.limit) < 1 << 32


@pytest.mark.parametrize("rate", RATES)
def test_a_qdisc_is_packed_as_the_kernel_reads_it(rate: int) -> None:
    request = rates.limit_ingress(7, "tapstern0", rate, 1500)
    assert "tapstern0" in request.operation
    family, index, handle, parent = struct.unpack_from("=BxxxiII", request.payload)
    assert (family, index, handle, parent) == (0, 7, 0x10000, 0xFFFFFFFF)
    found = dict(attrs(request.payload, 20))
    assert bytes(found[1]) == b"tbf\0"
    options = dict(attrs(found[2]))
    assert len(options[1]) == 36  # struct tc_tbf_qopt
    wide = struct.unpack("=Q", options[4])[0] if 4 in options else 0
    narrow = struct.unpack_from("=I", options[1], 8)[0]
    assert (wide or narrow) == rate // 8
    assert not wide or narrow == 0xFFFFFFFF


def test_a_limit_is_an_object_and_an_element_of_the_map() -> None:
    limit, element = rates.add_limit("tapstern0", 100 * MBIT).splitlines()
    assert limit.startswith("add limit bridge tapster tapstern0 { rate over 12500000 b")
    assert element.endswith('egress_limits { tapstern0 : "tapstern0" }')
    # An object in use cannot be deleted: the element goes first.
    deleted = rates.delete_limit("tapstern0").splitlines()
    assert [line.split()[1] for line in deleted] == ["element", "limit"]


def test_changing_a_limit_touches_only_what_differs() -> None:
    added, deleted = rates.add_limit("x", MBIT), rates.delete_limit("x")
    assert rates.change_limit("x", 0, 0) == ""
    assert rates.change_limit("x", MBIT, MBIT) == ""
    assert rates.change_limit("x", 0, MBIT) == added
    assert rates.change_limit("x", MBIT, 0) == deleted
    assert rates.change_limit("x", GBIT, MBIT) == deleted + added


def test_the_bridge_table_has_the_map_and_looks_into_it() -> None:
    text = ruleset.tables()
    assert "map egress_limits { type ifname : limit; }" in text
    assert "limit name iifname map @egress_limits drop" in text
