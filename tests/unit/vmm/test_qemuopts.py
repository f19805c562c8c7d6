# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.vmm.qemuopts`: properties are read as QEMU does, and kept to the letter."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapster.vmm.net_option import Grant
from tapster.vmm.qemu import parse
from tapster.vmm.qemuopts import Props, escape


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("tap,a=1,a=2", "a", "2"),
        ("tap,id=1,id=2", "id", "1"),
        ("tap", "type", "tap"),
        ("a=1,tap", "type", None),
        ("tap,on", "on", "on"),
        ("tap,noon", "on", "off"),
        ("tap,a=x,,y=z,b=1", "a", "x,y=z"),
        ("a,,b", "type", "a,b"),
        ('{"type":"tap"}', "type", '{"type":"tap"}'),  # JSON only where QEMU takes it
        ("", "type", None),
    ],
)
def test_a_property_has_the_value_that_qemu_takes(
    text: str, key: str, value: str | None
) -> None:
    assert Props(text, "type").get(key) == value


@pytest.mark.parametrize("text", ["{", '{"a":1,"a":2}', '{"a":' + "[" * 100_000])
def test_json_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Props(text, "type", json=True)


def test_what_is_put_around_replaces_what_the_user_wrote() -> None:
    for text, expected in {
        "user,id=n,br=b,x=,,,y": "tap,fd=3,id=n,x=,,,y,mac=A",
        "type=user": "tap,fd=3,mac=A",
    }.items():
        props = Props(text, "type")
        first = {"type": "tap", "fd": "3"}
        assert props.text(first, ("br",), {"mac": "A"}) == expected


pieces = st.tuples(st.text("abé", min_size=1), st.text("a=,{} é").map(escape))


@given(st.lists(pieces.map("=".join) | st.text("abé{", min_size=1)).map(",".join))
def test_untouched_properties_are_kept_to_the_letter(text: str) -> None:
    assert Props(text, "type").text() == text


property_text = st.text(alphabet="ab=,{} é", max_size=8)


@given(property_text)
def test_escaped_values_are_read_back(value: str) -> None:
    argv = ["qemu", "-nic", f"bridge,x={escape(value)},br={escape(value)}"]
    assert parse(argv).requests[0].bridge == value
    assert parse(argv).with_taps([Grant(3, "M")])[-1] == (
        f"tap,fd=3,x={escape(value)},mac=M"
    )


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=5) | st.integers()))
def test_json_keeps_what_it_does_not_know(more: dict[str, str | int]) -> None:
    ours = {"type": "bridge", "id": "n", "br": "b"}
    known = {*ours, "helper", "fd", "fds", "vlan", "model", "help"}
    more = {key: value for key, value in more.items() if key not in known}
    command = parse(["qemu", "-netdev", json.dumps({**more, **ours})])
    assert command.requests[0].bridge == "b"
    assert json.loads(command.with_taps([Grant(3, "M")])[-1]) == {
        "type": "tap",
        "fd": "3",
        "id": "n",
        **more,
    }
