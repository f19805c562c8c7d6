# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.kernel.libc`: a call that fails raises what the C library said."""

from __future__ import annotations

import errno
import os

import pytest

from tapster.kernel import libc


def test_call_returns_what_the_function_returned() -> None:
    assert libc.call("getpid") == os.getpid()


def test_call_that_fails_raises_its_errno_and_names_the_function() -> None:
    with pytest.raises(OSError, match="close") as caught:
        libc.call("close", -1)
    assert caught.value.errno == errno.EBADF
