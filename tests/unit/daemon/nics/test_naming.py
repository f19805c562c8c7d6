# SPDX-License-Identifier: LGPL-2.1-or-later
"""`nics.naming`: what is unique, and what people read."""

from __future__ import annotations

import pytest

from tapster.daemon.nics import naming


def test_a_bridges_key_is_no_networks_name() -> None:
    key = naming.on_linux_bridge("br0")
    assert key == "bridge:br0"
    assert naming.is_linux_bridge(key)
    assert not naming.is_linux_bridge("bridge")


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("vm1", 1),
        ("vm10", 10),
        *((name, None) for name in ("vm007", "7", "vm", "vm-1", "web")),
    ],
)
def test_only_automatic_names_have_a_number(name: str, number: int | None) -> None:
    assert naming.automatic_number(name) == number


def test_a_number_and_its_name_belong_together() -> None:
    assert naming.automatic_number(naming.automatic_name(12)) == 12


def test_names_for_people_are_cut_to_what_the_kernel_takes() -> None:
    user, guest = "u" * 200, "g" * 63
    assert len(naming.alternative_name("default", user, guest)) == 127
    text = naming.alias("default", "ü" * 200, guest)
    assert len(naming.alias_in_kernel(text).encode()) <= 255 + 2
    assert text.startswith(naming.TAP_ALIAS)
