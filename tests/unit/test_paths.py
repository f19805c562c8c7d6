# SPDX-License-Identifier: LGPL-2.1-or-later
"""`tapster.paths`: where a broker's directory is, and whether it is private."""

from __future__ import annotations

import os

import pytest

from tapster import errors, paths


def test_runtime_directory_is_that_of_the_environment_or_the_users(
    runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert paths.runtime_directory() == runtime
    for unusable in ("relative/path", ""):
        monkeypatch.setenv("XDG_RUNTIME_DIR", unusable)
        monkeypatch.setattr(os, "geteuid", lambda: 4_000_000_001)
        assert paths.runtime_directory() == "/tmp/tapster-4000000001"


@pytest.mark.parametrize("mode", [0o777, 0o720, 0o702])
def test_directory_that_others_may_write_is_not_private(
    runtime: str, mode: int
) -> None:
    os.mkdir(f"{runtime}/tapster")
    os.chmod(f"{runtime}/tapster", mode)
    with pytest.raises(errors.BrokerUnavailable, match="not a private directory"):
        paths.is_private(f"{runtime}/tapster", 0o022)


def test_file_is_no_private_directory(runtime: str) -> None:
    os.mkdir(f"{runtime}/elsewhere", 0o700)
    os.symlink("elsewhere", f"{runtime}/tapster")
    with pytest.raises(errors.BrokerUnavailable, match="not a private directory"):
        paths.is_private(f"{runtime}/tapster", 0o022)


def test_missing_directory_is_no_error(runtime: str) -> None:
    assert not paths.is_private(f"{runtime}/tapster", 0o022)
    assert paths.is_private(runtime, 0o022)
