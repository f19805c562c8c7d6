# SPDX-License-Identifier: LGPL-2.1-or-later
"""Commands that have commands: each has its own help, and is in the outer one's."""

from __future__ import annotations

from types import ModuleType

import pytest

from support.command import tapster
from tapster.cli import forward, network, policy

OUTER: dict[str, ModuleType] = {
    "forward": forward,
    "network": network,
    "policy": policy,
}


@pytest.mark.parametrize(
    ("outer", "inner"),
    [(name, inner) for name, module in OUTER.items() for inner in module.SUMMARIES],
)
def test_inner_command_has_its_help_and_is_in_the_outer_one(
    outer: str, inner: str
) -> None:
    done = tapster(outer, inner, "--help", broker=None)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: tapster {outer} {inner} ")
    assert "\nexamples:\n" in done.stdout
    assert f"\n    {inner}" in tapster(outer, "--help", broker=None).stdout
