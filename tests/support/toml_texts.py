# SPDX-License-Identifier: LGPL-2.1-or-later
"""Texts of TOML, of which many are nearly a configuration."""

from __future__ import annotations

from hypothesis import strategies as st

from tapster.policy.config.network_file import CONVERT
from tapster.policy.config.rule_file import converters
from tapster.policy.config.values import NSS

WORDS = """
nat isolated bridge ovn user shared br0 10.1.2.0/24 10.1.2.3/24 none fe80::/64
fd00::/64 lab.internal 9.9.9.9 fd00::9 any internet tcp/22 udp/5-3 100mbit
1.0000000001gbit tcp/80$web:80 lease 02:00:00:00:00:01 52:54:00:* alice kvm
allow deny polkit * default lan
"""
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["C"]))
QUOTED = TEXTS.map(lambda s: "'" + s.replace("'", "") + "'")
TRIPLE = st.text("a\n#[]{}=,.'\\", max_size=8).map(
    lambda s: '"""' + s.replace("\\", "\\\\") + '"""'
)
SCALARS = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.booleans().map(lambda b: str(b).lower()),
    st.just("0x" + "f" * 5000),  # more than Python writes
    st.just("1979-05-27T07:32:00Z"),
    QUOTED,
    TRIPLE,
    st.sampled_from(WORDS.split()).map(lambda word: repr(word.replace("$", " "))),
)
KEYS = st.sampled_from(
    [
        *CONVERT,
        *converters(NSS),
        *("reservations", "web", "ipv4", "ipv6", "mac", "user", "ingress"),
        *("bridge_conf", "idle_seconds", "default_bridge_names", "connections"),
        *("zzz", "'it is'", '"a\\"b"', "''"),
    ]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda v: f"[{', '.join(v)}]")
        | st.dictionaries(KEYS, inner, max_size=3).map(
            lambda v: "{" + ", ".join(f"{k} = {x}" for k, x in v.items()) + "}"
        )
    ),
    max_leaves=4,
)
HEADERS = st.sampled_from(
    [
        *("[authorization]", "[broker]", "[limits]", "[zzz]", "[networks]"),
        *("[networks.default]", "[networks.lan]", "[ networks . 'lab' ]"),
        *("[networks.lan.reservations]", "[networks.lan.rate]", "[rules]"),
        *("[[rules]]", "[[rules]]", "[[networks.lan]]", "[rules.macs]"),
    ]
)
LINES = st.one_of(
    HEADERS,
    st.tuples(KEYS, VALUES).map(" = ".join),
    st.tuples(KEYS, KEYS, VALUES).map(lambda t: f"{t[0]}.{t[1]} = {t[2]}"),
    st.just("# = ["),
)
# A table and some of its keys: what gets past the first line more often.
TABLES = st.tuples(HEADERS, st.dictionaries(KEYS, VALUES, max_size=4)).map(
    lambda t: "\n".join([t[0], *(f"{k} = {v}" for k, v in t[1].items())])
)
