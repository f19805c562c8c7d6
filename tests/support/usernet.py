# SPDX-License-Identifier: LGPL-2.1-or-later
"""People, and lines about them, for tests of lxc-usernet."""

from __future__ import annotations

import os

from hypothesis import strategies as st

from tapster.model import Peer
from tapster.policy.config.values import Names
from tapster.policy.foreign.lxc_usernet_lines import parse

# alice is in g by what a process inherits, and in her own group by her gid.
UIDS = {"alice": 1001, "toor": 1001, "bob": 1002}
GIDS = {"alice": 1001, "g": 3001, "h": 3002, "other": 3003}
FAKE = Names(UIDS.__getitem__, GIDS.__getitem__)
ALICE = Peer(1001, 1001, frozenset({3001, 3002}), 1)


def numbers(data: bytes) -> dict[bytes, int | None]:
    """The uid or gid of each name in a text; None for nobody's."""
    found: dict[bytes, int | None] = {}
    for line in parse(data):
        name = os.fsdecode(line.name)
        table = GIDS if name.startswith("@") else UIDS
        found[line.name] = table.get(name.removeprefix("@"))
    return found


# Parts of lines, and texts of which many are nearly lines.
PIECES = st.sampled_from(
    [
        *(b"alice", b"@g", b"tap", b"tap", b"veth", b"br0", b"3", b"-2", b"+7", b"0x1"),
        *(b" ", b" ", b" ", b"\t", b"\v", b"\r", b"\f", b"\0", b"#", b"\xff"),
        *(b"x" * 98, b"x" * 99, b"x" * 100, b"2147483647", b"-2147483648", b"4.5"),
    ]
)
TEXTS = st.one_of(
    st.lists(PIECES, max_size=12).map(b"".join),
    st.tuples(PIECES, PIECES, PIECES, PIECES).map(b" ".join),
    st.integers(-(2**31), 2**31 - 1).map(lambda n: b"alice tap br0 %d" % n),
    st.binary(max_size=60).map(lambda b: b"alice tap " + b),
)
