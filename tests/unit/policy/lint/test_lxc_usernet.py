# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is said of an lxc-usernet file."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from support.linting import HOST
from tapster.policy.lint.lxc_usernet import lint_usernet


def test_each_odd_line_is_told_with_its_number() -> None:
    text = (
        b"alice tap br0 4\n"
        b"@kvm veth br9 4\n"  # is LXC's own business
        b"eve tap br0 4\n"
        b"@nobody tap br0 4\n"
        b"@ghosts tap br1 4\n"
        b" alice tap br0 4\n"
        b"al tap br0 2\n"
        b"alice tap br7 0\n"
        b"alice tap eth0 3 # why\n"
        b"alice tap br1 3x\n"
    )
    found = [
        f"{f.location}: {f.severity}: {f.message}"
        for f in lint_usernet("/u", text, HOST)
    ]
    assert found == [
        "/u:3: warning: there is no user 'eve'",
        "/u:4: warning: there is no group 'nobody'",
        "/u:5: warning: nobody is in group 'ghosts'",
        "/u:6: warning: space before the name: it counts for nothing",
        "/u:7: warning: not the first line for 'al': the highest number counts",
        "/u:8: note: it grants nothing",
        "/u:8: note: there is no Linux bridge 'br7' on this host",
        "/u:9: warning: 'eth0' is not a Linux bridge",
        "/u:10: warning: the number is taken for 3",
    ]


@given(st.binary(max_size=200))
def test_any_bytes_give_findings_with_lines(data: bytes) -> None:
    for finding in lint_usernet("/u", data + b" tap br0 1\nalice tap " + data, HOST):
        assert finding.line is not None
