# SPDX-License-Identifier: LGPL-2.1-or-later
"""Killed at random while three users attach, detach, forward and leave; a few
rounds of what `make crash` does for long."""

from __future__ import annotations

from lab import Lab
from support.storm import Storm


def test_what_is_held_is_what_is_there(lab: Lab) -> None:
    storm = Storm(lab, 20260101)
    try:
        storm.run(15)
    finally:
        storm.close()
    assert storm.found == [], "\n".join(storm.found)
    assert storm.counts["guests checked"] > 15
