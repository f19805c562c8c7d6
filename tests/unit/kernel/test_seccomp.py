# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.kernel.seccomp`: names of calls, and mistakes in lists. What a filter
decides is in tests/unit/daemon/process/test_syscalls.py."""

from __future__ import annotations

import pytest

from support.bpf import ARCHITECTURES
from tapster.kernel import seccomp
from tapster.kernel.seccomp import ALLOW


@pytest.fixture(params=ARCHITECTURES)
def names(request: pytest.FixtureRequest) -> seccomp.Names:
    return seccomp.Names(request.param)


def test_architecture_tokens_are_the_kernel_s(names: seccomp.Names) -> None:
    assert names.token in ARCHITECTURES.values()
    assert names("execve") == {0xC000003E: 59, 0xC00000B7: 221}[names.token]


def test_two_rules_for_a_call_are_found_when_the_filter_is_made() -> None:
    rules = [seccomp.Rule(("read",), ALLOW), seccomp.Rule(("read",), 0)]
    with pytest.raises(ValueError, match="two rules for read"):
        seccomp.program(rules, 0, 1, lambda _: 0)


def test_more_cases_than_a_jump_reaches_are_found_when_the_filter_is_made() -> None:
    cases = tuple(
        seccomp.Case(ALLOW, (seccomp.Condition(0, 1, n),)) for n in range(100)
    )
    with pytest.raises(ValueError, match="too many cases"):
        seccomp.program([seccomp.Rule(("x",), 0, cases)], 0, 1, lambda _: 0)


def test_an_unknown_architecture_is_an_error() -> None:
    with pytest.raises(OSError, match="no such architecture"):
        seccomp.Names("z80")
