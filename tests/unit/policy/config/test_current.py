# SPDX-License-Identifier: LGPL-2.1-or-later
"""`policy.config.current`: one configuration holds, for everybody."""

from __future__ import annotations

from tapster.policy.config.current import CurrentConfig
from tapster.policy.config.load import Config


def test_whoever_holds_it_goes_by_the_configuration_that_was_read_last() -> None:
    first, second = Config(), Config(problem="it is wrong")
    current = CurrentConfig(first)
    assert current.value is first
    current.replace(second)
    assert current.value is second
